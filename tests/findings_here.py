"""What an evaluation found, of images and classes with names that nobody should give them."""

import numpy as np
from fakes import fake_spec

from clipsearch.domain.gate import GateErrors
from clipsearch.domain.intervals import proportion
from clipsearch.domain.pass_marks import Shortfall
from clipsearch.domain.taxonomy import Domain, DomainClass
from clipsearch.evaluation.evaluate import Findings
from clipsearch.evaluation.labelled import LabelledImages
from clipsearch.evaluation.metrics import evaluate_classification, to_data
from clipsearch.storage.evaluations import Evaluation
from clipsearch.vectors import l2_normalise

PATHS = [
    b"right.png",
    b'"><script>alert(1)</script>.png',
    b"<img src=x onerror=alert(1)>.png",
    b"' onmouseover='alert(1)'.png",
    b"right too.png",
    b"\xff\xfe\n.png",
    "\u202egnp.exe.png".encode(),
]

NAMES = ["cat", "</style><b>dog</b>", "a & b", 'quoted "name"', "never seen"]


def make_findings() -> Findings:
    """Seven images with hostile names, five of them got wrong."""
    classes = np.eye(5, dtype=np.float32)
    actual, given = [0, 0, 1, 1, 2, 3, 3], [0, 1, 0, 0, 2, 2, 4]
    images = l2_normalise(classes[given] + 0.5 * classes[actual])
    report = evaluate_classification(images, classes, actual, NAMES)
    domain = Domain(
        name="<i>mine</i>",
        description="",
        language="en",
        templates=("{}",),
        classes=tuple(DomainClass(name) for name in NAMES),
        pass_marks={"top1": 0.6, "images": 5},
    )
    missed = (Shortfall("top1", report.top1.value, 0.6),)
    return Findings(
        evaluation=Evaluation(
            model="m" * 64,
            domain="d" * 64,
            test_set="t" * 64,
            source="<script>set</script>",
            made_at="2026-11-23T13:00:00+00:00",
            report=to_data(report),
            measures=report.measures(),
            shortfalls=missed,
            precision=None,
        ),
        report=report,
        answers=None,
        model=fake_spec(),
        domain=domain,
        gate=GateErrors(10, 10, 4, proportion(1, 10), None, proportion(3, 10)),
        test_set=LabelledImages("set", b"/set", tuple(PATHS), tuple(actual)),
        reused=0,
        skipped=((b"<u>broken</u>.jpg", "damaged <image>"),),
    )
