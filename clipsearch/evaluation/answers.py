"""What users see: query every class of the domain by name, answered as by ``search``.

The labeled images are the collection. A user who searches a folder of them sees these lists, with
default settings and at full length, since ``-k`` only limits how many are shown at a time. So
nothing here depends on the unlabeled images of an index.

For a class with images, the list is compared with them: precision (0 for an empty list), recall
and F1, and the best F1 of any cut of the same ranking. For a class without images, a list is
a false answer. Classes stand for the queries that people type, so intervals are over classes: they
show how the figures would vary with other classes like these.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.domain import cut
from clipsearch.domain.intervals import Estimate, clustered_mean, proportion, ratio_of_means
from clipsearch.domain.pass_marks import ABSENT_ANSWERED
from clipsearch.domain.taxonomy import Domain
from clipsearch.domain.verdict import strength, top_scores, verdict
from clipsearch.domain.zero_shot import encode_all
from clipsearch.evaluation.metrics import Bools, Floats
from clipsearch.records import TextEncoder, Vectors, Verdict
from clipsearch.storage.calibration import background_of
from clipsearch.storage.texts import Texts

QUERY = "a {}"
"""The query for a class."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer for one class."""

    name: str
    images: int
    """How many images show it; 0 for an absent class."""
    verdict: Verdict
    shown: int
    """The length of the list."""
    right: int
    """How many images in the list show the class."""
    best_f1: float
    """The best F1 of any cut of the same ranking; 0 for an absent class."""

    @property
    def precision(self) -> float:
        """The share of the list that shows the class; 0 for an empty list."""
        return self.right / self.shown if self.shown else 0.0

    @property
    def recall(self) -> float:
        """The share of the class's images in the list; 0 for an absent class."""
        return self.right / self.images if self.images else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall: 2 right / (shown + images)."""
        return 2 * self.right / max(self.shown + self.images, 1)


@dataclass(frozen=True, slots=True)
class AnswersReport:
    """Measurements of the lists that users see."""

    found: Estimate
    """The share of present classes that are answered with at least one hit, right or wrong."""
    absent_answered: Estimate | None
    """The share of absent classes that are answered with hits. None if all are present."""
    absent_strong: Estimate | None
    """The share of absent classes that get a strong match. None if all classes are present."""
    list_precision: Estimate
    """Means over the present classes."""
    list_recall: Estimate
    list_f1: Estimate
    best_f1: Estimate
    """The mean F1 of the best cut of each ranking."""
    share_of_best_f1: Estimate
    """``list_f1`` as a share of ``best_f1``."""
    per_class: tuple[Answered, ...]
    """In the order of the domain."""

    def estimates(self) -> dict[str, Estimate]:
        """The figures by name, in report order; those that were not measured are left out."""
        found = {
            "found": self.found,
            ABSENT_ANSWERED: self.absent_answered,
            "absent_strong": self.absent_strong,
            "list_precision": self.list_precision,
            "list_recall": self.list_recall,
            "list_f1": self.list_f1,
            "best_f1": self.best_f1,
            "share_of_best_f1": self.share_of_best_f1,
        }
        return {name: estimate for name, estimate in found.items() if estimate is not None}

    def to_data(self) -> dict[str, Any]:
        """The report as JSON data."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data


def evaluate_answers(
    images: Vectors, shown: Bools, domain: Domain, texts: Texts, encoder: TextEncoder
) -> AnswersReport:
    """Query every class of ``domain``, and compare the answers with what the images show.

    images: ``(n, dim)``, at least one. shown: ``(n, classes)``, whether an image shows a class;
    every image shows at least one. texts: the domain's, embedded.
    """
    queries = [QUERY.format(name) for name in domain.class_names]
    vectors = encode_all(encoder, queries)
    halves = images.astype(np.float16)  # as an index stores them
    scores = (vectors @ halves.astype(np.float32).T).astype(np.float64)  # (classes, n)
    verdicts = _verdicts(queries, vectors, halves, domain, texts)
    unrelated = float((texts.background.mean(axis=0) @ halves.astype(np.float32).T).mean())
    per_class = tuple(
        _answered(name, scores[c], shown[:, c], verdicts[c], unrelated)
        for c, name in enumerate(domain.class_names)
    )
    return summarized(per_class)


def _verdicts(
    queries: Sequence[str],
    vectors: Vectors,
    images: npt.NDArray[np.float16],
    domain: Domain,
    texts: Texts,
) -> list[Verdict]:
    """The verdict on each query ``(q, dim)`` over ``images`` ``(n, dim)``; no match if refused."""
    background = background_of(domain, texts, [images])
    centered = vectors - texts.background.mean(axis=0)
    strengths = strength(top_scores(centered, [images]))
    return [
        verdict(background.rate(float(reached), len(query.split())))
        if texts.gate.judge(query, vector).inside
        else "none"
        for query, vector, reached in zip(queries, vectors, strengths, strict=True)
    ]


def _answered(name: str, scores: Floats, shown: Bools, said: Verdict, unrelated: float) -> Answered:
    order = np.argsort(-scores, kind="stable")
    right = shown[order].cumsum()
    total = int(right[-1])
    f1 = 2 * right / (np.arange(1, len(right) + 1) + total)
    length = cut.length(scores[order], float(scores.mean()), unrelated) if said != "none" else 0
    return Answered(
        name=name,
        images=total,
        verdict=said,
        shown=length,
        right=int(right[length - 1]) if length else 0,
        best_f1=float(f1.max()) if total else 0.0,
    )


def summarized(per_class: Sequence[Answered]) -> AnswersReport:
    """Summarize the answers for classes, at least one of which is present."""
    present = [one for one in per_class if one.images]
    absent = [one for one in per_class if not one.images]
    best = [one.best_f1 for one in present]
    return AnswersReport(
        found=proportion(sum(one.shown > 0 for one in present), len(present)),
        absent_answered=_share([one.shown > 0 for one in absent]),
        absent_strong=_share([one.verdict == "strong" for one in absent]),
        list_precision=_mean([one.precision for one in present]),
        list_recall=_mean([one.recall for one in present]),
        list_f1=_mean([one.f1 for one in present]),
        best_f1=_mean(best),
        share_of_best_f1=ratio_of_means([one.f1 for one in present], best),
        per_class=tuple(per_class),
    )


def _share(answers: Sequence[bool]) -> Estimate | None:
    return proportion(sum(answers), len(answers)) if answers else None


def _mean(values: Sequence[float]) -> Estimate:
    return clustered_mean(values, np.arange(len(values)))
