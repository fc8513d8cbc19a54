"""What a collection answers strongly: names of its domain's classes, as suggestions.

The embedded classes are put to the pictures all at once, which is cheap. What is strong there is
then asked as a person would ask it, by its name alone, and stays only if that is strong too.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from clipsearch.domain.verdict import BEST, STRONG, strength
from clipsearch.errors import ClipsearchError
from clipsearch.models.load import Encoders
from clipsearch.records import Vectors
from clipsearch.search.embed import embed_each
from clipsearch.search.query import Query, Text
from clipsearch.search.rank import judge_each
from clipsearch.storage.collection import Collection
from clipsearch.storage.vector_file import Half

_PICTURES = 10_000
"""Of a larger collection, so many are looked at, in 50 ms or less."""


def suggest(collections: Sequence[Collection], encoders: Encoders, most: int = 24) -> list[str]:
    """Names of classes of which the collections have a strong match, at most ``most``.

    The strongest come first. No two are for the same picture, so that kin do not fill the list.
    None before all collections are calibrated. Raises ModelError.
    """
    found = sorted(strong for collection in collections for strong in _strong(collection))
    names = list(dict.fromkeys(name for *_, name in found))[:most]
    queries = [Query((Text(name),)) for name in names]
    embedded = embed_each(collections, queries, encoders)
    asked = [
        (name, query)
        for name, query in zip(names, embedded, strict=True)
        if not isinstance(query, ClipsearchError)
    ]
    judged = judge_each(collections, [query for _, query in asked])
    return [name for (name, _), one in zip(asked, judged, strict=True) if one.verdict == "strong"]


def _strong(collection: Collection) -> Iterator[tuple[float, float, str]]:
    """Classes with a strong match, one for a picture: their rates, falling strengths, names."""
    level, texts = collection.level(), collection.texts
    if level is None or texts is None:
        return
    pictures = _pictures(collection)
    if not len(pictures):
        return
    scores = (texts.gate.classes - level.centre) @ pictures.T  # (classes, pictures)
    rows, best, tops = np.arange(len(scores)), scores.argmax(axis=1), []
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


def _pictures(collection: Collection) -> Vectors:
    """The embeddings of the first pictures, ``(n, dim)``."""
    chunks: list[Half] = []
    for chunk in collection.store.all_vectors():
        chunks.append(chunk[: _PICTURES - sum(map(len, chunks))])
        if sum(map(len, chunks)) == _PICTURES:
            break
    return np.concatenate(chunks).astype(np.float32) if chunks else np.empty((0, 0), np.float32)
