"""Suggest queries that have a strong match: class names of a collection's domain.

The embeddings of all classes are compared with the images at once, which is cheap. Each class with
a strong match is then searched for by its bare name, as a user would, and kept only if that is a
strong match too.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from clipsearch.domain.verdict import BEST, STRONG, strength
from clipsearch.errors import ClipsearchError
from clipsearch.models.load import Encoders
from clipsearch.records import EVERYTHING, Filter
from clipsearch.search.embed import embed_each
from clipsearch.search.query import Query, Text
from clipsearch.search.rank import judge_each
from clipsearch.storage.collection import Collection

_PICTURES = 1_000
"""The number of images of a larger collection that are used to choose candidates."""


def suggest(
    collections: Sequence[Collection],
    encoders: Encoders,
    only: Filter = EVERYTHING,
    most: int = 24,
) -> list[str]:
    """Names of classes that have a strong match among the images, at most ``most``.

    The strongest come first. No two are for the same image, so that related classes do not fill
    the list. Empty until all collections are calibrated. Raises ModelError.
    """
    found = sorted(strong for collection in collections for strong in _strong(collection, only))
    names = list(dict.fromkeys(name for *_, name in found))[:most]
    queries = [Query((Text(name),)) for name in names]
    embedded = embed_each(collections, queries, encoders)
    asked = [
        (name, query)
        for name, query in zip(names, embedded, strict=True)
        if not isinstance(query, ClipsearchError)
    ]
    judged = judge_each(collections, [query for _, query in asked], only)
    return [name for (name, _), one in zip(asked, judged, strict=True) if one.verdict == "strong"]


def _strong(collection: Collection, only: Filter) -> Iterator[tuple[float, float, str]]:
    """Classes with a strong match, one per image: rate, negative strength, name."""
    level, texts = collection.level(only), collection.texts
    if level is None or texts is None:
        return
    with collection.store.snapshot():
        ids = collection.store.ids(only)
        if not len(ids):
            return
        pictures = collection.store.vectors(ids[:: -(-len(ids) // _PICTURES)].tolist())
    scores = (texts.gate.classes - level.centre) @ pictures.T  # (classes, images)
    best, rows, tops = scores.argmax(axis=1), np.arange(len(scores)), []
    for _ in range(min(BEST, len(pictures))):
        at = scores.argmax(axis=1)
        tops.append(scores[rows, at])
        scores[rows, at] = -np.inf
    names = collection.domain.class_names
    reached = strength(np.stack(tops, axis=1))
    rated = [
        (level.background.rate(float(value), len(name.split())), -float(value), name, picture)
        for value, name, picture in zip(reached, names, best.tolist(), strict=True)
    ]
    taken = set()
    for rate, falling, name, picture in sorted(rated):
        if rate <= STRONG and picture not in taken:
            taken.add(picture)
            yield rate, falling, name
