"""The one place where the hits of a query are gathered, judged and cut.

Gathered from all collections into one ranking; judged, each hit in its own collection, by what
was measured there; and cut where they are no longer good enough.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from clipsearch.paths import absolute
from clipsearch.records import Filter, Hit
from clipsearch.search.embed import Embedded
from clipsearch.search.query import SearchOptions
from clipsearch.storage.collection import Collection


class Ranking(NamedTuple):
    """What was found for one query."""

    hits: list[Hit]
    """Best first."""
    rejected: Hit | None = None
    """The best picture, if there are no hits because it is not good enough."""


def rank_each(
    collections: Sequence[Collection], queries: Sequence[Embedded], options: SearchOptions
) -> list[Ranking]:
    """For each query, the best hits of all ``collections`` together, at most ``options.k``.

    A picture that several collections hold, the root of one lying in another's, is one hit; files
    that a query leaves out are none.
    """
    if options.diverse:
        return [_diverse(collections, query, options) for query in queries]
    gathered = _gathered(collections, queries, options.k, options.only, exact=options.exact)
    return [_cut(hits, options) for hits in gathered]


def _diverse(collections: Sequence[Collection], query: Embedded, options: SearchOptions) -> Ranking:
    """Hits of which no two are nearly the same: ever more are looked at, until enough differ."""
    from clipsearch.search import diversify  # here, since it takes the decoders of pictures along

    for window in diversify.windows(options.k):
        (gathered,) = _gathered(collections, [query], window, options.only, exact=options.exact)
        hits, rejected = _cut(gathered, options)
        folded = diversify.fold(collections, hits)
        if len(folded) >= options.k or len(hits) < window:
            break
    return Ranking(folded[: options.k], rejected)


def _gathered(
    collections: Sequence[Collection],
    queries: Sequence[Embedded],
    k: int,
    only: Filter,
    *,
    exact: bool,
) -> list[list[Hit]]:
    """For each query, the ``k`` best pictures of all collections, judged, however poor."""
    if not queries:
        return []
    found: list[list[Hit]] = [[] for _ in queries]
    most_left_out = max(len(query.left_out) for query in queries)
    vectors = np.stack([query.vector for query in queries])
    for collection in collections:
        of_each = collection.store.search_each(
            vectors, k + most_left_out, collection.restricted(only), exact=exact
        )
        for query, hits, gathered in zip(queries, of_each, found, strict=True):
            scored = [
                replace(hit, score=hit.score + query.offset)
                for hit in hits
                if not _is_left_out(hit, query)
            ]
            gathered += collection.judged(scored, query.kind)
    return [_merged(hits)[:k] for hits in found]


def _merged(hits: Sequence[Hit]) -> list[Hit]:
    """Best first, and each file once."""
    ranked: dict[bytes, Hit] = {}
    for hit in sorted(hits, key=lambda hit: (-hit.score, hit.root, hit.id)):
        ranked.setdefault(absolute(os.fsencode(hit.root), hit.path), hit)
    return list(ranked.values())


def _cut(ranked: list[Hit], options: SearchOptions) -> Ranking:
    """The hits that are good enough; what was never measured is."""
    if options.all:
        return Ranking(ranked)
    hits = [
        hit
        for hit in ranked
        if hit.false_alarm is None or hit.false_alarm <= options.max_false_alarm
    ]
    return Ranking(hits, None if hits or not ranked else ranked[0])


def _is_left_out(hit: Hit, query: Embedded) -> bool:
    """Whether a hit is a file that the query leaves out."""
    if not query.left_out:
        return False
    path = absolute(os.fsencode(hit.root), hit.path)
    for file in query.left_out:
        with suppress(OSError):
            if os.path.samefile(path, os.fsencode(file)):
                return True
    return False
