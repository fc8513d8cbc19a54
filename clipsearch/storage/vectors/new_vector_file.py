"""Write a new FAISS file in bounded memory next to the current one, and then replace that.

FAISS's own writer needs the whole index in memory. QT_fp16's code of a vector is the vector in
fp16, so the vectors are written as they are, around what FAISS writes for an empty index.
"""

import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from clipsearch.records import ClusterSearch, Vectors
from clipsearch.storage.vectors import blocks, nprobe
from clipsearch.storage.vectors.vector_file import NOTHING_TRIED, Half, Ids, Stamp, Trailer

if TYPE_CHECKING:
    from clipsearch.storage.vectors.faiss_files import Clusters

_SAMPLE_PER_LIST = 40
"""FAISS warns below 39."""

_BYTES_ASSIGNED = 64 << 20
_BYTES_SORTED = 512 << 20
"""Bytes of vectors in memory at a time; FAISS takes them as fp32, which doubles the bytes."""


class NewVectorFile:
    """The next file at ``path``. A context manager.

    Call ``write``, then optionally ``invert``, then ``replace``; temporary files are deleted on
    exit. Memory holds the ids, a sample and a chunk of vectors, never all vectors. While a file is
    inverted, the disk holds it twice.
    """

    def __init__(self, path: Path, dim: int, token: bytes, mode: int = 0o666) -> None:
        """path: its final location. mode: permissions, less the user's umask."""
        self._path = path
        self._dim = dim
        self._token = token
        self._mode = mode
        self._flat = path.with_name(path.name + ".new")
        self._inverted = path.with_name(path.name + ".inverted")
        self._ids = np.empty(0, np.int64)
        self._newest = 0
        self.left_out = 0
        """How many images were left out of it."""
        self._finished = self._flat

    def __enter__(self) -> "NewVectorFile":
        return self

    def __exit__(self, *_: object) -> None:
        for temporary in (self._flat, self._inverted):
            temporary.unlink(missing_ok=True)  # frees the space, for the disk may be full

    def write(
        self, chunks: Iterable[tuple[Ids, Half]], of: int | None = None, newest: int | None = None
    ) -> None:
        """Write chunks of ``(n,)`` ids and ``(n, dim)`` fp16 vectors, flat.

        of: how many there should be, up to the id ``newest`` (default: as many as are written); the
        rest are recorded as left out. Raises OSError.
        """
        with open(self._flat, "w+b", opener=self._opener) as file:
            file.write(_flat_head(self._dim, 0))
            seen = [np.empty(0, np.int64)]
            for ids, vectors in chunks:
                file.write(np.ascontiguousarray(vectors).data)
                seen.append(ids)
            self._ids = np.concatenate(seen)
            self.left_out = 0 if of is None else of - len(self._ids)
            self._newest = int(self._ids.max(initial=0)) if newest is None else newest
            file.write(struct.pack("<Q", len(self._ids)))
            file.write(self._ids.data)
            end = file.tell()
            file.seek(0)
            file.write(_flat_head(self._dim, len(self._ids)))
            self._finish(file, end, NOTHING_TRIED)

    def invert(
        self, queries: Vectors, told: Callable[[float], None] = lambda share: None
    ) -> ClusterSearch:
        """Turn it into an inverted file, if searching by lists is worth it.

        queries: ``(q, dim)`` unit vectors of texts, at least two, which choose how many lists a
        search reads and measure its recall. told: called with the share of vectors, from 0 to 1,
        that have been assigned to a list. The result has ``lists`` 0 if searches stay exact.
        Raises OSError.
        """
        from clipsearch.storage.vectors import faiss_files

        count = len(self._ids)
        if not count:
            return NOTHING_TRIED
        lists = min(count, round(2 * math.sqrt(count)))
        clusters = faiss_files.Clusters(self._sample(_SAMPLE_PER_LIST * lists), lists)
        labels = np.empty(count, np.int64)
        best: Ids = np.empty((len(queries), 0), np.int64)
        scores: Vectors = np.empty((len(queries), 0), np.float32)
        for start, vectors in self._vectors(_BYTES_ASSIGNED):
            labels[start : start + len(vectors)] = clusters.assign(vectors)
            rows, found = faiss_files.best_rows(vectors, queries, nprobe.BEST)
            best = np.concatenate([best, rows + start], axis=1)
            scores = np.concatenate([scores, found], axis=1)
            kept = np.argsort(-scores, axis=1)[:, : nprobe.BEST]
            best = np.take_along_axis(best, kept, axis=1)
            scores = np.take_along_axis(scores, kept, axis=1)
            told((start + len(vectors)) / count)
        measured = nprobe.measure(queries, clusters.centroids, labels, best)
        if not nprobe.is_worth_it(measured):
            measured = measured._replace(lists=0)
            with self._flat.open("r+b") as file:
                end = len(_flat_head(self._dim, count)) + count * (2 * self._dim + 8) + 8
                self._finish(file, end, measured)
            return measured
        with open(self._inverted, "w+b", opener=self._opener) as file:
            end = self._write_lists(file, clusters, labels)
            self._finish(file, end, measured)
        self._finished = self._inverted
        return measured

    def replace(self) -> None:
        """Replace the current file atomically: a reader sees the old file or the new one.

        Raises OSError.
        """
        os.replace(self._finished, self._path)

    def _write_lists(self, file: BinaryIO, clusters: "Clusters", labels: Ids) -> int:
        """Write what FAISS would write; return where it ends.

        Each chunk is sorted by list, so that each list gets one write per chunk: the disk sees
        long runs, and memory holds a chunk twice.
        """
        width = 2 * self._dim
        sizes = np.bincount(labels, minlength=len(clusters.centroids))
        head = clusters.head(sizes)
        file.write(head)
        starts = len(head) + np.cumsum(sizes) * (width + 8) - sizes * (width + 8)
        ends = starts.copy()  # where the written part of each list ends
        for start, vectors in self._vectors(_BYTES_SORTED):
            of_rows = labels[start : start + len(vectors)]
            order = np.argsort(of_rows, kind="stable")
            some, first = np.unique(of_rows[order], return_index=True)
            for label, rows in zip(some, np.split(order, first[1:]), strict=True):
                file.seek(ends[label])
                file.write(vectors[rows].data)
                ends[label] += width * len(rows)
        by_list = self._ids[np.argsort(labels, kind="stable")]
        for end, own in zip(ends, np.split(by_list, np.cumsum(sizes)[:-1]), strict=True):
            file.seek(end)
            file.write(own.data)
        return len(head) + len(labels) * (width + 8)

    def _sample(self, size: int) -> Half:
        """A random sample of ``size`` vectors, or all if there are fewer, ``(n, dim)``."""
        count = len(self._ids)
        chosen = np.random.default_rng(0).choice(count, min(count, size), replace=False)
        chosen.sort()
        parts = []
        for start, vectors in self._vectors(_BYTES_ASSIGNED):
            here = (chosen >= start) & (chosen < start + len(vectors))
            parts.append(vectors[chosen[here] - start])
        return np.concatenate(parts)

    def _vectors(self, size: int) -> Iterator[tuple[int, Half]]:
        """Chunks of the flat file, ``size`` bytes each: the first row, and vectors ``(n, dim)``."""
        at_once = max(1, size // (2 * self._dim))
        with self._flat.open("rb") as file:
            file.seek(len(_flat_head(self._dim, 0)))
            for start in range(0, len(self._ids), at_once):
                rows = min(at_once, len(self._ids) - start)
                read = np.fromfile(file, "<f2", rows * self._dim)
                yield start, read.reshape(rows, self._dim)

    def _opener(self, path: str, flags: int) -> int:
        return os.open(path, flags, self._mode)

    def _finish(self, file: BinaryIO, end: int, cluster_search: ClusterSearch) -> None:
        """Write our trailer after FAISS's data, which ends at ``end``, and sync to disk."""
        file.flush()
        sums = blocks.sums(file, end)
        stamp = Stamp(self._token, self._newest, len(self._ids), self.left_out)
        file.seek(end)
        file.write(Trailer(end, self._dim, stamp, cluster_search).pack(sums))
        file.flush()
        os.fsync(file.fileno())


def _flat_head(dim: int, count: int) -> bytes:
    """What precedes the codes in an IndexIDMap over an IndexScalarQuantizer (index_write.cpp)."""
    trained, metric, quantizer_type, unused = 1, 0, 4, 1 << 20  # inner product, fp16
    index = struct.pack("<iqqqBi", dim, count, unused, unused, trained, metric)
    quantizer = struct.pack("<iif", quantizer_type, 0, 0.0)
    sizes = struct.pack("<QQ", dim, 2 * dim)
    nothing_trained = struct.pack("<Q", 0)
    length = struct.pack("<Q", 2 * dim * count)
    return b"IxMp" + index + b"IxSQ" + index + quantizer + sizes + nothing_trained + length
