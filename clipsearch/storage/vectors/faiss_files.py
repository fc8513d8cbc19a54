"""FAISS over memory-mapped files of vectors, on all cores; the only file that imports it.

It is separate from ``vector_file`` because a small collection is searched faster without it.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from clipsearch.records import Vectors

Half = npt.NDArray[np.float16]
Ids = npt.NDArray[np.int64]

_WORTH_A_THREAD = 100_000
"""Searching this many vectors takes 20 ms; starting a thread takes far less."""

_ITERATIONS = 10

_SPLIT_PROBES = 1
"""The ``parallel_mode`` of FAISS that divides the lists of one query among threads."""


class FlatIndex:
    """An exhaustive index (IndexIDMap over a flat IndexScalarQuantizer) in a file."""

    def __init__(self, path: Path) -> None:
        """Map the file. Raises RuntimeError (FAISS's own) if it is not such an index."""
        self._index = _mapped(path)
        self._flat = faiss.downcast_index(self._index.index)  # the same vectors, by row
        self._count = int(self._index.ntotal)

    def search(self, query: Vectors, k: int, among: Ids | None = None) -> tuple[Ids, Vectors]:
        """The ``k`` best ids and their inner products with ``query`` ``(dim,)``, best first.

        ``among`` restricts the search to the ids it names.
        """
        if among is not None:
            return _search(self._index, query, k, faiss.IDSelectorBatch(among))
        parts = min(os.cpu_count() or 1, self._count // _WORTH_A_THREAD + 1)
        bounds = np.linspace(0, self._count, parts + 1).astype(np.int64).tolist()
        ranges = [faiss.IDSelectorRange(*part) for part in pairwise(bounds)]
        return self._search_parts(query, k, ranges if parts > 1 else [None])

    def _search_parts(
        self, query: Vectors, k: int, selectors: list["faiss.IDSelector | None"]
    ) -> tuple[Ids, Vectors]:
        """Search the rows that each selector accepts, with one thread per selector."""
        if len(selectors) == 1:
            rows, scores = _search(self._flat, query, k, selectors[0])
        else:
            from concurrent.futures import ThreadPoolExecutor  # here: few searches are this large

            with ThreadPoolExecutor(len(selectors)) as threads:  # FAISS releases Python's lock
                found = threads.map(lambda some: _search(self._flat, query, k, some), selectors)
                rows, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        ids = faiss.rev_swig_ptr(self._index.id_map.data(), self._count)[rows]
        return _best_first(ids, scores, k)


class InvertedFile:
    """An IndexIVFScalarQuantizer in a file, of which a search reads a few lists or all."""

    def __init__(self, path: Path) -> None:
        """Map the file. Raises RuntimeError (FAISS's own) if it is not such an index."""
        self._index = _mapped(path)
        self._index.parallel_mode = _SPLIT_PROBES

    def search(
        self, query: Vectors, k: int, among: Ids | None = None, *, probed: int | None = None
    ) -> tuple[Ids, Vectors]:
        """The ``k`` best ids and their inner products with ``query`` ``(dim,)``, best first.

        ``among`` restricts the search to the ids it names, and ``probed`` to the ``probed`` lists
        with the nearest centroids; these may hold fewer than ``k``.
        """
        parameters = faiss.SearchParametersIVF(
            sel=None if among is None else faiss.IDSelectorBatch(among),
            nprobe=probed or self._index.nlist,
        )
        scores, ids = self._index.search(query[np.newaxis], k, params=parameters)
        found = ids[0] >= 0
        return _best_first(ids[0][found], scores[0][found], k)


class Clusters:
    """The centroids of an inverted file that is being written, before its lists have vectors."""

    def __init__(self, sample: Half, lists: int) -> None:
        """Find ``lists`` centroids of the unit vectors ``(n, dim)`` by spherical k-means.

        Dhillon & Modha (2001), as implemented in FAISS. Deterministic for the same vectors.
        """
        dim = sample.shape[1]
        # The code of a vector is the vector itself and not its residual, so that an exact search
        # gives the same scores as in a flat index.
        self._index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(dim),
            dim,
            lists,
            faiss.ScalarQuantizer.QT_fp16,
            faiss.METRIC_INNER_PRODUCT,
            False,
        )
        self._index.cp.spherical = True
        self._index.cp.niter = _ITERATIONS
        self._index.cp.min_points_per_centroid = 1  # otherwise FAISS prints a warning
        self._index.train(sample.astype(np.float32))

    @property
    def centroids(self) -> Vectors:
        """All centroids, ``(lists, dim)``."""
        found: Vectors = self._index.quantizer.reconstruct_n(0, self._index.nlist)
        return found

    def assign(self, vectors: Half) -> Ids:
        """The list of each of ``(n, dim)`` vectors, ``(n,)``: the one with the nearest centroid."""
        _, labels = self._index.quantizer.search(vectors.astype(np.float32), 1)
        found: Ids = labels[:, 0]
        return found

    def head(self, sizes: Ids) -> bytes:
        """What FAISS writes before the lists, whose sizes are ``sizes``, ``(lists,)``.

        The lists follow (index_write.cpp, ``ilar``): for each its codes, then its ids. FAISS's own
        writer needs the whole index in memory.
        """
        self._index.ntotal = int(sizes.sum())
        empty: bytes = faiss.serialize_index(self._index).tobytes()
        self._index.ntotal = 0
        code_size = self._index.code_size
        no_lists = b"ilar" + struct.pack("<QQ4sQ", len(sizes), code_size, b"sprs", 0)
        full = b"ilar" + struct.pack("<QQ4sQ", len(sizes), code_size, b"full", len(sizes))
        assert empty.endswith(no_lists)
        return empty.removesuffix(no_lists) + full + sizes.astype("<i8").tobytes()


def best_rows(vectors: Half, queries: Vectors, k: int) -> tuple[Ids, Vectors]:
    """Rows ``(q, k)`` of the vectors ``(n, dim)`` with the greatest inner products, and these.

    Exact. queries: ``(q, dim)``. The result has fewer columns if there are fewer vectors.
    """
    k = min(k, len(vectors))
    scores, rows = faiss.knn(
        queries, vectors.astype(np.float32), k, metric=faiss.METRIC_INNER_PRODUCT
    )
    return rows, scores


def _mapped(path: Path) -> "faiss.Index":
    with _path_for_faiss(path) as name:
        return faiss.read_index(name, faiss.IO_FLAG_MMAP_IFC)


def _search(
    index: "faiss.Index", query: Vectors, k: int, selector: "faiss.IDSelector | None"
) -> tuple[Ids, Vectors]:
    """Search the rows that ``selector`` accepts, or all rows."""
    parameters = None if selector is None else faiss.SearchParameters(sel=selector)
    # FAISS divides queries among threads. With one query, other threads would only cost time. The
    # setting is restored, since others (such as torch) may share this OpenMP.
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        scores, ids = index.search(query[np.newaxis], k, params=parameters)
    finally:
        faiss.omp_set_num_threads(threads)
    found = ids[0] >= 0
    return ids[0][found], scores[0][found]


def _best_first(ids: Ids, scores: Vectors, k: int) -> tuple[Ids, Vectors]:
    best = np.lexsort((ids, -scores))[:k]
    return ids[best], scores[best]


@contextmanager
def _path_for_faiss(path: Path) -> Iterator[str]:
    """FAISS takes paths as UTF-8; a path that is not UTF-8 is opened through its descriptor."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield f"/dev/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        yield os.fspath(path)
