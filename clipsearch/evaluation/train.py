"""Train linear probes on labeled images, and store them with an index.

``learn`` has the method. A probe is stored with its accuracy: how many images are classified
correctly by probes that never saw them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from clipsearch.domain.intervals import Z, proportion, stratified_mean
from clipsearch.domain.taxonomy import Domain
from clipsearch.errors import NothingLearned
from clipsearch.evaluation.curve import Curve, learning_curve
from clipsearch.evaluation.labelled import LabelledImages, own_taxonomy, read_single
from clipsearch.evaluation.learn import learn
from clipsearch.evaluation.logistic import Floats, Ints
from clipsearch.evaluation.probes import KeptProbe, check_name, keep
from clipsearch.evaluation.wording import AS_LABELED, Wording, text_embeddings
from clipsearch.indexing.embed import Progress, embeddings_of
from clipsearch.models.load import Encoders
from clipsearch.records import Vectors
from clipsearch.storage.catalog import Store
from clipsearch.storage.collection import Collection
from clipsearch.text import percent


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained probe, and what to report with it."""

    kept: KeptProbe
    skipped: tuple[tuple[bytes, str], ...]
    """Images that cannot be decoded, with the reason."""
    curve: Curve | None
    """The accuracy with fewer images, if requested."""


def train_on(
    source: Path,
    name: str,
    store: Store,
    encoders: Encoders,
    progress: Progress = lambda doing, done, total: None,
    wording: Wording = AS_LABELED,
    *,
    curve: bool = False,
) -> Trained:
    """Train a probe on a labeled set and store it with the index, which is open for writing.

    It replaces a probe with the same name. curve: also measure the accuracy with fewer images.
    Raises UsageError or RefusedByPolicy for the name or the wording, BadLabels, TooFewExamples,
    NothingLearned, ModelError.
    """
    check_name(name)
    taxonomy = wording.applied(own_taxonomy(source, Collection(store).domain))
    training = read_single(source, taxonomy)
    found = embeddings_of(
        training.root,
        training.paths,
        store.spec,
        store,
        lambda: encoders.both,
        progress,
    )
    labels = training.only(found.rows)
    rows, notes = without_copies(labels.classes, found.hashes)
    labels, images = labels.only(rows), found.vectors[rows]
    words = text_embeddings(taxonomy, wording, encoders.text)
    measured = None
    if curve:
        measured = learning_curve(images, labels.classes, taxonomy.class_names, words, progress)
    kept = make(name, store, labels, images, taxonomy, words, notes)
    keep(store, kept)
    return Trained(kept, found.failed, measured)


def without_copies(
    classes: Sequence[int], hashes: Sequence[bytes]
) -> tuple[list[int], tuple[str, ...]]:
    """The rows of a set without repeated images in a class, and notes about them.

    A copy could be in training and test data at once. hashes: of the images' content.
    """
    first: dict[tuple[bytes, int], int] = {}
    for row, of in enumerate(zip(hashes, classes, strict=True)):
        first.setdefault(of, row)
    copies, torn = len(classes) - len(first), len(first) - len(set(hashes))
    notes = []
    if copies:
        notes.append(f"{_pictures(copies)} left out: the same file is already in the same class")
    if torn:
        notes.append(f"{_pictures(torn)} labeled twice: the same file is also in another class")
    return list(first.values()), tuple(notes)


def _pictures(count: int) -> str:
    return f"{count} images are" if count > 1 else "1 image is"


def make(
    name: str,
    store: Store,
    labels: LabelledImages,
    images: Vectors,
    taxonomy: Domain,
    words: Floats,
    notes: tuple[str, ...] = (),
) -> KeptProbe:
    """Train a probe on all images, after cross-validating its accuracy on them.

    labels: classes are those of ``taxonomy``, the labeled set's own. images: ``(n, dim)``.
    words: ``(classes, dim)``, from ``text_embeddings``. notes: what else to know.
    Raises TooFewExamples, and NothingLearned for one that is no better than guessing, or worse
    than zero-shot by more than chance explains.
    """
    names = taxonomy.class_names
    learned = learn(images, labels.classes, names, words)
    all_classes = np.asarray(labels.classes)
    actual = all_classes[learned.judged]
    right = learned.given == actual
    by_words = (images[learned.judged] @ words.T).argmax(axis=1) == actual
    _require_learned(name, right, by_words, actual, len(names))
    counts = np.bincount(all_classes, minlength=len(names))
    absent = [names[c] for c in np.flatnonzero(counts == 0)]
    if absent:
        notes += (f"no images of {', '.join(absent)}: only the words identify these classes",)
    return KeptProbe(
        name=name,
        probe=learned.probe,
        model=store.spec.fingerprint,
        source=labels.source,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        images=tuple(int(count) for count in counts),
        held_out=proportion(int(right.sum()), len(right)),
        zero_shot=proportion(int(by_words.sum()), len(right)),
        most_frequent=float(counts.max() / counts.sum()),
        recall=stratified_mean(right, actual),
        scale=learned.scale,
        notes=notes,
    )


def _require_learned(
    name: str, right: Floats, by_words: Floats, actual: Ints, classes: int
) -> None:
    recall = stratified_mean(right, actual)
    if recall.value <= 1 / classes:
        raise NothingLearned(
            f"the probe '{name}' is no better than guessing: on held-out images it gets "
            f"{percent(recall.value)} right, as the mean over classes (95% interval "
            f"{percent(recall.low)} to {percent(recall.high)}); guessing gets "
            f"{percent(1 / classes)}",
            hint="The probe was not saved. Check the labels, or add images of each class.",
        )
    lost = by_words.astype(np.float64) - right
    if len(lost) > 1 and lost.mean() > Z * lost.std(ddof=1) / len(lost) ** 0.5:
        raise NothingLearned(
            f"the probe '{name}' is worse than the class names alone: on held-out images it gets "
            f"{percent(right.mean())} right, and zero-shot gets {percent(by_words.mean())}",
            hint="The probe was not saved. Check the labels, or use the names: classify --texts.",
        )
