"""The FAISS file: derived from the catalogue, replaced whole, mapped into memory to be searched.

The vectors are stored as fp16, the very bytes that the catalogue holds, and searched exhaustively
by inner product. Ids are the catalogue's. Behind FAISS's own data, which it reads no further than
it needs, follows a stamp that ties the file to one catalogue at one moment, with a checksum of
everything but the vectors themselves: FAISS trusts the lengths that it reads, and a damaged one
would have it ask for all the memory there is.
"""

import os
import struct
import zlib
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from clipsearch.records import Vectors

Half = npt.NDArray[np.float16]
Ids = npt.NDArray[np.int64]


class DamagedVectorIndex(Exception):
    """The file is missing, damaged or not the one that the catalogue means: build it again."""


class Stamp(NamedTuple):
    """Which catalogue a FAISS file was derived from, and how far."""

    token: bytes
    """16 random bytes, new with every file; a catalogue notes which file is its own."""
    newest_id: int
    """Every picture with a greater id is not in the file."""
    vectors: int
    """How many there are in the file."""


_WORTH_A_THREAD = 100_000
"""As many vectors take 20 ms to search, against which the start of a thread is nothing."""

_STAMP = struct.Struct("<8s16sqqI")
_MAGIC = b"CLIPSRCH"


class VectorIndex:
    """An exact index over unit vectors, read from a file or built in memory."""

    def __init__(self, index: "faiss.Index", stamp: Stamp) -> None:
        self._index = index
        self.stamp = stamp

    @classmethod
    def build(cls, dim: int, chunks: Iterable[tuple[Ids, Half]], stamp: Stamp) -> "VectorIndex":
        """Build from chunks of ``(n,)`` ids and ``(n, dim)`` fp16 vectors; it counts them."""
        flat = faiss.IndexScalarQuantizer(
            dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        index = faiss.IndexIDMap(flat)
        for ids, vectors in chunks:
            # QT_fp16's code of a vector is the vector in fp16, so nothing is converted.
            index.add_sa_codes(np.ascontiguousarray(vectors).view(np.uint8), ids)
        return cls(index, stamp._replace(vectors=int(index.ntotal)))

    @classmethod
    def read(cls, path: Path, dim: int, token: bytes) -> "VectorIndex":
        """Map the file into memory.

        Raises DamagedVectorIndex, saying why, if it is not the whole file with this token.
        """
        try:
            with path.open("rb") as file:
                stamp = _read_stamp(file, dim)
                if stamp.token != token:
                    raise DamagedVectorIndex("it belongs to another catalogue, or to another time")
                with _path_for_faiss(path) as name:
                    index = faiss.read_index(name, faiss.IO_FLAG_MMAP_IFC)
                # FAISS opened the path anew: was that still the file with this stamp?
                if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    raise DamagedVectorIndex("it was replaced while it was read")
        except FileNotFoundError as error:
            raise DamagedVectorIndex("it is missing") from error
        except OSError as error:
            raise DamagedVectorIndex(f"it cannot be read: {error.strerror}") from error
        except RuntimeError as error:
            raise DamagedVectorIndex("FAISS cannot read it") from error
        return cls(index, stamp)

    def write(self, path: Path) -> None:
        """Replace the file at ``path`` as one step: a reader sees the old one or the new."""
        temporary = path.with_name(path.name + ".new")
        try:
            with temporary.open("w+b") as file:
                faiss.write_index(self._index, faiss.PyCallbackIOWriter(file.write))
                end = file.tell()
                checksum = _checksum(file, end, self._index.d, self.stamp)
                file.seek(end)
                file.write(_STAMP.pack(_MAGIC, *self.stamp, checksum))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)  # a full disk has better uses for the space
            raise

    @property
    def count(self) -> int:
        """How many vectors there are."""
        return int(self._index.ntotal)

    def search(self, query: Vectors, k: int, among: Ids | None = None) -> tuple[Ids, Vectors]:
        """The ``k`` best ids and their inner products with ``query`` ``(dim,)``, best first.

        ``among`` restricts the search, exactly, to the ids it names.
        """
        k = min(k, self.count)
        if k == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if among is not None:
            selectors = [faiss.IDSelectorBatch(among)]
        elif self.count < _WORTH_A_THREAD:
            selectors = [None]
        else:
            parts = min(os.cpu_count() or 1, self.count // _WORTH_A_THREAD + 1)
            bounds = np.linspace(0, self.stamp.newest_id + 1, parts + 1).astype(np.int64).tolist()
            selectors = [faiss.IDSelectorRange(*part) for part in pairwise(bounds)]
        if len(selectors) == 1:
            return self._search(query, k, selectors[0])
        from concurrent.futures import ThreadPoolExecutor  # here, since few searches are so large

        with ThreadPoolExecutor(len(selectors)) as threads:  # FAISS lets go of Python's lock
            found = list(threads.map(lambda selector: self._search(query, k, selector), selectors))
        ids, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        best = np.lexsort((ids, -scores))[:k]
        return ids[best], scores[best]

    def _search(self, query: Vectors, k: int, selector: object) -> tuple[Ids, Vectors]:
        """Search the ids that ``selector`` (FAISS's, or None for all) lets through."""
        parameters = None if selector is None else faiss.SearchParameters(sel=selector)
        # FAISS divides the queries among threads. There is one, for which the others would only be
        # waited for; whoever else shares this OpenMP (torch may) finds its setting again.
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            scores, ids = self._index.search(query[np.newaxis], k, params=parameters)
        finally:
            faiss.omp_set_num_threads(threads)
        found = ids[0] >= 0
        return ids[0][found], scores[0][found]


def _read_stamp(file: BinaryIO, dim: int) -> Stamp:
    """The stamp at a file's end. Raises DamagedVectorIndex if the file is not as it was written."""
    end = file.seek(0, os.SEEK_END) - _STAMP.size
    if end < 0:
        raise DamagedVectorIndex("it is cut short")
    file.seek(end)
    magic, token, newest_id, vectors, checksum = _STAMP.unpack(file.read())
    if magic != _MAGIC:
        raise DamagedVectorIndex("it is cut short or is another program's")
    stamp = Stamp(token, newest_id, vectors)
    if checksum != _checksum(file, end, dim, stamp):
        raise DamagedVectorIndex("it is damaged, or of another dimension")
    return stamp


def _checksum(file: BinaryIO, end: int, dim: int, stamp: Stamp) -> int:
    """CRC-32 of the stamp, of FAISS's header, and of the ids that follow the vectors."""
    ids = end - 8 * stamp.vectors - 8  # their count, then they
    header = ids - 2 * dim * stamp.vectors
    if not 0 <= header <= ids <= end:
        raise DamagedVectorIndex("it is damaged, or of another dimension")
    file.seek(0)
    checksum = zlib.crc32(file.read(header), zlib.crc32(_STAMP.pack(_MAGIC, *stamp, 0)))
    file.seek(ids)
    return zlib.crc32(file.read(end - ids), checksum)


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
