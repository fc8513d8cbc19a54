"""How many lists of an inverted file a search has to read (FAISS's nprobe), and what it finds then.

An inverted file (Jegou, Douze & Schmid 2011) keeps vectors in lists, one for each centroid of a
k-means, and a search reads only the lists whose centroids are nearest to the query. What that
loses depends on the queries: the embeddings of texts lie apart from those of images, and their
best images are spread over more lists. So the number of lists to read is chosen with texts, and
what that finds of the exact result is measured with other texts.
"""

import math

import numpy as np
import numpy.typing as npt

from clipsearch.records import ClusterSearch, Vectors

Rows = npt.NDArray[np.int64]

RECALL = 0.99
"""The least share of the exact ten best that a search through clusters must find."""

_RECALL_AIMED_AT = 0.995
"""On the queries that choose, so that the others seldom fall below RECALL by chance."""

BEST = 10

_WORTH_IT = 0.5
"""A search that reads more of the vectors than this may as well be exact."""


def measure(queries: Vectors, centroids: Vectors, labels: Rows, best: Rows) -> ClusterSearch:
    """How many lists a search must read, and what it finds then.

    queries: ``(q, dim)``, at least two. labels: ``(n,)``, the list of each vector. best:
    ``(q, BEST)``, the exact best rows of each query. Every other query helps to choose the number,
    by the ranks of the lists that its best are in; recall and cost are those of the other half.
    Where that half finds less than RECALL, the number is doubled until it does not.
    """
    scores = queries @ centroids.T  # (q, lists)
    ranking = np.argsort(-scores, axis=1)
    ranks = np.argsort(ranking, axis=1)  # (q, lists): how many lists are nearer than each
    needed = np.take_along_axis(ranks, labels[best], axis=1)  # (q, BEST)
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
