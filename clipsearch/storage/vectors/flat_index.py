"""FAISS over a mapped file of vectors, on all cores; the only room that imports it.

It is apart from ``vector_file`` because a small collection is searched sooner without it.
"""

import os
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from clipsearch.records import Vectors

Ids = npt.NDArray[np.int64]

_WORTH_A_THREAD = 100_000
"""As many vectors take 20 ms to search, against which the start of a thread is nothing."""


class FlatIndex:
    """An exhaustive index (IndexIDMap over a flat IndexScalarQuantizer) in a file."""

    def __init__(self, path: Path) -> None:
        """Map the file. Raises RuntimeError (FAISS's own) if it is no such index."""
        with _path_for_faiss(path) as name:
            self._index = faiss.read_index(name, faiss.IO_FLAG_MMAP_IFC)
        self._flat = faiss.downcast_index(self._index.index)  # the same by row
        self._count = int(self._index.ntotal)

    def search(self, query: Vectors, k: int, among: Ids | None = None) -> tuple[Ids, Vectors]:
        """The ``k`` best ids and their inner products with ``query`` ``(dim,)``, best first.

        ``among`` restricts the search to the ids it names.
        """
        if among is not None:
            return _search(self._index, query, k, faiss.IDSelectorBatch(among))
        parts = _threads_for(self._count)
        bounds = np.linspace(0, self._count, parts + 1).astype(np.int64).tolist()
        ranges = [faiss.IDSelectorRange(*part) for part in pairwise(bounds)]
        return self._search_parts(query, k, ranges if parts > 1 else [None])

    def search_rows(self, query: Vectors, k: int, starts: Ids, ends: Ids) -> tuple[Ids, Vectors]:
        """The same of the rows from each of ``starts`` to that of ``ends``, all of them ``(m,)``.

        A row that is not among them is passed over unread: it need not be in memory.
        """
        selectors = []
        parts = _threads_for(int(np.sum(ends - starts)))
        for part in np.array_split(np.arange(len(starts)), parts):
            selected = np.zeros(self._count, np.bool_)
            for start, end in zip(starts[part], ends[part], strict=True):
                selected[start:end] = True
            selectors.append(faiss.IDSelectorBitmap(np.packbits(selected, bitorder="little")))
        return self._search_parts(query, k, selectors)

    def _search_parts(
        self, query: Vectors, k: int, selectors: list["faiss.IDSelector | None"]
    ) -> tuple[Ids, Vectors]:
        """Search what each of the ``selectors`` of rows lets through, in a thread for each."""
        if len(selectors) == 1:
            rows, scores = _search(self._flat, query, k, selectors[0])
        else:
            from concurrent.futures import ThreadPoolExecutor  # here: few searches are so large

            with ThreadPoolExecutor(len(selectors)) as threads:  # FAISS lets go of Python's lock
                found = threads.map(lambda some: _search(self._flat, query, k, some), selectors)
                rows, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        ids = faiss.rev_swig_ptr(self._index.id_map.data(), self._count)[rows]
        best = np.lexsort((ids, -scores))[:k]
        return ids[best], scores[best]


def _threads_for(rows: int) -> int:
    return min(os.cpu_count() or 1, rows // _WORTH_A_THREAD + 1)


def _search(
    index: "faiss.Index", query: Vectors, k: int, selector: "faiss.IDSelector | None"
) -> tuple[Ids, Vectors]:
    """Search what ``selector`` lets through, or everything."""
    parameters = None if selector is None else faiss.SearchParameters(sel=selector)
    # FAISS divides the queries among threads. There is one, for which the others would only be
    # waited for; whoever else shares this OpenMP (torch may) finds its setting again.
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        scores, ids = index.search(query[np.newaxis], k, params=parameters)
    finally:
        faiss.omp_set_num_threads(threads)
    found = ids[0] >= 0
    return ids[0][found], scores[0][found]


class _path_for_faiss:  # noqa: N801  (used like contextlib.nullcontext)
    """FAISS takes a path as UTF-8; a folder with another name is reached by its descriptor."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def __enter__(self) -> str:
        try:
            os.fspath(self._path).encode()
        except UnicodeEncodeError:
            self._descriptor = os.open(self._path, os.O_RDONLY)
            return f"/dev/fd/{self._descriptor}"
        return os.fspath(self._path)

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
