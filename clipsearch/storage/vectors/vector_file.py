"""The FAISS file: derived from the catalog, always replaced as a whole, and searched memory-mapped.

The vectors are stored as fp16, with the same bytes as in the catalog, and searched by inner
product. Ids are the catalog's. There are two forms, both FAISS's own:

    flat      an IndexIDMap over an IndexScalarQuantizer: vectors, then ids
    inverted  an IndexIVFScalarQuantizer: for each list its vectors, then its ids

Our own data follows FAISS's, which reads no further than it needs: a checksum of each block, and a
stamp that ties the file to one catalog at one moment. FAISS trusts the lengths that it reads, and a
damaged length could make it allocate all memory. So everything before and after the vectors is
checked whenever the file is opened. The vectors are also checked, unless there are more than
``ALWAYS_CHECKED`` and the file is the one that the catalog recorded, with the same inode, size and
times. Then only a disk that returns wrong bytes goes unnoticed; ``verify`` and ``doctor`` check
every block.

A search of a flat file is exhaustive and exact: by numpy if there are few vectors, otherwise by
FAISS. An inverted file has ``CLUSTER_FROM`` vectors or more. A search of it for few hits reads only
the lists nearest to the query, as many as measurements showed to be enough.
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
"""The number of vectors from which an inverted file is tried.

An exact search of this many vectors of 512 dimensions takes 0.14 s on two cores, about as long as
starting Python and FAISS; with fewer vectors, giving up exactness gains little.
"""


ALWAYS_CHECKED = 100_000
"""Checking this many vectors of 512 dimensions takes 7 ms; a million takes 0.06 s."""


class DamagedVectorIndex(Exception):
    """The file is missing, damaged or not this catalog's: it must be written again."""


class Stamp(NamedTuple):
    """Which catalog a FAISS file was derived from, and at which state."""

    token: bytes
    """16 random bytes, new for each file; a catalog records the token of its own file."""
    newest_id: int
    """Images with a greater id are not in the file."""
    vectors: int
    """How many vectors are in the file."""
    left_out: int
    """How many good images were left out because their embeddings were damaged."""


TOKEN_SIZE = 16
_IDENTITY = struct.Struct("<QqqQ")


def identity_of(stat: os.stat_result) -> bytes:
    """Facts that change when a file is replaced or modified, even if its mtime is set back."""
    return _IDENTITY.pack(stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)


_WORTH_FAISS = 20_000
"""This many vectors take numpy 20 ms, and FAISS 4 ms after 60 ms to load it."""

_CLUSTERS_UP_TO = 20
"""Recall is measured with ten hits; beyond twice as many, too many are missed."""

_STAMP = struct.Struct("<8sqq16sqqqqqqdd")
"""Magic, bytes of FAISS's data, dimension, the fields of Stamp and those of ClusterSearch."""
_CHECKSUM = struct.Struct("<I")
_MAGIC = b"CLIPSRC2"
_ROWS_COMPARED = 1024

_EARLIER_MAGIC = b"CLIPSRCH"
_EARLIER_STAMP = 84
"""Bytes from the magic to the end in files of the previous version, without block checksums."""

NOTHING_TRIED = ClusterSearch(lists=0, probed=0, queries=0, recall=0.0, scanned=0.0)


class Trailer(NamedTuple):
    """Our own data at the end of a file, except the checksums of the blocks."""

    size: int
    """Bytes of FAISS's data, which precedes it."""
    dim: int
    stamp: Stamp
    cluster_search: ClusterSearch
    """The file is inverted if ``lists`` is not 0."""

    @property
    def head_size(self) -> int:
        """Bytes before the first vector."""
        return self.size - self.stamp.vectors * (2 * self.dim + 8) - self._count_of_ids

    @property
    def vectors_end(self) -> int:
        """Where the vectors end; in an inverted file, the vectors and their ids."""
        if self.cluster_search.lists:
            return self.size
        return self.head_size + 2 * self.dim * self.stamp.vectors

    @property
    def _count_of_ids(self) -> int:
        return 0 if self.cluster_search.lists else 8  # its size in bytes, in a flat file

    def pack(self, sums: blocks.Sums) -> bytes:
        """The bytes of the trailer, with the checksums of the blocks."""
        stamp = _STAMP.pack(_MAGIC, self.size, self.dim, *self.stamp, *self.cluster_search)
        packed = sums.astype("<u4").tobytes() + stamp
        return packed + _CHECKSUM.pack(zlib.crc32(packed))


class VectorIndex:
    """An index over unit vectors: a large file is memory-mapped, a small one is read."""

    def __init__(
        self,
        searched: "Matrix | FlatIndex | InvertedFile",
        stamp: Stamp,
        cluster_search: ClusterSearch = NOTHING_TRIED,
        inverted: "InvertedFile | None" = None,
        identity: bytes = b"",
    ) -> None:
        """Use ``read`` or ``empty`` instead."""
        self.identity = identity
        self._searched = searched
        self._inverted = inverted
        self.stamp = stamp
        self._cluster_search = cluster_search

    @classmethod
    def empty(cls, dim: int) -> "VectorIndex":
        """An index without vectors, to replace a file that cannot be used."""
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

        noted: the file's identity when it was last known to be intact. whole: check every block.
        to_search: if False, only the trailer is read if the file has the recorded identity.

        Raises DamagedVectorIndex, saying why, unless it is an intact file with this token.
        """
        try:
            with path.open("rb") as file:
                identity = identity_of(os.fstat(file.fileno()))
                trailer = _checked(file, dim, whole=whole or identity != noted)
                stamp, cluster_search = trailer.stamp, trailer.cluster_search
                if stamp.token != token:
                    raise DamagedVectorIndex("it belongs to another catalog or another state")
                if not to_search and identity == noted:  # saves loading FAISS
                    return cls(_nothing(dim), stamp, cluster_search, identity=identity)
                if stamp.vectors < _WORTH_FAISS and not cluster_search.lists:
                    matrix = _matrix(file, trailer)
                    return cls(matrix, stamp, cluster_search, identity=identity)
                from clipsearch.storage.vectors.faiss_files import FlatIndex, InvertedFile

                inverted = InvertedFile(path) if cluster_search.lists else None
                searched = inverted or FlatIndex(path)
                # FAISS opened the path again: was it still the same file?
                if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    raise DamagedVectorIndex("it was replaced while it was being read")
        except FileNotFoundError as error:
            raise DamagedVectorIndex("it is missing") from error
        except OSError as error:
            raise DamagedVectorIndex(f"it cannot be read: {error.strerror}") from error
        except RuntimeError as error:
            raise DamagedVectorIndex("FAISS cannot read it") from error
        return cls(searched, stamp, cluster_search, inverted, identity)

    def is_altered(self, path: Path) -> bool:
        """Whether the file was modified in place since it was read; False if it was replaced."""
        if not self.identity:
            return False
        try:
            now = identity_of(path.stat())
        except OSError:
            return False  # the file is gone, but its content is still mapped or in memory
        return now != self.identity and now[:8] == self.identity[:8]

    @property
    def count(self) -> int:
        """The number of vectors."""
        return self.stamp.vectors

    @property
    def cluster_search(self) -> ClusterSearch | None:
        """The measured recall and cost of a search by clusters; None if it was never tried."""
        return self._cluster_search if self._cluster_search.queries else None

    def search(
        self, query: Vectors, k: int, among: Ids | None = None, *, exact: bool = False
    ) -> tuple[Ids, Vectors]:
        """The ``k`` best ids and their inner products with ``query`` ``(dim,)``, best first.

        ``among`` restricts the search to the ids it names. Exact, unless the file is inverted:
        then a search for up to 20, without ``among``, reads only the nearest lists.
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
        """``search`` for each of ``(q, dim)`` queries; one product for a small collection."""
        if len(queries) > 1 and isinstance(self._searched, Matrix):
            return self._searched.search_each(queries, min(k, self.count), among)
        return [self.search(query, k, among, exact=exact) for query in queries]


class Matrix:
    """So few vectors that numpy finishes before FAISS would be loaded."""

    def __init__(self, ids: Ids, vectors: Half) -> None:
        """ids: ``(n,)``. vectors: ``(n, dim)``."""
        self._ids = ids
        self._vectors = vectors

    def search(self, query: Vectors, k: int, among: Ids | None = None) -> tuple[Ids, Vectors]:
        """The ``k`` best ids and their inner products. among: the only ids to search."""
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
    file.seek(8, os.SEEK_CUR)  # skip the number of ids
    return Matrix(np.frombuffer(file.read(8 * count), "<i8"), vectors)


def _checked(file: BinaryIO, dim: int, *, whole: bool) -> Trailer:
    """The trailer of an intact file with ``dim`` dimensions.

    whole: check the vectors, however many there are.

    Raises DamagedVectorIndex if the file is not intact, and OSError.
    """
    trailer, sums = _read_trailer(file)
    if trailer.dim != dim:
        raise DamagedVectorIndex("it has another dimension")
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
        raise DamagedVectorIndex("it is cut short or from another program")
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
    """Ids of the embeddings that differ from those in an intact file, ascending.

    chunks: ``(n,)`` ids and ``(n, dim)`` vectors. Raises DamagedVectorIndex and OSError.
    """
    with path.open("rb") as file:
        trailer = _checked(file, dim, whole=False)
        own, places = _rows_of(path, trailer)
    if not len(own):
        return []
    order = np.argsort(own)
    # All vectors start an even number of bytes after the first.
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
    """The ids of an intact file, and each vector's offset in bytes from the first vector."""
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
