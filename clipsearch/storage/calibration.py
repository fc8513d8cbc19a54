"""What scores mean in one collection, as measured with queries that have nothing to do with it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from clipsearch import typed
from clipsearch.domain.background import unrelated
from clipsearch.domain.calibration import FalseAlarms, best_scores, best_scores_of_others
from clipsearch.domain.scale import Scale
from clipsearch.domain.taxonomy import Domain
from clipsearch.domain.verdict import Background, top_scores
from clipsearch.records import QueryKind
from clipsearch.storage.catalog import Store
from clipsearch.storage.texts import Texts
from clipsearch.storage.vectors.vector_file import Half

_SAMPLE = 500
"""How many images' best scores form the background for image queries."""

_ALWAYS_ANEW = 20_000
"""Up to this many images, measuring takes a fraction of a second, so any change triggers it."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What scores meant when they were last measured.

    A stored record that lacks a field is ignored and measured again. To measure more, add a field
    and set it in ``measure``.
    """

    domain: str
    """The domain's fingerprint."""
    images: int
    """How many images the collection had."""
    newest: int
    """The greatest id among them."""
    text: tuple[float, ...]
    """Best scores of the background prompts, in any order; none in an empty collection."""
    image: tuple[float, ...]
    """Best scores of a sample of the images."""
    background: Background | None = None
    """Scores of the background prompts, for the verdict; None in an empty collection, and if an
    earlier version measured."""

    def false_alarms(self) -> Mapping[QueryKind, FalseAlarms]:
        """How often background queries of each kind reach a score."""
        kept: dict[QueryKind, tuple[float, ...]] = {"text": self.text, "image": self.image}
        return {kind: FalseAlarms.of(scores) for kind, scores in kept.items() if scores}

    def is_outdated(self, images: int, added: int) -> bool:
        """Whether the collection has changed too much since then.

        images: how many there are now. added: how many of these are newer than ``newest``.
        """
        removed = self.images - (images - added)
        changed = added + removed
        return changed > 0 and (images <= _ALWAYS_ANEW or changed * 20 > images)

    @property
    def is_whole(self) -> bool:
        """Whether everything that this version measures was measured."""
        return self.background is not None or not self.images

    def to_json(self) -> str:
        """The record as JSON text; ``from_json`` is its inverse."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Calibration":
        """Rebuild a record from ``to_json``'s text. Raises ValueError for any other."""
        found: Calibration = typed.from_json(cls, text)
        return found


def measure(store: Store, domain: Domain, texts: Texts) -> tuple[Calibration, Scale | None]:
    """Query the collection with the background prompts and with a sample of its own images.

    The scale is None without images.
    """
    parts = [ids for ids, _ in store.embeddings()]  # leaves out damaged ones
    ids = np.concatenate([np.empty(0, np.int64), *parts])
    if not len(ids):
        return Calibration(domain.fingerprint, 0, 0, text=(), image=(), background=None), None
    sample = np.random.default_rng(0).permutation(ids)[:_SAMPLE]
    images = store.vectors(sample.tolist())
    of_texts = best_scores(texts.background, store.all_vectors())
    of_images = best_scores_of_others(images, store.all_vectors(), texts.gate.classes)
    found = Calibration(
        domain.fingerprint,
        images=len(ids),
        newest=int(ids[-1]),
        text=tuple(np.round(of_texts, 6).tolist()),
        image=tuple(np.round(np.maximum(of_images, -1.0), 6).tolist()),
        background=background_of(domain, texts, store.all_vectors()),
    )
    return found, Scale.measure(store.all_vectors(), texts.background, images)


def background_of(domain: Domain, texts: Texts, chunks: Iterable[Half]) -> Background:
    """Scores of the background prompts over images that come in chunks ``(n, dim)``.

    There must be at least one image.
    """
    words = [len(text.split()) for text in unrelated(domain)]
    centered = texts.background - texts.background.mean(axis=0)
    return Background.of(words, np.round(top_scores(centered, chunks), 6))
