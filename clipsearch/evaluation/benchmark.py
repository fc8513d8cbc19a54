"""Measure a model on a CLIP_benchmark set, the way CLIP_benchmark does.

The set has its own class names and templates, so no domain or index is involved, and nothing is
stored. The measures are those of ``metrics``, under CLIP_benchmark's names; on the same
embeddings they match its version 1.6.2 to within 1e-6. Like CLIP_benchmark, its mean average
precision counts a class without images as 0.

The linear probe is trained on the train split and measured on the test split. CLIP_benchmark fits
it with AdamW for some epochs, so its result depends on a learning rate and a seed. Here it is the
CLIP paper's logistic regression, fitted exactly (see ``logistic``). The penalty is chosen by
cross-validation on the train split; CLIP_benchmark uses a validation split or no penalty.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clipsearch.domain import policy
from clipsearch.domain.intervals import Estimate
from clipsearch.domain.taxonomy import Domain, DomainClass
from clipsearch.domain.zero_shot import class_embeddings, encode_all
from clipsearch.errors import BadLabels, TooFewExamples
from clipsearch.evaluation import logistic
from clipsearch.evaluation.clip_benchmark import Benchmark, Split, read_split
from clipsearch.evaluation.evaluate import shown_classes
from clipsearch.evaluation.labelled import CaptionedImages, LabelledImages
from clipsearch.evaluation.metrics import (
    ClassificationReport,
    MultiLabelReport,
    Report,
    RetrievalReport,
    evaluate_classification,
    evaluate_multi_label,
    evaluate_retrieval,
)
from clipsearch.evaluation.summary import PUBLISHED, value
from clipsearch.indexing.embed import Embedded, LoadEncoder, Progress, embed_files, reason
from clipsearch.models.load import Encoders
from clipsearch.records import EmbeddedImage, ModelSpec, Vectors
from clipsearch.text import percent

_IMAGENET = ("tench", "goldfish", "great white shark", "tiger shark")
"""The first of the 1,000 class names of ImageNet-1k."""

_IMAGENET_PICTURES = 50_000
"""Images in its test split, the validation set of ILSVRC 2012. ImageNetV2 and ImageNet-Sketch have
the same class names but other images."""


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """A linear probe, measured on the test split."""

    report: ClassificationReport
    images: int
    """How many images of the train split it was trained on."""
    l2: float
    """The strength of the chosen penalty."""
    shared: int
    """How many images of the test split are also in the train split, byte for byte."""


@dataclass(frozen=True, slots=True)
class Benchmarked:
    """The measurements on a benchmark."""

    benchmark: Benchmark
    model: ModelSpec
    report: Report
    probe: LinearProbe | None
    pictures: int
    """How many images the test split has, decodable or not."""
    skipped: tuple[tuple[bytes, str], ...]
    """Members that could not be decoded, with the reason; they do not count."""

    def estimates(self) -> dict[str, Estimate | None]:
        """The figures by CLIP_benchmark's names, with their intervals.

        Top-5 accuracy is None for fewer than five classes, where CLIP_benchmark has nan.
        """
        found: dict[str, Estimate | None]
        if isinstance(self.report, RetrievalReport):
            found = {f"image_retrieval_recall@{k}": e for k, e in self.report.image_recall.items()}
            found |= {f"text_retrieval_recall@{k}": e for k, e in self.report.text_recall.items()}
        elif isinstance(self.report, MultiLabelReport):
            found = {"mean_average_precision": _over_all_classes(self.report)}
        else:
            found = _accuracies(self.report, "")
        return found | (_accuracies(self.probe.report, "lp_") if self.probe else {})

    def figures(self) -> dict[str, float | None]:
        """The figures by CLIP_benchmark's names, from 0 to 1."""
        return {name: value(e) for name, e in self.estimates().items()}

    def notes(self) -> list[str]:
        """What a reader must know to interpret the figures."""
        notes = list(self.report.notes)
        if self.skipped:
            notes.append(
                f"{len(self.skipped)} images could not be decoded and do not count, so the "
                "figures are not comparable to those for the whole set"
            )
        if self.probe:
            notes.append(
                f"the linear probe is a logistic regression on {self.probe.images} images of the "
                f"train split, fitted exactly, with penalty {self.probe.l2:.3g} chosen by "
                "cross-validation; CLIP_benchmark fits it with AdamW and another penalty"
            )
            if self.probe.shared:
                notes.append(
                    f"{self.probe.shared} images of the test split are also in the train split, "
                    "so the linear probe was trained on them"
                )
        return notes

    def published(self) -> Mapping[str, str]:
        """CLIP_benchmark's name of a figure -> what the model's makers measured, and on what.

        Covers ImageNet-1k, recognized by its class names, and sets of captions, which cannot be
        told apart. Empty for a model without published figures.
        """
        known = PUBLISHED.get(self.model.label, {})
        if isinstance(self.report, RetrievalReport):
            beside: dict[str, list[str]] = {}
            for name, figures in known.items():
                for measure, share in figures.items():
                    of, _, k = measure.partition("_recall_at_")
                    if k:
                        key = f"{of}_retrieval_recall@{k}"
                        beside.setdefault(key, []).append(f"{name} {percent(share)}")
            return {key: ", ".join(texts) for key, texts in beside.items()}
        if "ImageNet-1k" not in known or not is_imagenet(self.benchmark):
            return {}
        said = f"ImageNet-1k {percent(known['ImageNet-1k']['top1'])}"
        return {"acc1": said if self.pictures == _IMAGENET_PICTURES else f"{said}, other images"}


def measure(
    benchmark: Benchmark,
    spec: ModelSpec,
    encoders: Encoders,
    *,
    linear_probe: bool = False,
    progress: Progress = lambda doing, done, total: None,
) -> Benchmarked:
    """Measure the model ``spec`` on the test split, and a linear probe of the train split.

    The pool's processes read images from the archives and decode them, and they are embedded in
    batches: apart from the embeddings, memory does not grow with the set.
    Raises BadLabels and TooFewExamples for the set, RefusedByPolicy for a class name or a template,
    and ModelError.
    """
    if linear_probe and benchmark.kind != "classification":
        raise BadLabels(
            f"{benchmark.folder} is a set for {benchmark.kind}, but a linear probe is trained on "
            "images with one class each",
            hint="Leave out --linear-probe.",
        )
    test = read_split(benchmark, "test")
    training = read_split(benchmark, "train") if linear_probe else None
    # Captions are not checked: COCO's "photos of the same man" is not a query here. The
    # result names no image, only the share of all captions that find theirs.
    for text in (*benchmark.classes, *(benchmark.prompts(0) if benchmark.classes else ())):
        policy.check(text)

    def embedded(split: Split) -> Embedded:
        return _embedded(split, spec, lambda: encoders.both, progress)

    found = embedded(test)
    report = _report(benchmark, test, found, encoders)
    probe, skipped = None, found.failed
    if training is not None:
        learned = embedded(training)
        probe, skipped = _probe(benchmark, training, learned, test, found), skipped + learned.failed
    return Benchmarked(benchmark, spec, report, probe, len(test.files), skipped)


def is_imagenet(benchmark: Benchmark) -> bool:
    """Whether the classes are those of ImageNet-1k."""
    names = benchmark.classes
    return len(names) == 1000 and names[: len(_IMAGENET)] == _IMAGENET


def _embedded(
    split: Split, spec: ModelSpec, load_encoder: LoadEncoder, progress: Progress
) -> Embedded:
    """Embed the images of a split, each read from its archive by the process that decodes it.

    Raises TooFewExamples if none can be decoded.
    """
    places = {file.path: n for n, file in enumerate(split.files)}
    vectors = np.empty((len(split.files), spec.dim), np.float32)
    hashes: dict[int, bytes] = {}
    failed: dict[int, str] = {}
    root = split.labelled.root
    for batch in embed_files(
        root, split.files, spec.preprocessing, load_encoder, progress=progress
    ):
        for file, outcome in batch:
            row = places[file.path]
            if isinstance(outcome, EmbeddedImage):
                vectors[row], hashes[row] = outcome.vector, outcome.content_hash
            else:
                failed[row] = reason(outcome)
    if not hashes:
        first = failed[0]
        raise TooFewExamples(
            f"none of the {len(split.files)} images of {split.labelled.source} can be decoded",
            hint=f"The first: {first}.",
        )
    rows = tuple(sorted(hashes))
    return Embedded(
        rows=rows,
        vectors=vectors[list(rows)] if failed else vectors,
        hashes=tuple(hashes[row] for row in rows),
        reused=0,
        failed=tuple((split.files[row].path, failed[row]) for row in sorted(failed)),
    )


def _report(benchmark: Benchmark, test: Split, found: Embedded, encoders: Encoders) -> Report:
    """Zero-shot classification with the set's own prompts, or retrieval with its captions."""
    labelled = test.labelled.only(found.rows)
    if isinstance(labelled, CaptionedImages):
        captions = encode_all(encoders.many_texts, labelled.captions)
        return evaluate_retrieval(found.vectors, captions, labelled.images)
    classes, names = class_embeddings(_domain(benchmark), encoders.many_texts), benchmark.classes
    if isinstance(labelled, LabelledImages):
        return evaluate_classification(found.vectors, classes, labelled.classes, names)
    return evaluate_multi_label(found.vectors, classes, shown_classes(labelled, len(names)), names)


def _domain(benchmark: Benchmark) -> Domain:
    """The classes with their prompts. A domain file cannot hold them: names may occur twice."""
    classes = (
        DomainClass(name, prompts=benchmark.prompts(index))
        for index, name in enumerate(benchmark.classes)
    )
    return Domain(benchmark.folder.name, "", "en", (), tuple(classes))


def _probe(
    benchmark: Benchmark, training: Split, learned: Embedded, test: Split, found: Embedded
) -> LinearProbe:
    names = benchmark.classes
    labels, actual = training.labelled.only(learned.rows), test.labelled.only(found.rows)
    assert isinstance(labels, LabelledImages)
    assert isinstance(actual, LabelledImages)
    x, known = learned.vectors.astype(np.float64), np.asarray(labels.classes, np.int64)
    if len(np.unique(known)) < 2:
        raise TooFewExamples(
            f"a probe separates classes, but {labels.source} has images of only one",
            hint="Leave out --linear-probe.",
        )
    l2 = logistic.cross_validated_l2(x, known, len(names))
    weights = logistic.fit(x, known, len(names), l2)
    # An extra dimension, 1 for every image, holds the intercepts: scores are products again.
    images: Vectors = np.c_[found.vectors, np.ones(len(found.vectors), np.float32)]
    classes = weights.astype(np.float32)
    seen = set(learned.hashes)
    return LinearProbe(
        report=evaluate_classification(images, classes, actual.classes, names),
        images=len(learned.rows),
        l2=l2,
        shared=sum(content in seen for content in found.hashes),
    )


def _accuracies(report: Report, prefix: str) -> dict[str, Estimate | None]:
    assert isinstance(report, ClassificationReport)
    return {
        f"{prefix}acc1": report.top1,
        f"{prefix}acc5": report.top5,
        f"{prefix}mean_per_class_recall": report.mean_per_class_recall,
    }


def _over_all_classes(report: MultiLabelReport) -> Estimate:
    """Mean average precision, with 0 for classes without images."""
    mean = report.mean_average_precision
    share = sum(result.images > 0 for result in report.per_class) / report.classes
    return Estimate(mean.value * share, mean.low * share, mean.high * share, mean.n)
