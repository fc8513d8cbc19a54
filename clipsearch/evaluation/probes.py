"""Linear probes that are kept with an index: trained on it, found by name, used for its model."""

import io
import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from clipsearch import typed
from clipsearch.domain import policy
from clipsearch.domain.intervals import Estimate, proportion
from clipsearch.domain.taxonomy import Domain, folded
from clipsearch.domain.words import tokens
from clipsearch.domain.zero_shot import class_embeddings
from clipsearch.errors import IndexUnreadable, ModelMismatch, UsageError
from clipsearch.evaluation.labelled import LabelledImages
from clipsearch.evaluation.probe import Probe, held_out, train
from clipsearch.records import TextEncoder, Vectors
from clipsearch.storage.catalog import Store
from clipsearch.text import did_you_mean

_PREFIX = "probe:"


@dataclass(frozen=True, slots=True)
class KeptProbe:
    """A probe, and what is known of it."""

    name: str
    probe: Probe
    model: str
    """The model's fingerprint."""
    source: str
    """The labelled set as the user named it."""
    made_at: str
    """ISO 8601, UTC."""
    images: tuple[int, ...]
    """How many pictures of each class it was trained on."""
    held_out: Estimate
    """The share of pictures that a probe which never saw them got right."""
    zero_shot: Estimate
    """The share that zero-shot classification with the same classes got right."""
    most_frequent: float
    """The share that always saying the most frequent class gets right."""

    def to_bytes(self) -> bytes:
        """To be kept; ``from_bytes`` is the inverse."""
        file = io.BytesIO()
        about = {field: value for field, value in asdict(self).items() if field != "probe"}
        probe = np.frombuffer(self.probe.to_bytes(), np.uint8)
        np.savez(file, about=np.array(json.dumps(about)), probe=probe)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "KeptProbe":
        """What ``to_bytes`` kept. Raises ValueError, among others, for anything else."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            probe = Probe.from_bytes(arrays["probe"].tobytes())
            kept: KeptProbe = typed.record(cls, json.loads(str(arrays["about"])), probe=probe)
        if len(kept.images) != len(probe.classes):
            raise ValueError(
                f"{len(kept.images)} counts of pictures of {len(probe.classes)} classes"
            )
        return kept


def make(
    name: str,
    store: Store,
    labels: LabelledImages,
    images: Vectors,
    taxonomy: Domain,
    encoder: TextEncoder,
) -> KeptProbe:
    """Train a probe on all pictures, after measuring on them what such a probe is worth.

    labels: classes are those of ``taxonomy``, the labelled set's own. images: ``(n, dim)``.
    Raises TooFewExamples.
    """
    names, actual = taxonomy.class_names, np.asarray(labels.classes)
    given = held_out(images, labels.classes, names)
    classes = class_embeddings(taxonomy, encoder)
    counts = np.bincount(actual, minlength=len(names))
    return KeptProbe(
        name=name,
        probe=train(images, labels.classes, names),
        model=store.spec.fingerprint,
        source=labels.source,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        images=tuple(int(count) for count in counts),
        held_out=_accuracy(given, actual),
        zero_shot=_accuracy((images @ classes.T).argmax(axis=1), actual),
        most_frequent=float(counts.max() / counts.sum()),
    )


def _accuracy(given: npt.NDArray[np.int64], actual: npt.NDArray[np.int64]) -> Estimate:
    return proportion(int((given == actual).sum()), len(actual))


def check_name(name: str) -> None:
    """Raise UsageError for a name that no command line can hold, RefusedByPolicy for its words."""
    if not re.fullmatch(r"[\w][\w.-]*", name):
        raise UsageError(
            f"'{name}' is no name for a probe", hint="Use letters, digits, and - _ . between them."
        )
    policy.check(re.sub(r"[._-]+", " ", name))


def keep(store: Store, kept: KeptProbe) -> None:
    """Keep a probe with the index, in place of an earlier one of its name."""
    with store.batch():
        store.attach(_PREFIX + kept.name, kept.to_bytes())


def names(store: Store) -> list[str]:
    """Names of the probes that an index keeps, in order."""
    return [name.removeprefix(_PREFIX) for name in store.attached(_PREFIX)]


def load(store: Store, name: str) -> KeptProbe:
    """A probe of this index, and what is known of it.

    Raises UsageError if there is none, and IndexUnreadable for one that is damaged.
    """
    data = store.attachment(_PREFIX + name)
    if data is None:
        raise _unknown(store, name)
    try:
        kept = KeptProbe.from_bytes(data)
        if kept.model == store.spec.fingerprint and kept.probe.weights.shape[1] != store.spec.dim:
            raise ValueError("its weights are of another length than the model's embeddings")
    except Exception as error:  # zipfile and numpy raise whatever they stumble over
        raise IndexUnreadable(
            f"the probe '{name}' in the index of {store.root} is damaged",
            hint=f"Train it anew, or forget it: clipsearch probe remove {name}",
        ) from error
    return kept


def ready(store: Store, name: str) -> Probe:
    """A probe to classify the pictures of this index with.

    Raises UsageError as ``load`` does, and ModelMismatch if the probe was trained on embeddings
    of another model than the one that the index has now.
    """
    kept = load(store, name)
    if kept.model != store.spec.fingerprint:
        raise ModelMismatch(
            f"the probe '{name}' was trained on embeddings of another model",
            hint=f"Train it anew: clipsearch probe train {kept.source} --name {name}",
        )
    return kept.probe


def remove(store: Store, name: str) -> None:
    """Forget a probe. Raises UsageError if there is none of that name."""
    if name not in names(store):
        raise _unknown(store, name)
    with store.batch():
        store.detach(_PREFIX + name)


def _unknown(store: Store, name: str) -> UsageError:
    others = ", ".join(names(store))
    return UsageError(
        f"the index of {store.root} has no probe '{name}'{did_you_mean(name, names(store))}",
        hint=(f"It has: {others}. " if others else "")
        + "Train one with: clipsearch probe train LABELLED --name NAME",
    )


def query(store: Store, asked: str) -> Vectors:
    """The unit vector ``(dim,)`` to search with for ``NAME/CLASS``, or for ``NAME`` alone.

    That means the class of the probe's own name, in the singular or the plural: ``defects`` is
    the ``defect`` of ``defects``. Scores of such a search are cosine similarities to a direction
    that was learned, and no calibration of text or image queries holds for them.
    Raises UsageError if there is no such probe or class, and ModelMismatch as ``ready`` does.
    """
    name, _, wanted = asked.partition("/")
    if not wanted and name not in names(store):
        unknown = _unknown(store, name)
        raise UsageError(
            f"{unknown}, and there is no saved query of that name",
            hint=f"{unknown.hint} Saved queries: clipsearch query list",
        )
    probe = ready(store, name)
    if wanted:
        at = [folded(cls) == folded(wanted) for cls in probe.classes]
    else:
        at = [tokens(cls) == tokens(name) for cls in probe.classes]
    if not any(at):
        choices = ", ".join(f"@{name}/{cls}" for cls in probe.classes)
        meant = did_you_mean(wanted, probe.classes)
        what = f"has no class '{wanted}'{meant}" if wanted else "has several classes"
        raise UsageError(f"the probe '{name}' {what}", hint=f"Say which: {choices}.")
    direction: Vectors = probe.directions[at.index(True)]
    return direction
