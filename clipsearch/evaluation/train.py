"""Train linear probes on labelled images, and keep them with an index.

``learn`` says how. A probe is kept with what it is worth: how many images are got right by probes
that never saw them.
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
from clipsearch.evaluation.wording import AS_LABELLED, Wording, text_embeddings
from clipsearch.indexing.embed import Progress, embeddings_of
from clipsearch.models.load import Encoders
from clipsearch.records import Vectors
from clipsearch.storage.catalog import Store
from clipsearch.storage.collection import Collection
from clipsearch.text import percent


@dataclass(frozen=True, slots=True)
class Trained:
    """A probe that was trained, and what is to be known beside it."""

    kept: KeptProbe
    skipped: tuple[tuple[bytes, str], ...]
    """Images that cannot be decoded, with the reason."""
    curve: Curve | None
    """What fewer images would have brought, where that was asked for."""


def train_on(
    source: Path,
    name: str,
    store: Store,
    encoders: Encoders,
    progress: Progress = lambda doing, done, total: None,
    wording: Wording = AS_LABELLED,
    *,
    curve: bool = False,
) -> Trained:
    """Train a probe on a labelled set and keep it with the index, which is open for writing.

    It replaces a probe of the same name. curve: also measure what fewer images would bring.
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
    """The rows of a set without second copies of an image in its class, and what to say of it.

    A copy would be learned from and judged at once. hashes: of the images' content.
    """
    first: dict[tuple[bytes, int], int] = {}
    for row, of in enumerate(zip(hashes, classes, strict=True)):
        first.setdefault(of, row)
    copies, torn = len(classes) - len(first), len(first) - len(set(hashes))
    notes = []
    if copies:
        notes.append(f"{_pictures(copies)} left out: the same file is in the same class already")
    if torn:
        notes.append(f"{_pictures(torn)} labelled twice: the same file is in another class too")
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
    """Train a probe on all images, after measuring on them what such a probe is worth.

    labels: classes are those of ``taxonomy``, the labelled set's own. images: ``(n, dim)``.
    words: ``(classes, dim)``, as ``text_embeddings`` gives them. notes: what else is to be known.
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
        notes += (f"no image of {', '.join(absent)}: there the words answer alone",)
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
            f"the probe '{name}' is no better than guessing: of images that it never saw it gets "
            f"{percent(recall.value)} right, as the mean of the classes (95% interval "
            f"{percent(recall.low)} to {percent(recall.high)}), and guessing "
            f"{percent(1 / classes)}",
            hint="It is not kept. Look at the labels, or add images of each class.",
        )
    lost = by_words.astype(np.float64) - right
    if len(lost) > 1 and lost.mean() > Z * lost.std(ddof=1) / len(lost) ** 0.5:
        raise NothingLearned(
            f"the probe '{name}' is worse than the classes' names alone: of images that it never "
            f"saw it gets {percent(right.mean())} right, and zero-shot {percent(by_words.mean())}",
            hint="It is not kept. Look at the labels, or classify by the names: classify --texts.",
        )
