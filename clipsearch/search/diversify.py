"""Hits without near-duplicates: a burst of photographs is one hit, its best image.

``duplicates`` measures the near-duplicate threshold on the collection (see ``likeness``); until it
has, ``NEAR_DUPLICATE`` applies. The image files are not read: hiding a hit loses nothing, and a
search should not wait for a disk.
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
"""Examine this multiple of the requested hits, and at least this number."""
_MOST = 65_536
"""The maximum number of hits to examine, no matter how similar they are."""


def windows(k: int) -> Iterator[int]:
    """How many hits to examine to find ``k`` different ones: growing numbers, up to 65,536."""
    window = max(_WINDOW * k, _LEAST)
    yield window
    while window < _MOST:
        window *= _WINDOW
        yield window


def fold(collections: Sequence[Collection], hits: Sequence[Hit]) -> list[Hit]:
    """Remove near-duplicates from hits, and keep their order.

    hits: best first. A hit that nearly equals better ones is folded into the most similar of them,
    which counts it as ``collapsed``.
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
    """``(n, dim)``, in the order of the hits; zeros for a hit that has just been removed."""
    stores = {collection.store.root: collection.store for collection in collections}
    vectors = np.zeros((len(hits), collections[0].store.spec.dim), np.float16)
    for row, hit in enumerate(hits):
        with suppress(KeyError):
            vectors[row] = stores[hit.root].vector(hit.id)
    return vectors
