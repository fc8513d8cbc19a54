"""The FAISS file: derived from the catalog, replaced whole, mapped into memory to be searched.

The vectors are stored as fp16, the very bytes that the catalog holds, and searched by inner
product. Ids are the catalog's. Two forms, both FAISS's own:

    flat      an IndexIDMap over an IndexScalarQuantizer: vectors, then ids
    inverted  an IndexIVFScalarQuantizer: of each list its vectors, then its ids

Behind FAISS's data, which it reads no further than it needs, follows what is ours: a checksum of
each block, and a stamp that ties the file to one catalog at one moment. FAISS trusts the lengths
that it reads, and a damaged one would have it ask for all the memory there is: so what precedes
and follows the vectors is checked whenever the file is opened. The vectors are checked as well,
unless there are more than ``ALWAYS_CHECKED`` and the file is the very one that the catalog noted,
untouched: the same inode, size and times. What is not noticed then is a disk that gives other
bytes than were written to it; ``verify`` and ``doctor`` check every block.

A search of a flat file is exhaustive and exact: by numpy where there is little to search, else by
FAISS. Of an inverted file, which has ``CLUSTER_FROM`` vectors or more, one for few hits reads only
the lists nearest to the query, as many as were measured to be enough.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from clipsearch.records import ClusterSearch, Vectors
from clipsearch.storage.vectors import blocks
from clipsearch.vectors import best_k, top_k

if TYPE_CHECKING:
    from clipsearch.storage.vectors.faiss_files import FlatIndex, InvertedFile

Half = npt.NDArray[np.float16]
Ids = npt.NDArray[np.int64]

CLUSTER_FROM = 2_000_000
"""From as many vectors on, an inverted file is tried.

So many of 512 dimensions take 0.14 s to search exactly on two cores, about as long as it takes to
start Python and FAISS; with fewer there is little to win by giving exactness up.
"""


ALWAYS_CHECKED = 100_000
"""So many vectors of 512 dimensions are checked in 7 ms; a million, in 0.06 s."""


class DamagedVectorIndex(Exception):
    """The file is missing, damaged or not the one that the catalog means: build it again."""


class Stamp(NamedTuple):
    """Which catalog a FAISS file was derived from, and how far."""

    token: bytes
    """16 random bytes, new with every file; a catalog notes which file is its own."""
    newest_id: int
    """Every image with a greater id is not in the file."""
    vectors: int
    """How many there are in the file."""
    left_out: int
    """Good images of that moment that are not in the file: their embeddings were damaged."""


TOKEN_SIZE = 16
_IDENTITY = struct.Struct("<QqqQ")


def identity_of(stat: os.stat_result) -> bytes:
    """What changes when a file is replaced or written into, also where its time is set back."""
    return _IDENTITY.pack(stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)


_WORTH_FAISS = 20_000
"""As many vectors take numpy 20 ms, and FAISS 4 ms when it has been loaded, in 60 ms."""

_CLUSTERS_UP_TO = 20
"""Recall is measured with ten hits; of more than twice as many, too many are missed."""

_STAMP = struct.Struct("<8sqq16sqqqqqqdd")
"""Magic, bytes of FAISS's data, dimension, the fields of Stamp and those of ClusterSearch."""
_CHECKSUM = struct.Struct("<I")
_MAGIC = b"CLIPSRC2"
_ROWS_COMPARED = 1024

_EARLIER_MAGIC = b"CLIPSRCH"
_EARLIER_STAMP = 84
"""Bytes from the magic to the end of a file of the version before, which had no block checksums."""

NOTHING_TRIED = ClusterSearch(lists=0, probed=0, queries=0, recall=0.0, scanned=0.0)


class Trailer(NamedTuple):
    """What is ours at the end of a file, besides the checksums of the blocks."""

    size: int
    """Bytes of FAISS's data, which precedes it."""
    dim: int
    stamp: Stamp
    cluster_search: ClusterSearch
    """The file is inverted if its ``lists`` are not 0."""

    @property
    def head_size(self) -> int:
        """Bytes before the first vector."""
        return self.size - self.stamp.vectors * (2 * self.dim + 8) - self._count_of_ids

    @property
    def vectors_end(self) -> int:
        """Where the part that holds the vectors ends; in an inverted file, their ids as well."""
        if self.cluster_search.lists:
            return self.size
        return self.head_size + 2 * self.dim * self.stamp.vectors

    @property
    def _count_of_ids(self) -> int:
        return 0 if self.cluster_search.lists else 8  # bytes of it, in a flat file

    def pack(self, sums: blocks.Sums) -> bytes:
        """The trailer as it is written, with the checksums of the blocks."""
        stamp = _STAMP.pack(_MAGIC, self.size, self.dim, *self.stamp, *self.cluster_search)
        packed = sums.astype("<u4").tobytes() + stamp
        return packed + _CHECKSUM.pack(zlib.crc32(packed))


class VectorIndex:
    """An index over unit vectors: a large one is mapped from its file, a small one read."""

    def __init__(
        self,
        searched: "Matrix | FlatIndex | InvertedFile",
        stamp: Stamp,
        cluster_search: ClusterSearch = NOTHING_TRIED,
        inverted: "InvertedFile | None" = None,
        identity: bytes = b"",
    ) -> None:
        """Use ``read`` or ``empty``."""
        self.identity = identity
        self._searched = searched
        self._inverted = inverted
        self.stamp = stamp
        self._cluster_search = cluster_search

    @classmethod
    def empty(cls, dim: int) -> "VectorIndex":
        """An index without vectors, in the place of a file that cannot be used."""
        return cls(_nothing(dim), Stamp(b"", newest_id=0, vectors=0, left_out=0))

    @classmethod
    def read(
        cls,
        path: Path,
        dim: int,
        token: bytes,
        noted: bytes = b"",
        *,
        whole: bool = False,
        to_search: bool = True,
    ) -> "VectorIndex":
        """Map the file into memory.

        noted: its identity when it was last known to be whole. whole: check every block.
        to_search: without it, only what the file tells of itself is read of the one noted.

        Raises DamagedVectorIndex, saying why, if it is not the whole file with this token.
        """
        try:
            with path.open("rb") as file:
                identity = identity_of(os.fstat(file.fileno()))
                trailer = _checked(file, dim, whole=whole or identity != noted)
                stamp, cluster_search = trailer.stamp, trailer.cluster_search
                if stamp.token != token:
                    raise DamagedVectorIndex("it belongs to another catalog, or to another time")
                if not to_search and identity == noted:  # spares loading FAISS
                    return cls(_nothing(dim), stamp, cluster_search, identity=identity)
                if stamp.vectors < _WORTH_FAISS and not cluster_search.lists:
                    matrix = _matrix(file, trailer)
                    return cls(matrix, stamp, cluster_search, identity=identity)
                from clipsearch.storage.vectors.faiss_files import FlatIndex, InvertedFile

                inverted = InvertedFile(path) if cluster_search.lists else None
                searched = inverted or FlatIndex(path)
                # FAISS opened the path again: was that still the file with this stamp?
                if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    raise DamagedVectorIndex("it was replaced while it was read")
        except FileNotFoundError as error:
            raise DamagedVectorIndex("it is missing") from error
        except OSError as error:
            raise DamagedVectorIndex(f"it cannot be read: {error.strerror}") from error
        except RuntimeError as error:
            raise DamagedVectorIndex("FAISS cannot read it") from error
        return cls(searched, stamp, cluster_search, inverted, identity)

    def is_altered(self, path: Path) -> bool:
        """Whether somebody has written into the file since it was read; not: replaced it."""
        if not self.identity:
            return False
        try:
            now = identity_of(path.stat())
        except OSError:
            return False  # it is gone, and what was read of it is not
        return now != self.identity and now[:8] == self.identity[:8]

    @property
    def count(self) -> int:
        """How many vectors there are."""
        return self.stamp.vectors

    @property
    def cluster_search(self) -> ClusterSearch | None:
        """What a search through clusters was measured to find; None where none was tried."""
        return self._cluster_search if self._cluster_search.queries else None

    def search(
        self, query: Vectors, k: int, among: Ids | None = None, *, exact: bool = False
    ) -> tuple[Ids, Vectors]:
        """The ``k`` best ids and their inner products with ``query`` ``(dim,)``, best first.

        ``among`` restricts the search to the ids it names. Exact, unless the file is inverted:
        then a search for up to twenty, among all, reads the nearest lists only.
        """
        k = min(k, self.count)
        if k == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if self._inverted and among is None and not exact and k <= _CLUSTERS_UP_TO:
            ids, scores = self._inverted.search(query, k, probed=self._cluster_search.probed)
            if len(ids) == k:
                return ids, scores
        return self._searched.search(query, k, among)

    def search_each(
        self, queries: Vectors, k: int, among: Ids | None = None, *, exact: bool = False
    ) -> list[tuple[Ids, Vectors]]:
        """``search`` for each of ``(q, dim)`` queries; for a small collection as one product."""
        if len(queries) > 1 and isinstance(self._searched, Matrix):
            return self._searched.search_each(queries, min(k, self.count), among)
        return [self.search(query, k, among, exact=exact) for query in queries]


class Matrix:
    """So few vectors that numpy has searched them before FAISS is loaded."""

    def __init__(self, ids: Ids, vectors: Half) -> None:
        """ids: ``(n,)``. vectors: ``(n, dim)``."""
        self._ids = ids
        self._vectors = vectors

    def search(self, query: Vectors, k: int, among: Ids | None = None) -> tuple[Ids, Vectors]:
        """The ``k`` best ids, of all or of those ``among`` them, and their inner products."""
        return top_k(query, *self._of(among), k)

    def search_each(
        self, queries: Vectors, k: int, among: Ids | None = None
    ) -> list[tuple[Ids, Vectors]]:
        """The same for each of ``(q, dim)`` queries."""
        ids, vectors = self._of(among)
        scores = queries @ vectors.astype(np.float32).T  # (q, n)
        return [best_k(row, ids, k) for row in scores]

    def _of(self, among: Ids | None) -> tuple[Ids, Half]:
        if among is None:
            return self._ids, self._vectors
        wanted = np.isin(self._ids, among)
        return self._ids[wanted], self._vectors[wanted]


def _nothing(dim: int) -> Matrix:
    return Matrix(np.empty(0, np.int64), np.empty((0, dim), np.float16))


def _matrix(file: BinaryIO, trailer: Trailer) -> Matrix:
    count, dim = trailer.stamp.vectors, trailer.dim
    file.seek(trailer.head_size)
    vectors = np.frombuffer(file.read(2 * dim * count), "<f2").reshape(count, dim)
    file.seek(8, os.SEEK_CUR)  # how many ids there are
    return Matrix(np.frombuffer(file.read(8 * count), "<i8"), vectors)


def _checked(file: BinaryIO, dim: int, *, whole: bool) -> Trailer:
    """The trailer of a file of ``dim`` dimensions that is as it was written.

    whole: the vectors are checked, however many there are.

    Raises DamagedVectorIndex if it is not, and OSError.
    """
    trailer, sums = _read_trailer(file)
    if trailer.dim != dim:
        raise DamagedVectorIndex("it is of another dimension")
    if not 8 * trailer.cluster_search.lists <= trailer.head_size <= trailer.size:
        raise DamagedVectorIndex("it is damaged")
    before = blocks.count_of(trailer.head_size)
    after = max(before, trailer.vectors_end // blocks.BLOCK)
    if whole or trailer.stamp.vectors <= ALWAYS_CHECKED:
        before = after = len(sums)
    for first, last in ((0, before), (after, len(sums))):
        if np.any(blocks.sums(file, trailer.size, first, last) != sums[first:last]):
            raise DamagedVectorIndex("it is damaged")
    return trailer


def _read_trailer(file: BinaryIO) -> tuple[Trailer, blocks.Sums]:
    length = file.seek(0, os.SEEK_END)
    stamp_size = _STAMP.size + _CHECKSUM.size
    if length < stamp_size:
        raise DamagedVectorIndex("it is cut short")
    file.seek(length - stamp_size)
    stamp = file.read(_STAMP.size)
    (checksum,) = _CHECKSUM.unpack(file.read())
    magic, size, dim, token, newest_id, vectors, left_out, *measured = _STAMP.unpack(stamp)
    if magic != _MAGIC:
        file.seek(max(0, length - _EARLIER_STAMP))
        if file.read(len(_EARLIER_MAGIC)) == _EARLIER_MAGIC:
            raise DamagedVectorIndex("an earlier version of clipsearch wrote it")
        raise DamagedVectorIndex("it is cut short or is another program's")
    if not 0 <= size < length or length != size + 4 * blocks.count_of(size) + stamp_size:
        raise DamagedVectorIndex("it is damaged")
    file.seek(size)
    of_blocks = file.read(length - size - stamp_size)
    if checksum != zlib.crc32(stamp, zlib.crc32(of_blocks)):
        raise DamagedVectorIndex("it is damaged")
    of_catalogue = Stamp(token, newest_id, vectors, left_out)
    found = Trailer(size, dim, of_catalogue, ClusterSearch(*measured))
    return found, np.frombuffer(of_blocks, "<u4")


def differing(path: Path, dim: int, chunks: Iterable[tuple[Ids, Half]]) -> list[int]:
    """Ids of those embeddings that a whole file has otherwise, ascending.

    chunks: of ``(n,)`` ids and ``(n, dim)`` vectors. Raises DamagedVectorIndex and OSError.
    """
    with path.open("rb") as file:
        trailer = _checked(file, dim, whole=False)
        own, places = _rows_of(path, trailer)
    if not len(own):
        return []
    order = np.argsort(own)
    # All vectors lie a multiple of two bytes behind the first.
    count = (trailer.size - trailer.head_size) // 2
    halves = np.memmap(path, "<u2", "r", trailer.head_size, (count,))
    found: list[int] = []
    for ids, vectors in _parts(chunks):
        rows = order[np.searchsorted(own, ids, sorter=order).clip(max=len(own) - 1)]
        there = halves[places[rows, np.newaxis] // 2 + np.arange(dim)]
        other = (own[rows] == ids) & (there != vectors.view("<u2")).any(axis=1)
        found += ids[other].tolist()
    return sorted(found)


def _parts(chunks: Iterable[tuple[Ids, Half]]) -> Iterator[tuple[Ids, Half]]:
    for ids, vectors in chunks:
        for start in range(0, len(ids), _ROWS_COMPARED):
            yield ids[start : start + _ROWS_COMPARED], vectors[start : start + _ROWS_COMPARED]


def _rows_of(path: Path, trailer: Trailer) -> tuple[Ids, Ids]:
    """The ids of a whole file, and how many bytes behind the first vector that of each lies."""
    count, width, lists = trailer.stamp.vectors, 2 * trailer.dim, trailer.cluster_search.lists
    body = np.memmap(path, np.uint8, "r", 0, (trailer.size,))
    if not lists:
        return body[trailer.size - 8 * count :].view("<i8"), width * np.arange(count)
    sizes = body[trailer.head_size - 8 * lists : trailer.head_size].view("<i8")
    ids, places = [], []
    start = 0
    for size in sizes.tolist():
        of_ids = trailer.head_size + start + width * size
        ids.append(body[of_ids : of_ids + 8 * size].view("<i8"))
        places.append(start + width * np.arange(size))
        start += (width + 8) * size
    return np.concatenate(ids), np.concatenate(places)
