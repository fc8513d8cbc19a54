"""How many lists of an inverted file a search has to read (FAISS's nprobe), and its recall.

An inverted file (Jegou, Douze & Schmid 2011) keeps vectors in lists, one for each centroid of a
k-means, and a search reads only the lists whose centroids are nearest to the query. The loss
depends on the queries: text embeddings are far from image embeddings, and their best images are
spread over more lists. So the number of lists to read is chosen with texts, and its recall is
measured with other texts.
"""

import math

import numpy as np
import numpy.typing as npt

from clipsearch.records import ClusterSearch, Vectors

Rows = npt.NDArray[np.int64]

RECALL = 0.99
"""The share of the exact ten best that a search by clusters must find."""

_RECALL_AIMED_AT = 0.995
"""The target on the queries that choose, so that the others rarely fall below RECALL by chance."""

BEST = 10

_WORTH_IT = 0.5
"""A search that reads a larger share of the vectors than this may as well be exact."""


def measure(queries: Vectors, centroids: Vectors, labels: Rows, best: Rows) -> ClusterSearch:
    """How many lists a search must read, and its recall.

    queries: ``(q, dim)``, at least two. labels: ``(n,)``, the list of each vector. best:
    ``(q, BEST)``, the exact best rows of each query. Every other query helps to choose the number,
    by the ranks of the lists that hold its best rows; the other half measures recall and cost. If
    its recall is below RECALL, the number is doubled until it is not.
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
    """Whether such a search reads few enough vectors to replace the exact one."""
    return measured.scanned <= _WORTH_IT
