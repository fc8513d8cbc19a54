"""Clusters of vectors, and how many of them a search has to look through.

An inverted file (Jegou, Douze & Schmid 2011) keeps vectors in lists, one for each centroid of a
k-means, and a search reads only the lists whose centroids are nearest to the query. What that
loses depends on the queries: the embeddings of texts lie apart from those of pictures, and their
best pictures are spread over more lists. So the number of lists to read is chosen with texts, and
what that finds of the exact result is measured with other texts.
"""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from clipsearch.records import ClusterSearch, Vectors
from clipsearch.vectors import l2_normalise

Half = npt.NDArray[np.float16]
Rows = npt.NDArray[np.int64]

RECALL = 0.99
"""The least share of the exact ten best that a search through clusters must find."""

_RECALL_AIMED_AT = 0.995
"""On the queries that choose, so that the others seldom fall below RECALL by chance."""

_BEST = 10
_WORTH_IT = 0.5
"""A search that reads more of the vectors than this may as well be exact."""

_ITERATIONS = 10
_SAMPLE_PER_CENTROID = 40
_ROWS_AT_ONCE = 1024
_THREADS = min(8, os.cpu_count() or 1)
"""Each holds a product of ``_ROWS_AT_ONCE`` by centroids: 16 MB for 4,000 of them."""

_T = TypeVar("_T")

Told = Callable[[int], None]
"""Called with how many inner products have been computed since the last call."""


def _nobody(products: int) -> None: ...


def products_of_training(count: int) -> int:
    """How many inner products it takes to ``train`` on so many vectors, and to ``assign`` them."""
    lists = _lists_of(count)
    return lists * (_ITERATIONS * min(count, _SAMPLE_PER_CENTROID * lists) + count)


def _lists_of(count: int) -> int:
    return min(count, round(2 * math.sqrt(count)))


def train(vectors: Half, told: Told = _nobody) -> Vectors:
    """Centroids ``(lists, dim)`` by spherical k-means (Dhillon & Modha 2001) on a sample.

    vectors: ``(n, dim)``, which may be mapped from a file and is read a few rows at a time.
    The number of lists is twice the root of ``n``. The same vectors give the same centroids.
    """
    count = len(vectors)
    lists = _lists_of(count)
    random = np.random.default_rng(0)
    sample = random.choice(count, min(count, _SAMPLE_PER_CENTROID * lists), replace=False)
    centroids = vectors[np.sort(sample[:lists])].astype(np.float32)
    sample.sort()
    for _ in range(_ITERATIONS):
        sums = np.zeros_like(centroids)
        labels = _assign(vectors, sample, centroids, told)
        for rows, own in zip(_parts(sample), _parts(labels), strict=True):
            np.add.at(sums, own, vectors[rows].astype(np.float32))
        filled = np.any(sums, axis=1)  # an empty list keeps its centroid
        centroids[filled] = l2_normalise(sums[filled])
    return centroids


def assign(vectors: Half, centroids: Vectors, told: Told = _nobody) -> Rows:
    """The list of each of ``(n, dim)`` vectors, ``(n,)``: that of the nearest centroid."""
    return _assign(vectors, np.arange(len(vectors)), centroids, told)


def _assign(vectors: Half, rows: Rows, centroids: Vectors, told: Told) -> Rows:
    def nearest(some: Half) -> Rows:
        labels: Rows = np.argmax(some.astype(np.float32) @ centroids.T, axis=1)
        return labels

    found = []
    for labels in _in_threads(nearest, vectors, rows):
        found.append(labels)
        told(len(labels) * len(centroids))
    return np.concatenate(found)


def exact_best(vectors: Half, queries: Vectors, told: Told = _nobody) -> Rows:
    """Rows of the ten vectors with the greatest inner products, ``(q, 10)`` in any order.

    vectors: ``(n, dim)``. queries: ``(q, dim)``. Fewer columns if there are fewer vectors.
    """

    def best_of(scores: Vectors) -> Rows:
        k = min(_BEST, scores.shape[1])
        return np.argpartition(-scores, k - 1, axis=1)[:, :k]

    def best_here(some: Half) -> tuple[Rows, Vectors]:
        scores = queries @ some.astype(np.float32).T
        columns = best_of(scores)
        return columns, np.take_along_axis(scores, columns, axis=1)

    rows = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    every = np.arange(len(vectors))
    for part, (columns, found) in zip(
        _parts(every), _in_threads(best_here, vectors, every), strict=True
    ):
        rows = np.concatenate([rows, part[columns]], axis=1)
        scores = np.concatenate([scores, found], axis=1)
        best = best_of(scores)
        rows = np.take_along_axis(rows, best, axis=1)
        scores = np.take_along_axis(scores, best, axis=1)
        told(len(part) * len(queries))
    return rows


def measure(queries: Vectors, centroids: Vectors, labels: Rows, best: Rows) -> ClusterSearch:
    """How many lists a search must read, and what it finds then.

    queries: ``(q, dim)``, at least two. labels: ``(n,)``, the list of each vector. best:
    ``(q, 10)``, as ``exact_best`` gives them. Every other query helps to choose the number, by
    the ranks of the lists that its best are in; recall and cost are those of the other half. Where
    that half finds less than RECALL, the number is doubled until it does not.
    """
    scores = queries @ centroids.T  # (q, lists)
    ranking = np.argsort(-scores, axis=1)
    ranks = np.argsort(ranking, axis=1)  # (q, lists): how many lists are nearer than each
    needed = np.take_along_axis(ranks, labels[best], axis=1)  # (q, 10)
    choosing = np.sort(needed[::2], axis=None)
    probed = int(choosing[math.ceil(_RECALL_AIMED_AT * len(choosing)) - 1]) + 1
    testing = needed[1::2]
    while np.mean(testing < probed) < RECALL:
        probed = min(2 * probed, len(centroids))
    sizes = np.bincount(labels, minlength=len(centroids))
    read = sizes[ranking[1::2, :probed]].sum(axis=1)
    return ClusterSearch(
        lists=len(centroids),
        probed=probed,
        recall=float(np.mean(testing < probed)),
        queries=len(testing),
        scanned=float(read.mean() / len(labels)),
    )


def is_worth_it(measured: ClusterSearch) -> bool:
    """Whether such a search reads little enough to stand in for the exact one."""
    return measured.scanned <= _WORTH_IT


def nearest_lists(query: Vectors, centroids: Vectors, probed: int) -> Rows:
    """The ``probed`` lists to search for a query ``(dim,)``, in any order."""
    return np.argpartition(-(centroids @ query), probed - 1)[:probed]


def _parts(rows: Rows) -> list[Rows]:
    return [rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE)]


def _in_threads(function: Callable[[Half], _T], vectors: Half, rows: Rows) -> Iterator[_T]:
    """``function`` of a few of the ``rows`` of ``vectors`` after the other, in their order.

    In threads of our own and not in those of the matrix product, which the command line keeps
    to one for the sake of single queries.
    """
    with ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(lambda part: function(vectors[part]), _parts(rows))
