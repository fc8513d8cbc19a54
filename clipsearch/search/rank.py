"""Gather, judge and cut the hits of queries.

Hits of all collections are gathered into one ranking, judged as a whole (see ``judge``), and cut
where they are no longer good enough.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from clipsearch.domain.cut import length
from clipsearch.domain.verdict import BEST
from clipsearch.paths import absolute
from clipsearch.records import Filter, Hit, Vectors
from clipsearch.search.embed import Embedded
from clipsearch.search.judge import Floats, Judgment, base, judge
from clipsearch.search.query import SearchOptions
from clipsearch.storage.collection import Collection, Level

_WINDOWS = (100, 1_000, 10_000)
"""How many images to examine, in turn, until the list ends among them and matches are counted."""

MOST_COUNTED = _WINDOWS[-1]
"""Matches beyond this number are not counted, unless more hits are requested."""

_NEAREST = 6
"""How many images to report if none is good enough."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """What was found for one query."""

    hits: list[Hit]
    """Best first."""
    judgment: Judgment
    matching: int
    """How many images match, of which ``hits`` are the best; at most 10,000 are counted."""
    nearest: Sequence[Hit] = ()
    """The best few images, if there are no hits because no image is good enough."""


def judge_each(
    collections: Sequence[Collection], queries: Sequence[Embedded], only: Filter
) -> list[Judgment]:
    """Judge each query like ``rank_each``, but without its list of hits."""
    return _Searched(collections, only, exact=False).judge_each(queries)


def rank_each(
    collections: Sequence[Collection], queries: Sequence[Embedded], options: SearchOptions
) -> list[Ranking]:
    """For each query, the best hits of all ``collections`` together, at most ``options.k``.

    An image in several collections, because their roots overlap, is one hit. Files that a query
    leaves out are never hits.
    """
    rankings: dict[int, Ranking] = {}
    for of_class in dict.fromkeys(query.of_class for query in queries):
        group = [n for n, query in enumerate(queries) if query.of_class == of_class]
        only = options.only if of_class is None else replace(options.only, of_class=of_class)
        searched = _Searched(collections, only, exact=options.exact)
        found = searched.rank_each([queries[n] for n in group], options)
        rankings |= zip(group, found, strict=True)
    return [rankings[n] for n in range(len(queries))]


class _Searched:
    """The images to search: those of all collections that pass a filter."""

    def __init__(self, collections: Sequence[Collection], only: Filter, *, exact: bool) -> None:
        self._collections = collections
        self._exact = exact
        self._filters = [collection.restricted(only) for collection in collections]
        levels = [
            collection.level(own)
            for collection, own in zip(collections, self._filters, strict=True)
        ]
        calibrated = all(collection.is_calibrated for collection in collections)
        self._levels = levels if calibrated else [None] * len(levels)
        self._measured = [level for level in self._levels if level is not None]

    def rank_each(self, queries: Sequence[Embedded], options: SearchOptions) -> list[Ranking]:
        """Rank each query; examine more images until its list ends among them."""
        rankings: dict[int, Ranking] = {}
        pending = list(range(len(queries)))
        for window in _windows(options):
            found = self._gathered([queries[n] for n in pending], window)
            open_ended = []
            for n, gathered in zip(pending, found, strict=True):
                rankings[n], ends = self._cut(queries[n], gathered, window, options)
                if not ends:
                    open_ended.append(n)
            pending = open_ended
            if not pending:
                break
        return [rankings[n] for n in range(len(queries))]

    def judge_each(self, queries: Sequence[Embedded]) -> list[Judgment]:
        """Judge each query by its best images."""
        gathered = self._gathered(queries, BEST)
        return [self._judged(*pair) for pair in zip(queries, gathered, strict=True)]

    def _judged(self, query: Embedded, gathered: "_Gathered") -> Judgment:
        ranked = _merged(gathered.hits)
        return judge(query, ranked, self._measured, gathered.tops) if ranked else Judgment()

    def _gathered(self, queries: Sequence[Embedded], window: int) -> list["_Gathered"]:
        """For each query, the ``window`` best images of all collections, no matter how poor."""
        if not queries:
            return []
        found = [_Gathered(query) for query in queries]
        most_left_out = max(len(query.left_out) for query in queries)
        levels = zip(self._collections, self._filters, self._levels, strict=True)
        for collection, only, level in levels:
            rows = [gathered.rows(level) for gathered in found]
            of_each = iter(
                collection.store.search_each(
                    np.concatenate(rows), window + most_left_out, only, exact=self._exact
                )
            )
            for gathered, own in zip(found, rows, strict=True):
                gathered.add(collection, [next(of_each) for _ in own], only)
        return found

    def _cut(
        self, query: Embedded, gathered: "_Gathered", window: int, options: SearchOptions
    ) -> tuple[Ranking, bool]:
        """The hits that are good enough, and whether the list ends among the examined ones."""
        ranked = _merged(gathered.hits)[:window]
        if not ranked:
            return Ranking([], Judgment(), 0), True
        judgment = judge(query, ranked, self._measured, gathered.tops)
        ranked = [replace(hit, verdict=judgment.verdict, rate=judgment.rate) for hit in ranked]
        good = ranked
        if not options.all and query.of_class is None:
            if _is_refused(judgment, options):
                return Ranking([], judgment, 0, ranked[:_NEAREST]), True
            good = [hit for hit in ranked if hit.score >= judgment.least]
            # Images marked good or bad can make the list longer, but never shorter.
            good = ranked[: max(len(good), gathered.matching_text(self._measured))]
            good = [hit for hit in good if (hit.false_alarm or 0) <= options.max_false_alarm]
        ends = len(good) < len(ranked) or len(ranked) < window
        hits = good
        if options.diverse:
            hits = _diverse(self._collections, good)
            ends |= len(hits) >= options.k
        else:
            ends |= options.all
        nearest = () if hits else ranked[:_NEAREST]
        return Ranking(hits[: options.k], judgment, len(hits), nearest), ends


class _Gathered:
    """Collects what each collection finds for one query."""

    def __init__(self, query: Embedded) -> None:
        self._query = query
        self._text = query.aims[0] if query.feedback and len(query.aims) == 1 else None
        self.hits: list[Hit] = []
        """Judged individually, in no particular order."""
        self.tops: list[list[Floats]] = [[] for _ in query.aims]
        """For each aim, the best centered scores ``(k,)`` in each collection that has images."""
        self._text_scores: list[float] = []

    def rows(self, level: Level | None) -> Vectors:
        """The vectors to search for: the query, each centered aim, and a text that was refined.

        Returns ``(q, dim)``.
        """
        query = self._query
        aims = [aim.vector - level.centre for aim in query.aims] if level else []
        text = [self._text.vector] if self._text else []
        return np.stack([query.vector, *aims, *text])

    def add(self, collection: Collection, found: Sequence[Sequence[Hit]], only: Filter) -> None:
        """Add what a collection found for the ``rows``. only: the filter of the search."""
        query = self._query
        scored = [
            replace(hit, score=hit.score + query.offset)
            for hit in found[0]
            if not _is_left_out(hit, query)
        ]
        self.hits += collection.judged(scored, query.kind, only)
        if self._text:
            self._text_scores += [hit.score for hit in found[-1]]
        of_aims = found[1 : len(found) - bool(self._text)]
        for tops, hits in zip(self.tops, of_aims, strict=bool(of_aims)):
            if hits:
                tops.append(np.array([hit.score for hit in hits[:BEST]]))

    def matching_text(self, levels: Sequence[Level]) -> int:
        """How many images match the text alone, if images were marked for it."""
        if self._text is None or not levels:
            return 0
        alone = replace(self._query, vector=self._text.vector, offset=0.0, by_example=False)
        scores = np.sort(self._text_scores)[::-1]
        return length(scores, *base(alone, levels))


def _windows(options: SearchOptions) -> list[int]:
    if options.diverse:
        from clipsearch.search import diversify  # here, since it imports the decoders

        return list(diversify.windows(options.k))
    return sorted({max(options.k, window) for window in _WINDOWS})


def _diverse(collections: Sequence[Collection], hits: list[Hit]) -> list[Hit]:
    from clipsearch.search import diversify  # as above

    return diversify.fold(collections, hits)


def _is_refused(judgment: Judgment, options: SearchOptions) -> bool:
    return judgment.verdict == "none" or (options.strict and judgment.verdict == "weak")


def _merged(hits: Sequence[Hit]) -> list[Hit]:
    """Sort hits best first, and keep each file once."""
    ranked: dict[bytes, Hit] = {}
    for hit in sorted(hits, key=lambda hit: (-hit.score, hit.root, hit.id)):
        ranked.setdefault(absolute(os.fsencode(hit.root), hit.path), hit)
    return list(ranked.values())


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
