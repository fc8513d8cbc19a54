"""Hits of which no two are nearly the same: a burst is one hit, its best image.

What is nearly the same to the model is measured on the collection by ``duplicates`` (see
``likeness``); where it was not, it is ``NEAR_DUPLICATE``. The images are not looked at: what is
hidden here is not lost, and a search is not to wait for a disk.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from clipsearch.domain.calibration import NEAR_DUPLICATE
from clipsearch.records import Hit
from clipsearch.search.duplicates import likeness
from clipsearch.search.duplicates.neighbors import Half, lead
from clipsearch.storage.collection import Collection

_WINDOW, _LEAST = 4, 100
"""Looked at are so many times as many hits as are wanted, and at least so many."""
_MOST = 65_536
"""Hits that are looked at in all, however alike they are."""


def windows(k: int) -> Iterator[int]:
    """How many hits to look at for ``k`` that differ: ever more, up to 65,536."""
    window = max(_WINDOW * k, _LEAST)
    yield window
    while window < _MOST:
        window *= _WINDOW
        yield window


def fold(collections: Sequence[Collection], hits: Sequence[Hit]) -> list[Hit]:
    """Hits of which no two are nearly the same, in their order.

    hits: best first. One that is nearly the same as a better one is folded into the most similar
    of these, which counts it as ``collapsed``.
    """
    threshold = max(_threshold(collection) for collection in collections)
    leaders, _ = lead(_embeddings(collections, hits), threshold)
    first, counts = np.unique(leaders, return_counts=True)
    found = zip(first.tolist(), counts.tolist(), strict=True)
    return [replace(hits[row], collapsed=count - 1) for row, count in found]


def _threshold(collection: Collection) -> float:
    measured = likeness.kept(collection.store)
    return measured.similarity if measured else NEAR_DUPLICATE


def _embeddings(collections: Sequence[Collection], hits: Sequence[Hit]) -> Half:
    """``(n, dim)``, in the order of the hits; zeros for one that was removed a moment ago."""
    stores = {collection.store.root: collection.store for collection in collections}
    vectors = np.zeros((len(hits), collections[0].store.spec.dim), np.float16)
    for row, hit in enumerate(hits):
        with suppress(KeyError):
            vectors[row] = stores[hit.root].vector(hit.id)
    return vectors
