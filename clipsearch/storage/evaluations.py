"""Evaluations stored with an index: the facts that answers need, and the report as data.

The last evaluation of each kind of test set is kept (one label per image, several labels, or
captions), because each kind has its own measures and pass marks. The ``evaluation`` package
defines the details of the report.
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
"""The share of images that a collection and a test set must have in common to count as one."""

DAMAGED = (ValueError, LookupError, TypeError, AttributeError)
"""The errors that reading damaged JSON may raise."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation, as stored with an index."""

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
    """The measures that have pass marks: the report's and the gate's."""
    shortfalls: tuple[Shortfall, ...]
    """The pass marks that were not met."""
    precision: Precision | None
    """How likely a hit with a given score is to be right, if the test set could measure it."""
    logit_scale: float | None = None
    """The factor that calibrates class probabilities, if each image had one label."""
    indexed: int = 0
    """How many of the test set's images the collection had."""
    collection: int = 0
    """How many images the collection had."""
    newest: int = 0
    """The greatest id among them."""

    @property
    def kind(self) -> str:
        """What the test set has for each image: a label, several labels, or captions."""
        return _KINDS[self.report["kind"]]

    @property
    def images(self) -> int:
        """How many images the test set had."""
        images: int = self.report["images"]
        return images

    def is_about(self, marks: Mapping[str, float]) -> bool:
        """Whether its test set could measure any of these pass marks."""
        return bool((marks.keys() & self.measures.keys()) - {IMAGES, REFUSED})

    def was_of(self, ids: Ids) -> bool:
        """Whether the collection, with these ids ``(n,)`` now, is nearly the test set itself.

        At least 90% of the collection's images are in the test set, and the reverse. In other
        collections things are more or less frequent, so the same score is right more or less often.
        """
        removed = self.collection - int((ids <= self.newest).sum())
        return self.indexed - removed >= _NEARLY * max(len(ids), self.images)

    def to_json(self) -> str:
        """The record as JSON text; ``from_json`` is its inverse."""
        values = asdict(self)
        values["shortfalls"] = [list(missed.values()) for missed in values["shortfalls"]]
        return json.dumps(values)  # in ASCII: the source may be a path that is not valid text

    @classmethod
    def from_json(cls, text: str) -> "Evaluation":
        """Rebuild a record from ``to_json``'s text. Raises one of DAMAGED for other text."""
        values = json.loads(text)
        names = ("measure", "reached", "mark")
        shortfalls = tuple(
            typed.record(Shortfall, dict(zip(names, missed, strict=True)))
            for missed in values.pop("shortfalls")
        )
        found: Evaluation = typed.record(cls, values, shortfalls=shortfalls)
        if found.report["kind"] not in _KINDS or type(found.report["images"]) is not int:
            raise ValueError("the report does not state its kind or its number of images")
        return found


def keep(store: Store, found: Evaluation) -> None:
    """Store an evaluation with the index; it replaces an earlier one of its kind."""
    with store.batch():
        store.attach(_ATTACHMENTS[found.kind], found.to_json())


def kept(store: Store) -> list[Evaluation]:
    """The last readable evaluation of each kind, of any model and domain."""
    found = []
    for name in _ATTACHMENTS.values():
        text = store.attachment(name)
        with suppress(*DAMAGED):
            found += [Evaluation.from_json(text)] if text else []
    return found
