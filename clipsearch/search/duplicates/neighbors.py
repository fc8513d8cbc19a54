"""Find embeddings that are near each other, by exact comparison, and group them.

Every pair is compared, as products of blocks of rows, in our own threads: the command line limits
numpy's products to one thread, which suits single queries. Only the best product of each row is
kept, so memory holds the embeddings and a few blocks.

Groups form around leaders (Hartigan 1975, the leader algorithm). The images come best first. Each
joins the most similar leader that is near enough, or becomes a leader itself. Joining everything
near *any* member, as union-find over pairs does, makes chains: A is like B and B is like C, until
the first and the last image of a summer are one group. Here every member is near its leader, which
comes before it. If you keep the leader, you keep an image that is near every one you delete.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from clipsearch.records import Vectors

Half = npt.NDArray[np.float16]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

Confirm = Callable[[Rows, Rows], Mask]
"""``(r,)`` and ``(c,)`` rows -> ``(r, c)``: which pairs are confirmed as near-duplicates."""

Count = Callable[[int, int], None]
"""Called with the number of finished rows and the total."""

_BLOCK = 2048
"""Rows per block. A product of two blocks is 16 MB; each thread holds one."""
_LEADERS = 4096
_THREADS = min(8, os.cpu_count() or 1)
ROUNDING = 1e-6
"""The product of a unit vector with itself is 1 to within this."""

_T = TypeVar("_T")
_R = TypeVar("_R")


def best_similarities(vectors: Half, count: Count = lambda done, total: None) -> Vectors:
    """For each of ``(n, dim)`` embeddings, the greatest cosine similarity to another: ``(n,)``.

    Minus infinity if there is no other.
    """
    total = len(vectors)
    best = np.full(total, -np.inf, np.float32)

    def of_block(start: int) -> tuple[int, Vectors]:
        """The best of the rows from ``start`` on, from the products with all later rows."""
        found = np.full(total - start, -np.inf, np.float32)
        own = _unit(vectors[start : start + _BLOCK])
        for at in range(start, total, _BLOCK):
            products = own @ _unit(vectors[at : at + _BLOCK]).T
            if at == start:
                np.fill_diagonal(products, -np.inf)
            rows, columns = found[: len(own)], found[at - start : at - start + _BLOCK]
            np.maximum(rows, products.max(axis=1), out=rows)
            np.maximum(columns, products.max(axis=0), out=columns)
        return start, found

    for start, found in _in_threads(of_block, range(0, total, _BLOCK)):
        np.maximum(best[start:], found, out=best[start:])
        count(min(start + _BLOCK, total), total)
    return best


def lead(
    vectors: Half,
    threshold: float,
    confirm: Confirm | None = None,
    count: Count = lambda done, total: None,
) -> tuple[Rows, Vectors]:
    """The leader of each of ``(n, dim)`` embeddings, given best first, and its similarity.

    Returns ``(n,)`` rows and ``(n,)`` cosine similarities. A leader leads itself, with similarity
    1. The leader of any other row comes before it, has a similarity of at least ``threshold``, and
    is confirmed by ``confirm``, if given. No two leaders meet these conditions.
    """
    total = len(vectors)
    leader = np.arange(total)
    similarity = np.ones(total, np.float32)
    leaders = np.empty(0, np.int64)
    least = threshold - ROUNDING

    def near(rows: Rows, own: Vectors, columns: Rows) -> Vectors:
        """Similarities ``(r, c)``; minus infinity if a pair is not near."""
        products: Vectors = own @ _unit(vectors[columns]).T
        close = (products >= least) & (columns < rows[:, np.newaxis])
        some, others = np.flatnonzero(close.any(axis=1)), np.flatnonzero(close.any(axis=0))
        if confirm is not None and len(some):
            close[np.ix_(some, others)] &= confirm(rows[some], columns[others])
        products[~close] = -np.inf
        return products

    def nearest_of(rows: Rows, own: Vectors, columns: Rows) -> tuple[Rows, Vectors]:
        """The most similar near column of each row, ``(r,)``, and its similarity."""
        products = near(rows, own, columns)
        at = products.argmax(axis=1)
        return columns[at], products[np.arange(len(rows)), at]

    for start in range(0, total, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, total))
        own = _unit(vectors[rows])
        nearest, best = rows.copy(), np.full(len(rows), -np.inf, np.float32)
        parts = [leaders[at : at + _LEADERS] for at in range(0, len(leaders), _LEADERS)]
        for columns, found in _in_threads(partial(nearest_of, rows, own), parts):
            better = found > best
            nearest[better], best[better] = columns[better], found[better]
        # A row of this block may lead a later one, so they are processed one at a time.
        products = near(rows, own, rows)
        leads = np.zeros(len(rows), np.bool_)
        for n in range(len(rows)):
            here = np.flatnonzero(leads[:n] & (products[n, :n] > best[n]))
            if len(here):
                at = here[np.argmax(products[n, here])]
                nearest[n], best[n] = rows[at], products[n, at]
            leads[n] = nearest[n] == rows[n]
        leader[rows] = nearest
        similarity[rows] = np.where(leads, 1.0, np.minimum(best, 1.0))
        leaders = np.concatenate([leaders, rows[leads]])
        count(start + len(rows), total)
    return leader, similarity


def _unit(vectors: Half) -> Vectors:
    """Rows in float32, normalized again after rounding; a zero row stays zero."""
    rows = vectors.astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Vectors = rows / np.maximum(lengths, ROUNDING)
    return unit


def _in_threads(function: Callable[[_T], _R], parts: Iterable[_T]) -> Iterator[_R]:
    """Apply ``function`` to each part in threads, in order."""
    with ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(function, parts)
