"""Evaluations as they are kept with an index: what answers need of them, and the report as data.

One of each kind of test set is kept, with one label an image, with several, and with captions,
since each has its own measures and its own pass marks. What the report says in detail is the
business of ``evaluation``.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from clipsearch import typed
from clipsearch.domain.calibration import Precision
from clipsearch.domain.pass_marks import IMAGES, REFUSED, Shortfall
from clipsearch.storage.catalog import Store
from clipsearch.storage.vectors.vector_file import Ids

_KINDS = {
    "classification": "labels",
    "multi-label classification": "several labels",
    "retrieval": "captions",
}
"""Kind of report -> kind of test set."""

_ATTACHMENTS = {
    "labels": "evaluation",
    "several labels": "evaluation of several labels",
    "captions": "evaluation of captions",
}

_NEARLY = 0.9
"""The share of a collection and of a test set that they must have in common to be one."""

DAMAGED = (ValueError, LookupError, TypeError, AttributeError)
"""What reading JSON that is not what was kept may raise."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation, as it is kept with an index."""

    model: str
    """The model's fingerprint."""
    domain: str
    """The domain's fingerprint."""
    test_set: str
    """The test set's fingerprint."""
    source: str
    """The test set as the user named it."""
    made_at: str
    """ISO 8601, UTC."""
    report: Mapping[str, Any]
    """JSON data: see ``evaluation.metrics.to_data``."""
    measures: Mapping[str, float]
    """What the pass marks are about: the report's and the gate's."""
    shortfalls: tuple[Shortfall, ...]
    """The pass marks that were not met."""
    precision: Precision | None
    """What a score says about a hit's being right, where the test set could tell."""
    logit_scale: float | None = None
    """What makes the probabilities of classes right, where each image had one label."""
    indexed: int = 0
    """How many of the test set's images the collection had."""
    collection: int = 0
    """How many images the collection had."""
    newest: int = 0
    """The greatest id among them."""

    @property
    def kind(self) -> str:
        """What the test set said of its images: labels, several labels, or captions."""
        return _KINDS[self.report["kind"]]

    @property
    def images(self) -> int:
        """How many images the test set had."""
        images: int = self.report["images"]
        return images

    def is_about(self, marks: Mapping[str, float]) -> bool:
        """Whether any of the pass marks is one that its test set could measure."""
        return bool((marks.keys() & self.measures.keys()) - {IMAGES, REFUSED})

    def was_of(self, ids: Ids) -> bool:
        """Whether the collection, with these ids ``(n,)`` now, is nearly the test set itself.

        Nine in ten of its images are the test set's, and the reverse. Elsewhere things are more
        or less frequent, and a score is more or less often right.
        """
        removed = self.collection - int((ids <= self.newest).sum())
        return self.indexed - removed >= _NEARLY * max(len(ids), self.images)

    def to_json(self) -> str:
        """The record as JSON text; ``from_json`` is its inverse."""
        values = asdict(self)
        values["shortfalls"] = [list(missed.values()) for missed in values["shortfalls"]]
        return json.dumps(values)  # in ASCII: the source may be a path that is no text

    @classmethod
    def from_json(cls, text: str) -> "Evaluation":
        """Rebuild a record from ``to_json``'s text. Raises one of DAMAGED for any other."""
        values = json.loads(text)
        names = ("measure", "reached", "mark")
        shortfalls = tuple(
            typed.record(Shortfall, dict(zip(names, missed, strict=True)))
            for missed in values.pop("shortfalls")
        )
        found: Evaluation = typed.record(cls, values, shortfalls=shortfalls)
        if found.report["kind"] not in _KINDS or type(found.report["images"]) is not int:
            raise ValueError("the report does not tell of what kind it is, or of how many images")
        return found


def keep(store: Store, found: Evaluation) -> None:
    """Make this the index's evaluation, in place of an earlier one of its kind."""
    with store.batch():
        store.attach(_ATTACHMENTS[found.kind], found.to_json())


def kept(store: Store) -> list[Evaluation]:
    """The last one of each kind, if whole, whatever they are of."""
    found = []
    for name in _ATTACHMENTS.values():
        text = store.attachment(name)
        with suppress(*DAMAGED):
            found += [Evaluation.from_json(text)] if text else []
    return found
