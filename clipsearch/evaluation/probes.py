"""Linear probes: classes learned from labeled images, stored with an index by name.

``train`` makes them. A probe works only with embeddings of the model that it was trained on.
"""

import io
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch import typed
from clipsearch.domain import policy
from clipsearch.domain.intervals import Estimate
from clipsearch.domain.taxonomy import folded
from clipsearch.domain.words import tokens
from clipsearch.domain.zero_shot import Ranked
from clipsearch.errors import IndexUnreadable, ModelMismatch, UsageError
from clipsearch.evaluation.logistic import Floats, softmax
from clipsearch.records import Vectors
from clipsearch.storage.catalog import Store
from clipsearch.text import did_you_mean, shortened
from clipsearch.vectors import l2_normalise

_PREFIX = "probe:"


@dataclass(frozen=True)
class Probe:
    """A linear classifier over embeddings."""

    classes: tuple[str, ...]
    weights: Floats
    """``(classes, dim)``."""
    intercepts: Floats
    """``(classes,)``."""
    l2: float
    """The strength of the chosen penalty."""

    def probabilities(self, images: Vectors) -> Floats:
        """``(n, dim)`` unit vectors to ``(n, classes)``; each row sums to 1."""
        return softmax(images @ self.weights.T + self.intercepts)

    def classify(self, images: Vectors, k: int) -> list[list[Ranked]]:
        """The ``k`` most probable classes of each image, best first."""
        shares = self.probabilities(images)
        similarities = images @ self.directions.T
        order = np.argsort(-shares, axis=1, kind="stable")[:, :k]
        return [
            [
                Ranked(int(c), self.classes[c], float(shares[n, c]), float(similarities[n, c]))
                for c in order[n]
            ]
            for n in range(len(images))
        ]

    @property
    def directions(self) -> Vectors:
        """A unit vector for each class, ``(classes, dim)``: the query that finds its images.

        It is the class's weights minus the mean over all classes, the direction in which its log
        odds against the others rise fastest. With two classes it ranks like the probabilities.
        """
        return l2_normalise(self.weights - self.weights.mean(axis=0))

    def to_bytes(self) -> bytes:
        """Serialize; the inverse of ``from_bytes``."""
        file = io.BytesIO()
        np.savez(
            file,
            classes=np.array(self.classes),
            weights=self.weights.astype(np.float32),
            intercepts=self.intercepts,
            l2=self.l2,
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Probe":
        """Deserialize from ``to_bytes``. Raises ValueError, among others, for anything else."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls.of(*(arrays[part] for part in ("classes", "weights", "intercepts", "l2")))

    @classmethod
    def of(
        cls, classes: Iterable[str], weights: npt.ArrayLike, intercepts: npt.ArrayLike, l2: float
    ) -> "Probe":
        """A probe from stored parts. Raises ValueError if they do not fit together."""
        probe = cls(
            classes=tuple(str(name) for name in classes),
            weights=np.asarray(weights).astype(np.float64),
            intercepts=np.asarray(intercepts).astype(np.float64),
            l2=float(l2),
        )
        count = len(probe.classes)
        if probe.weights.shape[:-1] != (count,) or probe.intercepts.shape != (count,):
            raise ValueError(f"the weights do not match {count} classes")
        if not np.isfinite(probe.weights).all() or not np.isfinite(probe.intercepts).all():
            raise ValueError("some weights are not finite numbers")
        return probe


@dataclass(frozen=True, slots=True)
class KeptProbe:
    """A probe and its record."""

    name: str
    probe: Probe
    model: str
    """The model's fingerprint."""
    source: str
    """The labeled set as the user named it."""
    made_at: str
    """ISO 8601, UTC."""
    images: tuple[int, ...]
    """How many images of each class it was trained on."""
    held_out: Estimate
    """The share of images that a probe which never saw them classified correctly."""
    zero_shot: Estimate
    """The same share for zero-shot classification with the same classes."""
    most_frequent: float
    """The share that always choosing the most frequent class would get right."""
    recall: Estimate | None = None
    """``held_out`` as mean per-class recall; None if an earlier version trained it."""
    scale: float | None = None
    """The factor on the class texts in the starting weights; None if they started at zero."""
    notes: tuple[str, ...] = ()
    """What else to know about the training images."""

    @property
    def guessing(self) -> float:
        """The mean per-class recall of any way of guessing, on average."""
        return 1 / len(self.probe.classes)

    def to_bytes(self) -> bytes:
        """Serialize; the inverse of ``from_bytes``."""
        file = io.BytesIO()
        probe = np.frombuffer(self.probe.to_bytes(), np.uint8)
        np.savez(file, about=np.array(json.dumps(described(self))), probe=probe)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "KeptProbe":
        """Deserialize from ``to_bytes``. Raises ValueError, among others, for anything else."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            probe = Probe.from_bytes(arrays["probe"].tobytes())
            return cls.of(probe, json.loads(str(arrays["about"])))

    @classmethod
    def of(cls, probe: Probe, about: Any) -> "KeptProbe":
        """A probe with the record from ``described``. Raises ValueError if that is incomplete."""
        kept: KeptProbe = typed.record(cls, about, probe=probe)
        if len(kept.images) != len(probe.classes):
            raise ValueError(f"{len(kept.images)} image counts for {len(probe.classes)} classes")
        return kept


def described(kept: KeptProbe) -> dict[str, Any]:
    """The record of a probe, as JSON data."""
    return {field: value for field, value in asdict(kept).items() if field != "probe"}


def check_name(name: str) -> None:
    """Raise UsageError for a name unfit for a command line, RefusedByPolicy for its words."""
    if not re.fullmatch(r"[\w][\w.-]*", name):
        raise UsageError(
            f"'{shortened(name)}' is not a valid name for a probe",
            hint="Use letters, digits, _ - and .; do not start with - or .",
        )
    policy.check(re.sub(r"[._-]+", " ", name))


def keep(store: Store, kept: KeptProbe) -> None:
    """Store a probe with the index, replacing any earlier one with the same name."""
    with store.batch():
        store.attach(_PREFIX + kept.name, kept.to_bytes())


def names(store: Store) -> list[str]:
    """Names of the probes in an index, in order."""
    return [name.removeprefix(_PREFIX) for name in store.attached(_PREFIX)]


def load(store: Store, name: str) -> KeptProbe:
    """Load a probe of this index with its record.

    Raises UsageError if there is none, and IndexUnreadable for one that is damaged.
    """
    data = store.attachment(_PREFIX + name)
    if data is None:
        raise _unknown(store, name)
    try:
        kept = KeptProbe.from_bytes(data)
        if kept.model == store.spec.fingerprint and kept.probe.weights.shape[1] != store.spec.dim:
            raise ValueError("its weights and the model's embeddings differ in length")
    except Exception as error:  # zipfile and numpy raise whatever they run into
        raise IndexUnreadable(
            f"the probe '{name}' in the index of {store.root} is damaged",
            hint=f"Train it again, or remove it: clipsearch probe remove {name}",
        ) from error
    return kept


def ready(store: Store, name: str) -> Probe:
    """Load a probe for classifying the images of this index.

    Raises UsageError like ``load``, and ModelMismatch if the probe was trained on embeddings of
    another model than the index has now.
    """
    kept = load(store, name)
    if kept.model != store.spec.fingerprint:
        raise ModelMismatch(
            f"the probe '{name}' was trained on embeddings from another model",
            hint=f"Train it again: clipsearch probe train {kept.source} --name {name}",
        )
    return kept.probe


def remove(store: Store, name: str) -> None:
    """Delete a probe. Raises UsageError if there is none with that name."""
    if name not in names(store):
        raise _unknown(store, name)
    with store.batch():
        store.detach(_PREFIX + name)


def _unknown(store: Store, name: str) -> UsageError:
    others, meant = ", ".join(names(store)), did_you_mean(name, names(store))
    return UsageError(
        f"the index of {store.root} has no probe '{shortened(name)}'{meant}",
        hint=(f"It has: {others}. " if others else "")
        + "Train one with: clipsearch probe train LABELED --name NAME",
    )


def query(store: Store, asked: str) -> Vectors:
    """The unit vector ``(dim,)`` to search with for ``NAME/CLASS``, or for ``NAME`` alone.

    ``NAME`` alone means the class with the probe's own name, in the singular or plural:
    ``defects`` is the ``defect`` of ``defects``. Scores of such a search are cosine similarities
    to a learned direction, and calibrations of text or image queries do not apply to them.
    Raises UsageError if there is no such probe or class, and ModelMismatch like ``ready``.
    """
    name, _, wanted = asked.partition("/")
    if not wanted and name not in names(store):
        unknown = _unknown(store, name)
        raise UsageError(
            f"{unknown}, and there is no saved query with that name",
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
        what = f"has no class '{shortened(wanted)}'{meant}" if wanted else "has several classes"
        raise UsageError(f"the probe '{name}' {what}", hint=f"Choose one: {choices}.")
    direction: Vectors = probe.directions[at.index(True)]
    return direction
