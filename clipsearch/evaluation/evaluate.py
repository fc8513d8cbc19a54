"""Test an index's model on labeled images, and store the result with the index."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from clipsearch.domain import policy
from clipsearch.domain.calibration import Precision, fit_precision
from clipsearch.domain.gate import GateErrors
from clipsearch.domain.pass_marks import REFUSED, SHARES, least_images, shortfalls
from clipsearch.domain.taxonomy import Domain
from clipsearch.domain.zero_shot import encode_all, fit_logit_scale
from clipsearch.errors import BadLabels, TooFewExamples
from clipsearch.evaluation import labelled
from clipsearch.evaluation.answers import AnswersReport, evaluate_answers
from clipsearch.evaluation.curve import Curve, learning_curve
from clipsearch.evaluation.labelled import (
    CaptionedImages,
    LabelledImages,
    MultiLabelImages,
    TestSet,
)
from clipsearch.evaluation.metrics import (
    Bools,
    Ints,
    Report,
    evaluate_classification,
    evaluate_multi_label,
    evaluate_retrieval,
    to_data,
)
from clipsearch.evaluation.train import without_copies
from clipsearch.indexing.embed import Progress, embeddings_of
from clipsearch.models.load import Encoders
from clipsearch.records import ModelSpec, Tested, Vectors
from clipsearch.storage import collection, evaluations
from clipsearch.storage.catalog import Store
from clipsearch.storage.collection import Collection
from clipsearch.storage.evaluations import Evaluation

_HITS = 10
"""Hits per query that the precision of scores is fitted to: as many as a search shows."""

_FORMS = ("{}", "a photo of a {}")
"""How people query a class. The class's own embedding, an average over prompts, is unsuitable:
its scores are higher than those of any typed query. Only classes with images are queried, since
an image labeled as one thing may well show another too."""

_QUERIES_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Findings:
    """An evaluation and its context, for a report."""

    evaluation: Evaluation
    report: Report
    answers: AnswersReport | None
    """Measurements of the lists that users see. None for captions."""
    model: ModelSpec
    domain: Domain
    gate: GateErrors
    test_set: TestSet
    """The decodable part of the set; the report's rows refer to it."""
    reused: int
    """How many embeddings the index already had."""
    skipped: tuple[tuple[bytes, str], ...]
    """Images that could not be decoded, with the reason."""
    curve: Curve | None = None
    """How well a probe would learn from these labels, if requested."""

    @property
    def tested(self) -> Tested:
        """What the evaluation shows about the model and the domain; nothing for too few images."""
        if self.evaluation.images < least_images(self.domain.pass_marks):
            return "untested"
        return "failed" if self.evaluation.shortfalls else "tested"


def evaluate(
    store: Store,
    test_set: TestSet,
    encoders: Encoders,
    progress: Progress = lambda doing, done, total: None,
    *,
    curve: bool = False,
) -> Findings:
    """Evaluate the model and the domain of ``store``, which is open for writing.

    The result is committed at the end and replaces an earlier one. With too few images to decide
    anything, the index stays unchanged. curve: also measure how well a probe would learn from
    these labels. Raises TooFewExamples if no image can be decoded, or too few for a curve,
    BadLabels for a curve of images without one label each, RefusedByPolicy for a caption, and
    ModelError.
    """
    if curve and not isinstance(test_set, LabelledImages):
        raise BadLabels(
            f"{test_set.source}: a learning curve needs images with one label each",
            hint="Leave out --curve.",
        )
    for caption in test_set.captions if isinstance(test_set, CaptionedImages) else ():
        policy.check(caption)
    collection.calibrate(store, lambda: encoders.text)
    known = Collection(store)
    domain, texts = known.domain, known.texts
    assert texts is not None
    found = embeddings_of(
        test_set.root,
        test_set.paths,
        store.spec,
        store,
        lambda: encoders.both,
        progress,
    )
    if not found.rows:
        raise TooFewExamples(
            f"none of the {len(test_set.paths)} images of {test_set.source} can be decoded",
            hint=f"The first: {found.failed[0][1]}.",
        )
    test_set = test_set.only(found.rows)
    names, classes, scale = domain.class_names, texts.gate.classes, None
    report: Report
    answers = learned = None
    if isinstance(test_set, CaptionedImages):
        captions = encode_all(encoders.text, test_set.captions)
        report = evaluate_retrieval(found.vectors, captions, test_set.images)
        about = np.asarray(test_set.images)
        precision = _precision(captions, about, found.vectors, np.equal)
    else:
        shown = shown_classes(test_set, len(names))
        if isinstance(test_set, LabelledImages):
            report = evaluate_classification(found.vectors, classes, test_set.classes, names)
            scale = fit_logit_scale(found.vectors, classes, test_set.classes)
            if curve:
                learned = _curve(found.vectors, test_set, found.hashes, domain, classes, progress)
        else:
            report = evaluate_multi_label(found.vectors, classes, shown, names)
        answers = evaluate_answers(found.vectors, shown, domain, texts, encoders.text)
        asked = np.flatnonzero(shown.any(axis=0))
        queries = encode_all(
            encoders.text, [form.format(names[c]) for c in asked for form in _FORMS]
        )
        about = np.repeat(asked, len(_FORMS))
        precision = _precision(queries, about, found.vectors, lambda hits, c: shown[hits, c])
    gate = texts.gate.errors()
    refused = {} if gate.refused is None else {REFUSED: gate.refused.value}
    lists = answers.estimates() if answers else {}
    met = {name: estimate.value for name, estimate in lists.items() if name in SHARES}
    measures = {**report.measures(), **met, **refused}
    ids = store.ids()
    evaluation = Evaluation(
        model=store.spec.fingerprint,
        domain=domain.fingerprint,
        test_set=labelled.fingerprint(test_set, domain, found.hashes),
        source=test_set.source,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        report=to_data(report) | ({"answers": answers.to_data()} if answers else {}),
        measures=measures,
        shortfalls=shortfalls(measures, domain.pass_marks),
        precision=precision,
        logit_scale=scale,
        indexed=found.reused,
        collection=len(ids),
        newest=int(ids.max(initial=0)),
    )
    findings = Findings(
        evaluation,
        report,
        answers,
        store.spec,
        domain,
        gate,
        test_set,
        found.reused,
        found.failed,
        learned,
    )
    if findings.tested != "untested":
        evaluations.keep(store, evaluation)
    return findings


def _curve(
    images: Vectors,
    test_set: LabelledImages,
    hashes: Sequence[bytes],
    domain: Domain,
    classes: Vectors,
    progress: Progress,
) -> Curve:
    """The curve of a probe trained on these images: its classes are those that occur."""
    rows, _ = without_copies(test_set.classes, hashes)
    occurring, labels = np.unique([test_set.classes[row] for row in rows], return_inverse=True)
    names = [domain.class_names[c] for c in occurring]
    words = classes[occurring].astype(np.float64)
    return learning_curve(images[rows], labels.tolist(), names, words, progress)


def shown_classes(test_set: LabelledImages | MultiLabelImages, classes: int) -> Bools:
    """Whether each image shows each class: ``(n, classes)``."""
    shown = np.zeros((len(test_set.paths), classes), bool)
    for picture, own in zip(shown, test_set.labels, strict=True):
        picture[list(own)] = True
    return shown


def _precision(
    queries: Vectors, about: Ints, images: Vectors, is_right: Callable[[Ints, Ints], Bools]
) -> Precision | None:
    """How the scores of these queries' hits relate to being right; None if undetermined.

    queries: ``(q, dim)``. about: ``(q,)``, the target of each: a class, or an image. images:
    ``(n, dim)``. is_right: maps rows of ``images`` and targets to whether they match.
    """
    scores, right, groups = [], [], []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        some = slice(start, start + _QUERIES_AT_ONCE)
        similarities = queries[some] @ images.T
        hits = np.argsort(-similarities, axis=1, kind="stable")[:, :_HITS]  # (rows, hits)
        scores.append(np.take_along_axis(similarities, hits, axis=1).ravel())
        right.append(is_right(hits, about[some, np.newaxis]).ravel())
        groups.append(np.repeat(about[some], hits.shape[1]))
    try:
        found = fit_precision(*(np.concatenate(part) for part in (scores, right, groups)))
    except TooFewExamples:
        return None
    return found if found.brier < found.brier_of_base_rate else None
