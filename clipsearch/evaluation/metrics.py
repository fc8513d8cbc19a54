"""Measure a model on labeled images: zero-shot classification and retrieval.

The definitions follow LAION's CLIP_benchmark, which produced the model card's figures
(its ``metrics/zeroshot_classification.py`` and ``zeroshot_retrieval.py``):

top1, top5              the share of images whose class is first, or among the first five, in
                        the order of similarity
mean_per_class_recall   the mean over the classes that occur of the share of each class's images
                        that were assigned to it (scikit-learn's balanced accuracy)
average precision       of a class: with all images ordered by their similarity to it, the mean
                        over its own images of the precision down to each
                        (the only measure for images with several labels: none of the labels
                        has to come first)
recall@k                1 if at least one right item is among the first k, averaged over queries;
                        a caption has one right image, an image has all its captions

Ties are broken in favor of the earlier item, so that results are the same on every run.
Every measure has a 95% interval (see ``intervals``).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.domain.intervals import (
    Estimate,
    clustered_mean,
    mean_of_influences,
    proportion,
    stratified_mean,
)
from clipsearch.domain.pass_marks import IMAGES
from clipsearch.errors import TooFewExamples
from clipsearch.records import Vectors

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

KS = (1, 5, 10)
"""The ranks at which retrieval is measured."""

_ROWS_AT_ONCE = 1024
"""Rows of a similarity matrix that are in memory at once."""


@dataclass(frozen=True, slots=True)
class ClassResult:
    """The results for one class."""

    name: str
    images: int
    """How many images it has; none for a class that is only a candidate."""
    predicted: int
    """How many images were assigned to it."""
    recall: Estimate | None
    """None if it has no images."""
    precision: Estimate | None
    """None if no image was assigned to it."""
    average_precision: float | None


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often images of one class were assigned to another."""

    actual: str
    predicted: str
    count: int


@dataclass(frozen=True, slots=True)
class ClassificationReport:
    """Results of zero-shot classification."""

    images: int
    classes: int
    """How many candidate classes there were."""
    top1: Estimate
    top5: Estimate | None
    """None if there are fewer than five classes."""
    mean_per_class_recall: Estimate
    mean_average_precision: Estimate
    per_class: tuple[ClassResult, ...]
    """In the order of the domain."""
    confusions: tuple[Confusion, ...]
    """Most frequent first."""
    predicted: tuple[int, ...]
    """The class that each image was assigned to, in the order of the test set."""
    notes: tuple[str, ...] = ()
    """What a reader must know to interpret the figures."""

    def measures(self) -> Mapping[str, float]:
        """The figures that pass marks refer to, by name."""
        values = {
            "top1": self.top1.value,
            "mean_per_class_recall": self.mean_per_class_recall.value,
            "mean_average_precision": self.mean_average_precision.value,
            IMAGES: float(self.images),
        }
        if self.top5 is not None:
            values["top5"] = self.top5.value
        return values


@dataclass(frozen=True, slots=True)
class LabelResult:
    """The results for one class among images with several labels."""

    name: str
    images: int
    average_precision: float | None
    """None if it has no images."""


@dataclass(frozen=True, slots=True)
class MultiLabelReport:
    """Results of zero-shot classification of images with several labels."""

    images: int
    labels: int
    """The total number of labels on the images."""
    classes: int
    """The number of classes in the domain."""
    mean_average_precision: Estimate
    per_class: tuple[LabelResult, ...]
    """In the order of the domain."""
    notes: tuple[str, ...] = ()

    def measures(self) -> Mapping[str, float]:
        """The figures that pass marks refer to, by name."""
        return {
            "mean_average_precision": self.mean_average_precision.value,
            IMAGES: float(self.images),
        }


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """Results of retrieval by captions."""

    images: int
    captions: int
    image_recall: Mapping[int, Estimate]
    """k -> the share of captions whose image is among the first k images."""
    text_recall: Mapping[int, Estimate]
    """k -> the share of images with one of their captions among the first k captions."""
    notes: tuple[str, ...] = ()
    image_ranks: tuple[int, ...] = ()
    """For each caption, in the order of the test set, the rank of its image, from 0."""

    def measures(self) -> Mapping[str, float]:
        """The figures that pass marks refer to, by name."""
        values = {f"image_recall_at_{k}": e.value for k, e in self.image_recall.items()}
        values |= {f"text_recall_at_{k}": e.value for k, e in self.text_recall.items()}
        return values | {IMAGES: float(self.images)}


Report = ClassificationReport | MultiLabelReport | RetrievalReport

# -- classification ----------------------------------------------------------------------------


def evaluate_classification(
    images: Vectors, classes: Vectors, labels: Sequence[int], names: Sequence[str]
) -> ClassificationReport:
    """Measure zero-shot classification.

    images: ``(n, dim)``. classes: ``(classes, dim)``, from ``zero_shot.class_embeddings``.
    labels: the class of each image. names: of the classes.
    Raises TooFewExamples if there are no images.
    """
    if not len(images):
        raise TooFewExamples("there are no images to evaluate on")
    actual = np.asarray(labels, np.int64)
    scores = images @ classes.T  # (n, classes)
    ranks = _ranks(scores, actual)
    predicted = scores.argmax(axis=1)
    precisions, influences = _precisions(scores, actual)
    right = predicted == actual
    n_of = np.bincount(actual, minlength=len(names))
    given = np.bincount(predicted, minlength=len(names))
    hits = np.bincount(actual[right], minlength=len(names))
    average = np.bincount(actual, precisions, minlength=len(names)) / np.maximum(n_of, 1)
    per_class = tuple(
        ClassResult(
            name=names[c],
            images=int(n_of[c]),
            predicted=int(given[c]),
            recall=proportion(int(hits[c]), int(n_of[c])) if n_of[c] else None,
            precision=proportion(int(hits[c]), int(given[c])) if given[c] else None,
            average_precision=float(average[c]) if n_of[c] else None,
        )
        for c in range(len(names))
    )
    return ClassificationReport(
        images=len(images),
        classes=len(names),
        top1=proportion(int((ranks < 1).sum()), len(images)),
        top5=proportion(int((ranks < 5).sum()), len(images)) if len(names) >= 5 else None,
        mean_per_class_recall=stratified_mean(right, actual),
        mean_average_precision=stratified_mean(precisions, actual, influences),
        per_class=per_class,
        confusions=_confusions(actual, predicted, names),
        predicted=tuple(int(c) for c in predicted),
        notes=_notes(n_of),
    )


def _ranks(scores: Vectors, actual: Ints) -> Ints:
    """For each row of ``(n, classes)``, the rank of its own class, from 0."""
    own = scores[np.arange(len(scores)), actual][:, np.newaxis]
    earlier = np.arange(scores.shape[1]) < actual[:, np.newaxis]
    ranks: Ints = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return ranks


def _precisions(scores: Vectors, actual: Ints) -> tuple[Floats, Floats]:
    """For each image, the precision down to it, alone and combined with its effect on the others'.

    The precision is the share of a class's own images among those ranked no later than this
    one, in the ranking of all images by their similarity to its class; the mean over a class's
    images is its average precision. An image also raises or lowers the precision of those
    behind it, in every class's ranking: d(tp / rank) is (1 - precision) / rank for an image of the
    class and -precision / rank for any other. Without this term, intervals of the mean average
    precision would be a third too narrow.
    """
    precisions = np.zeros(len(actual))
    effects = np.zeros(len(actual))
    for c in np.unique(actual):
        own = actual == c
        of_class, on_others = _precisions_in(scores[:, c], own)
        precisions[own] = of_class[own]
        effects += on_others
    return precisions, precisions + np.bincount(actual)[actual] * effects


def _precisions_in(scores: Vectors, own: Bools) -> tuple[Floats, Floats]:
    """For each image of one ranking, the precision down to it, and its effect on the mean.

    scores: ``(n,)``. own: ``(n,)``, whether an image is of the class. Both ``(n,)``; the
    precision of an image that is not of the class is irrelevant.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = own[order]
    ranks = np.arange(1, len(order) + 1)
    precision = ranked.cumsum() / ranks
    gain = np.where(ranked, (1 - precision) / ranks, 0.0)
    loss = np.where(ranked, precision / ranks, 0.0)
    gain, loss = gain[::-1].cumsum()[::-1], loss[::-1].cumsum()[::-1]  # from here to the end
    precisions, effects = np.empty(len(order)), np.empty(len(order))
    precisions[order] = precision
    effects[order] = np.where(ranked, gain, -loss) / own.sum()
    return precisions, effects


def evaluate_multi_label(
    images: Vectors, classes: Vectors, shown: Bools, names: Sequence[str]
) -> MultiLabelReport:
    """Measure zero-shot classification of images that show several classes.

    images: ``(n, dim)``. classes: ``(classes, dim)``. shown: ``(n, classes)``, whether an image
    shows a class. names: of the classes. The mean is over the classes that occur. Its variance
    comes from the images' influences on it (the infinitesimal jackknife; Efron 1982, chapter 6).
    Raises TooFewExamples if no image shows anything.
    """
    n_of = shown.sum(axis=0)
    occurring = np.flatnonzero(n_of)
    if not len(occurring):
        raise TooFewExamples("there are no images to evaluate on")
    scores = images @ classes.T  # (n, classes)
    averages: dict[int, float] = {}
    influences = np.zeros(len(images))
    for c in occurring.tolist():
        own = shown[:, c]
        precisions, effects = _precisions_in(scores[:, c], own)
        averages[c] = float(precisions[own].mean())
        influences += effects + np.where(own, precisions - averages[c], 0.0) / n_of[c]
    influences /= len(occurring)
    return MultiLabelReport(
        images=len(images),
        labels=int(n_of.sum()),
        classes=len(names),
        mean_average_precision=mean_of_influences(float(np.mean([*averages.values()])), influences),
        per_class=tuple(
            LabelResult(name, int(n_of[c]), averages.get(c)) for c, name in enumerate(names)
        ),
        notes=_notes(n_of),
    )


def _confusions(actual: Ints, predicted: Ints, names: Sequence[str]) -> tuple[Confusion, ...]:
    wrong = actual != predicted
    pairs, counts = np.unique(
        np.stack([actual[wrong], predicted[wrong]], axis=1), axis=0, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    return tuple(Confusion(names[pairs[i, 0]], names[pairs[i, 1]], int(counts[i])) for i in order)


def _notes(n_of: Ints) -> tuple[str, ...]:
    occurring = int((n_of > 0).sum())
    single = int((n_of == 1).sum())
    notes = []
    if occurring < len(n_of):
        notes.append(
            f"{len(n_of) - occurring} of {len(n_of)} classes have no image in this test set: "
            "they are not measured, but images may be assigned to them"
        )
    if single:
        notes.append(
            f"{single} of {occurring} classes have a single image: their own figures mean "
            "little, and they widen the intervals of the means"
        )
    return tuple(notes)


# -- retrieval ---------------------------------------------------------------------------------


def evaluate_retrieval(
    images: Vectors, captions: Vectors, image_of: Sequence[int], ks: Sequence[int] = KS
) -> RetrievalReport:
    """Measure retrieval in both directions.

    images: ``(n, dim)``. captions: ``(m, dim)``. image_of: for each caption the row of its
    image; every image has at least one. Raises TooFewExamples if there is nothing to rank.
    """
    owner = np.asarray(image_of, np.int64)
    if not len(images) or not len(captions):
        raise TooFewExamples("there are no captioned images to evaluate on")
    if len(np.unique(owner)) != len(images):
        raise ValueError("an image without a caption")
    starts = range(0, len(captions), _ROWS_AT_ONCE)
    blocks = [slice(start, start + _ROWS_AT_ONCE) for start in starts]
    image_ranks = np.concatenate([_ranks(captions[b] @ images.T, owner[b]) for b in blocks])
    text_ranks = _best_caption_ranks(images, captions, owner)
    notes = [
        f"there are fewer than {k} {what} to rank, so their recall@{k} is meaningless"
        for what, count in (("images", len(images)), ("captions", len(captions)))
        for k in ks
        if count <= k
    ]
    return RetrievalReport(
        images=len(images),
        captions=len(captions),
        image_recall={k: clustered_mean(image_ranks < k, owner) for k in ks},
        text_recall={k: proportion(int((text_ranks < k).sum()), len(images)) for k in ks},
        image_ranks=tuple(int(rank) for rank in image_ranks),
        notes=tuple(notes),
    )


def _best_caption_ranks(images: Vectors, captions: Vectors, owner: Ints) -> Ints:
    """For each image, the rank of the first of its own captions, from 0."""
    position = np.arange(len(captions))
    ranks = np.empty(len(images), np.int64)
    for start in range(0, len(images), _ROWS_AT_ONCE):
        scores = images[start : start + _ROWS_AT_ONCE] @ captions.T  # (rows, m)
        rows = np.arange(start, start + len(scores))[:, np.newaxis]
        own = np.where(owner == rows, scores, -np.inf)
        best = own.max(axis=1, keepdims=True)
        first = own.argmax(axis=1)[:, np.newaxis]
        ahead = (scores > best) | ((scores == best) & (position < first))
        ranks[start : start + len(scores)] = ahead.sum(axis=1)
    return ranks


# -- JSON --------------------------------------------------------------------------------------


_KINDS: Mapping[type, str] = {
    ClassificationReport: "classification",
    MultiLabelReport: "multi-label classification",
    RetrievalReport: "retrieval",
}


def to_data(report: Report) -> dict[str, Any]:
    """A report as JSON data, to be stored with an index and read by programs."""
    data: dict[str, Any] = json.loads(json.dumps({"kind": _KINDS[type(report)], **asdict(report)}))
    return data
