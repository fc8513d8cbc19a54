"""Vector arithmetic that needs only numpy; the tests also use its exact search as their oracle."""

import numpy as np
import numpy.typing as npt

from clipsearch.records import Vectors


def l2_normalise(vectors: npt.ArrayLike) -> Vectors:
    """Scale each row of ``(..., dim)`` to unit length, in float32.

    Raises ValueError for a zero vector: it has no direction, so a score against it means nothing.
    """
    array = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(array, axis=-1, keepdims=True)
    if not np.all(np.isfinite(norms)) or np.any(norms == 0):
        raise ValueError("a vector without a direction (zero, infinite or not a number)")
    unit: Vectors = array / norms
    return unit


def top_k(
    query: Vectors,
    ids: npt.NDArray[np.int64],
    vectors: npt.NDArray[np.floating],
    k: int,
) -> tuple[npt.NDArray[np.int64], Vectors]:
    """The ``k`` rows most similar to ``query`` by inner product, best first.

    query: ``(dim,)`` float32. ids: ``(n,)``. vectors: ``(n, dim)``, any float dtype.
    Ties are broken by the smaller id, so the ranking is the same on every run.
    """
    return best_k(vectors.astype(np.float32) @ query, ids, k)


def best_k(
    scores: Vectors, ids: npt.NDArray[np.int64], k: int
) -> tuple[npt.NDArray[np.int64], Vectors]:
    """The ``k`` greatest of ``(n,)`` scores and their ids, greatest first; ties as in ``top_k``."""
    if k < len(scores):
        # Keep all ties with the k-th best, so that the partition does not choose among them.
        edge = np.partition(scores, -k)[-k]
        chosen = np.flatnonzero(scores >= edge)
    else:
        chosen = np.arange(len(scores))
    order = chosen[np.lexsort((ids[chosen], -scores[chosen]))][:k]
    return ids[order], scores[order].astype(np.float32)
