"""The findings of an evaluation in words, shared by tables, lines and pages."""

from collections.abc import Mapping
from dataclasses import dataclass

from clipsearch.domain.calibration import Precision
from clipsearch.domain.intervals import Estimate
from clipsearch.domain.pass_marks import ABSENT_ANSWERED, IMAGES, MOSTS, REFUSED
from clipsearch.evaluation.answers import Answered
from clipsearch.evaluation.evaluate import Findings
from clipsearch.evaluation.labelled import CaptionedImages, LabelledImages
from clipsearch.evaluation.metrics import (
    ClassificationReport,
    ClassResult,
    MultiLabelReport,
    RetrievalReport,
)
from clipsearch.text import percent


def _recalls(of: str, at_1: float, at_5: float, at_10: float) -> dict[str, float]:
    return {f"{of}_recall_at_{k}": share for k, share in ((1, at_1), (5, at_5), (10, at_10))}


PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "ViT-B-16/laion2b_s34b_b88k": {
        "ImageNet-1k": {"top1": 0.702},
        "Flickr30k": _recalls("image", 0.698, 0.904, 0.946) | _recalls("text", 0.863, 0.979, 0.994),
        "COCO": _recalls("image", 0.423, 0.677, 0.771) | _recalls("text", 0.594, 0.818, 0.888),
    }
}
"""Model -> test set -> measure: its makers' figures (the model card; CLIP_benchmark's tables)."""

MEASURES = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_per_class_recall": "mean per-class recall",
    "mean_average_precision": "mean average precision",
    **{f"image_recall_at_{k}": f"image recall@{k}" for k in (1, 5, 10)},
    **{f"text_recall_at_{k}": f"text recall@{k}" for k in (1, 5, 10)},
    "found": "present classes found",
    ABSENT_ANSWERED: "absent classes answered",
    "absent_strong": "absent classes answered strongly",
    "list_precision": "precision of the list",
    "list_recall": "recall of the list",
    "list_f1": "F1 of the list",
    "best_f1": "F1 of the best cut",
    "share_of_best_f1": "F1 as a share of the best",
    REFUSED: "in-domain queries refused",
    IMAGES: "images",
}
"""Display names of the measures."""


def value(estimate: Estimate | None) -> float | None:
    """The value of an estimate, if there is one."""
    return estimate.value if estimate else None


def interval(estimate: Estimate | None) -> str:
    """A 95% interval: ``61.8 to 79.4``."""
    return "-" if estimate is None else f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


@dataclass(frozen=True, slots=True)
class Mistake:
    """A misclassified image, or a caption that did not find its image."""

    path: bytes
    actual: str
    """Its class, or the caption."""
    given: str
    """The class it was assigned to, or its rank."""


def estimates(findings: Findings) -> dict[str, Estimate]:
    """The measured shares by name, in report order."""
    report = findings.report
    if isinstance(report, ClassificationReport):
        found = {
            "top1": report.top1,
            "top5": report.top5,
            "mean_per_class_recall": report.mean_per_class_recall,
            "mean_average_precision": report.mean_average_precision,
        }
        return {name: estimate for name, estimate in found.items() if estimate is not None}
    if isinstance(report, MultiLabelReport):
        return {"mean_average_precision": report.mean_average_precision}
    of_images = {f"image_recall_at_{k}": e for k, e in report.image_recall.items()}
    return of_images | {f"text_recall_at_{k}": e for k, e in report.text_recall.items()}


def published(findings: Findings) -> dict[str, str]:
    """Measure -> ``ImageNet-1k 70.2%``, for a model with published figures."""
    found: dict[str, list[str]] = {}
    for test_set, figures in PUBLISHED.get(findings.model.label, {}).items():
        for measure, share in figures.items():
            found.setdefault(measure, []).append(f"{test_set} {percent(share)}")
    return {measure: ", ".join(texts) for measure, texts in found.items()}


def mark(findings: Findings, measure: str) -> str:
    """A pass mark for display: ``at least 60.0%``."""
    value = findings.domain.pass_marks.get(measure)
    if value is None:
        return ""
    if measure == IMAGES:
        return f"at least {value:g}"
    return f"at {'most' if measure in MOSTS else 'least'} {percent(value)}"


def worst_classes(report: ClassificationReport) -> list[ClassResult]:
    """The classes with misclassified images, those with the largest share first."""
    lost = [r for r in report.per_class if r.recall is not None and r.recall.value < 1]
    return sorted(lost, key=lambda r: (r.recall.value if r.recall else 1, -r.images))


def worst_answers(findings: Findings) -> list[Answered]:
    """The present classes whose lists are not perfect, lowest F1 first."""
    answered = findings.answers.per_class if findings.answers else ()
    lost = [one for one in answered if one.images and one.f1 < 1]
    return sorted(lost, key=lambda one: (one.f1, -one.images))


def mistakes(findings: Findings) -> list[Mistake]:
    """Images assigned to a wrong class, or captions whose image is not among the first ten.

    Empty for images with several labels, where no single class is right.
    """
    report, test_set = findings.report, findings.test_set
    if isinstance(test_set, CaptionedImages):
        assert isinstance(report, RetrievalReport)
        last = max(report.image_recall)
        return [
            Mistake(
                test_set.paths[test_set.images[n]],
                test_set.captions[n],
                f"place {rank + 1} of {report.images}",
            )
            for n, rank in enumerate(report.image_ranks)
            if rank >= last
        ]
    if not isinstance(test_set, LabelledImages):
        return []
    assert isinstance(report, ClassificationReport)
    names = findings.domain.class_names
    rows = zip(test_set.paths, test_set.classes, report.predicted, strict=True)
    return [Mistake(p, names[actual], names[got]) for p, actual, got in rows if actual != got]


def precision_text(precision: Precision | None) -> str:
    """What the scores say about a hit being right."""
    if precision is None:
        return "precision: too few images, or too similar, to say how often a score is right"
    return (
        f"precision: {precision.method} on {precision.hits} hits, {precision.right} of them right; "
        f"Brier score {precision.brier:.4f} in cross-validation, compared to "
        f"{precision.brier_of_base_rate:.4f} for always predicting the share of right hits"
    )
