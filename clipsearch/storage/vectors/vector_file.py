"""The FAISS file: derived from the catalogue, replaced whole, mapped into memory to be searched.

The vectors are stored as fp16, the very bytes that the catalogue holds, and searched by inner
product. Ids are the catalogue's. Behind FAISS's own data, which it reads no further than it needs,
follows what is ours: where the vectors are ordered by cluster, the clusters; and a stamp that ties
the file to one catalogue at one moment, with a checksum of everything but the vectors themselves:
FAISS trusts the lengths that it reads, and a damaged one would have it ask for all the memory
there is.

A search is exhaustive and exact: by numpy where there is little to search, else by FAISS. In a
collection of ``CLUSTER_FROM`` vectors or more, one for few hits reads only the clusters nearest to
the query, as many as were measured to be enough.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from clipsearch.records import ClusterSearch, Vectors
from clipsearch.storage.vectors import clusters
from clipsearch.vectors import best_k, top_k

if TYPE_CHECKING:
    from clipsearch.storage.vectors.flat_index import FlatIndex

Half = npt.NDArray[np.float16]
Ids = npt.NDArray[np.int64]

CLUSTER_FROM = 2_000_000
"""From as many vectors on, it is tried to order them by cluster.

So many of 512 dimensions take 0.14 s to search exactly on two cores, about as long as it takes to
start Python and FAISS; with fewer there is little to win by giving exactness up.
"""


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


class Lists(NamedTuple):
    """Where in a file that is ordered by cluster each cluster is."""

    offsets: Ids
    """``(lists + 1,)``: list ``n`` holds the rows from ``offsets[n]`` to ``offsets[n + 1]``."""
    centroids: Half
    """``(lists, dim)``."""


_WORTH_FAISS = 20_000
"""As many vectors take numpy 20 ms, and FAISS 4 ms when it has been loaded, in 60 ms."""

_CLUSTERS_UP_TO = 20
"""Recall is measured with ten hits; of more than twice as many, too many are missed."""

_STAMP = struct.Struct("<8s16sqqqqqddI")
"""Magic, the fields of Stamp, those of ClusterSearch, checksum."""
_MAGIC = b"CLIPSRCH"
_ROWS_PER_CHUNK = 16_384

_NOTHING_TRIED = ClusterSearch(lists=0, probed=0, queries=0, recall=0.0, scanned=0.0)


class VectorIndex:
    """An index over unit vectors: a large one is mapped from its file, a small one read."""

    def __init__(
        self,
        searched: "Matrix | FlatIndex",
        stamp: Stamp,
        cluster_search: ClusterSearch = _NOTHING_TRIED,
        ordered: "OrderedIndex | None" = None,
    ) -> None:
        """Use ``read`` or ``empty``."""
        self._searched = searched
        self._ordered = ordered
        self.stamp = stamp
        self._cluster_search = cluster_search

    @classmethod
    def empty(cls, dim: int) -> "VectorIndex":
        """An index without vectors, in the place of a file that cannot be used."""
        nothing = Matrix(np.empty(0, np.int64), np.empty((0, dim), np.float16))
        return cls(nothing, Stamp(b"", newest_id=0, vectors=0))

    @classmethod
    def read(cls, path: Path, dim: int, token: bytes) -> "VectorIndex":
        """Map the file into memory.

        Raises DamagedVectorIndex, saying why, if it is not the whole file with this token.
        """
        try:
            with path.open("rb") as file:
                stamp, cluster_search, lists = _read_trailer(file, dim)
                if stamp.token != token:
                    raise DamagedVectorIndex("it belongs to another catalogue, or to another time")
                if stamp.vectors < _WORTH_FAISS and lists is None:
                    return cls(_matrix(file, dim, stamp.vectors), stamp, cluster_search)
                from clipsearch.storage.vectors.flat_index import FlatIndex

                flat = FlatIndex(path)
                # FAISS opened the path anew: was that still the file with this stamp?
                if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    raise DamagedVectorIndex("it was replaced while it was read")
        except FileNotFoundError as error:
            raise DamagedVectorIndex("it is missing") from error
        except OSError as error:
            raise DamagedVectorIndex(f"it cannot be read: {error.strerror}") from error
        except RuntimeError as error:
            raise DamagedVectorIndex("FAISS cannot read it") from error
        ordered = None if lists is None else OrderedIndex(flat, lists, cluster_search.probed)
        return cls(flat, stamp, cluster_search, ordered)

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

        ``among`` restricts the search to the ids it names. Exact, unless the file is ordered by
        cluster: then a search for up to twenty, among all, reads the nearest clusters only.
        """
        k = min(k, self.count)
        if k == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if self._ordered and among is None and not exact and k <= _CLUSTERS_UP_TO:
            ids, scores = self._ordered.search(query, k)
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


class OrderedIndex:
    """A flat index whose rows are ordered by cluster, of which a search reads the nearest few."""

    def __init__(self, flat: "FlatIndex", lists: Lists, probed: int) -> None:
        self._flat = flat
        self._offsets = lists.offsets
        self._centroids = lists.centroids.astype(np.float32)
        self._probed = probed

    def search(self, query: Vectors, k: int) -> tuple[Ids, Vectors]:
        """The ``k`` best ids of the nearest clusters, or all if they hold fewer, with scores."""
        nearest = clusters.nearest_lists(query, self._centroids, self._probed)
        return self._flat.search_rows(query, k, self._offsets[nearest], self._offsets[nearest + 1])


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


def _matrix(file: BinaryIO, dim: int, count: int) -> Matrix:
    file.seek(len(_faiss_header(dim, count)))
    vectors = np.frombuffer(file.read(2 * dim * count), "<f2").reshape(count, dim)
    file.seek(8, os.SEEK_CUR)  # how many ids there are
    return Matrix(np.frombuffer(file.read(8 * count), "<i8"), vectors)


def count_differing(path: Path, dim: int, count: int, chunks: Iterable[tuple[Ids, Half]]) -> int:
    """How many of these embeddings a whole file of ``count`` lacks, or has otherwise.

    chunks: of ``(n,)`` ids and ``(n, dim)`` vectors. The checksum leaves the vectors out, so that
    opening a file need not read it all; this does. Raises OSError.
    """
    if count == 0:
        return sum(len(ids) for ids, _ in chunks)
    start = len(_faiss_header(dim, count))
    there = np.memmap(path, "<u2", "r", start, (count, dim))
    own = np.memmap(path, "<i8", "r", start + there.nbytes + 8, (count,))
    order = np.argsort(own)
    differing = 0
    for ids, vectors in chunks:
        rows = order[np.searchsorted(own, ids, sorter=order).clip(max=count - 1)]
        same = (own[rows] == ids) & (there[rows] == vectors.view("<u2")).all(axis=1)
        differing += int((~same).sum())
    return differing


class NewVectorFile:
    """The next FAISS file, written beside the one in use. A context manager.

    ``write``, then ``order_by_cluster`` where that is wanted, then ``replace``; what was not put
    in place is deleted at the end. Memory holds the ids and a chunk of vectors, never all of them.
    While vectors are put in order, the disk holds them twice.
    """

    def __init__(self, path: Path, dim: int, token: bytes, mode: int = 0o666) -> None:
        """Take where it is to be, and its permissions, less the user's umask."""
        self._path = path
        self._dim = dim
        self._token = token
        self._mode = mode
        self._written = path.with_name(path.name + ".new")
        self._ordered = path.with_name(path.name + ".ordered")
        self._ids = np.empty(0, np.int64)
        self._finished = self._written

    def __enter__(self) -> "NewVectorFile":
        return self

    def __exit__(self, *_: object) -> None:
        for temporary in (self._written, self._ordered):
            temporary.unlink(missing_ok=True)  # a full disk has better uses for the space

    def write(self, chunks: Iterable[tuple[Ids, Half]]) -> None:
        """Write chunks of ``(n,)`` ids and ``(n, dim)`` fp16 vectors. Raises OSError."""
        with open(self._written, "w+b", opener=self._opener) as file:
            self._ids = _write_vectors(file, self._dim, chunks)
            self._write_trailer(file, _NOTHING_TRIED)

    def order_by_cluster(
        self, queries: Vectors, told: Callable[[float], None] = lambda share: None
    ) -> ClusterSearch:
        """Put the vectors in the order of their clusters, if a search through them is worth it.

        queries: ``(q, dim)`` unit vectors of texts, at least two, to choose how many clusters a
        search reads and to measure what it finds. told: called with the share of the work that is
        done, from 0 to 1. The result tells, with ``lists`` 0 if searches stay exact. Raises
        OSError.
        """
        count = len(self._ids)
        products = clusters.products_of_training(count) + count * len(queries)
        done = 0

        def more(computed: int) -> None:
            nonlocal done
            done += computed
            told(done / products)

        vectors = np.memmap(
            self._written, "<f2", "r", len(_faiss_header(self._dim, 0)), (len(self._ids), self._dim)
        )
        # As they will be read again, so that what is measured is what will be.
        centroids = clusters.train(vectors, more).astype(np.float16)
        exact = clusters.exact_best(vectors, queries, more)
        labels = clusters.assign(vectors, centroids.astype(np.float32), more)
        measured = clusters.measure(queries, centroids.astype(np.float32), labels, exact)
        if not clusters.is_worth_it(measured):
            measured = measured._replace(lists=0)
            with self._written.open("r+b") as file:
                file.seek(-_STAMP.size, os.SEEK_END)
                self._write_trailer(file, measured)
            return measured
        order = np.argsort(labels, kind="stable")
        offsets = np.searchsorted(labels[order], np.arange(len(centroids) + 1))
        with open(self._ordered, "w+b", opener=self._opener) as file:
            chunks = ((self._ids[rows], vectors[rows]) for rows in _parts(order))
            _write_vectors(file, self._dim, chunks)
            self._write_trailer(file, measured, Lists(offsets, centroids))
        self._finished = self._ordered
        return measured

    def replace(self) -> None:
        """Put it in its place as one step: a reader sees the old file or the new one.

        Raises OSError.
        """
        os.replace(self._finished, self._path)

    def _opener(self, path: str, flags: int) -> int:
        return os.open(path, flags, self._mode)

    def _write_trailer(
        self, file: BinaryIO, cluster_search: ClusterSearch, lists: Lists | None = None
    ) -> None:
        if lists is not None:
            file.write(lists.offsets.astype("<i8").tobytes())
            file.write(lists.centroids.tobytes())
        newest = int(self._ids.max(initial=0))
        stamp = Stamp(self._token, newest, len(self._ids))
        end = file.tell()
        checksum = _checksum(file, end, self._dim, stamp, cluster_search)
        file.seek(end)
        file.write(_STAMP.pack(_MAGIC, *stamp, *cluster_search, checksum))
        file.flush()
        os.fsync(file.fileno())


def _parts(rows: Ids) -> Iterator[Ids]:
    return (rows[start : start + _ROWS_PER_CHUNK] for start in range(0, len(rows), _ROWS_PER_CHUNK))


def _write_vectors(file: BinaryIO, dim: int, chunks: Iterable[tuple[Ids, Half]]) -> Ids:
    """Write what FAISS would write; return the ids.

    FAISS's own writer takes an index that is in memory as a whole. QT_fp16's code of a vector is
    the vector in fp16, so nothing is converted.
    """
    file.write(_faiss_header(dim, 0))
    seen = [np.empty(0, np.int64)]
    for some, vectors in chunks:
        file.write(np.ascontiguousarray(vectors).data)
        seen.append(some)
    ids = np.concatenate(seen)
    file.write(struct.pack("<Q", len(ids)))
    file.write(ids.data)
    end = file.tell()
    file.seek(0)
    file.write(_faiss_header(dim, len(ids)))
    file.seek(end)
    return ids


def _faiss_header(dim: int, count: int) -> bytes:
    """What precedes the codes in an IndexIDMap over an IndexScalarQuantizer (index_write.cpp)."""
    trained, metric, quantizer_type, unused = 1, 0, 4, 1 << 20  # inner product, fp16
    index = struct.pack("<iqqqBi", dim, count, unused, unused, trained, metric)
    quantizer = struct.pack("<iif", quantizer_type, 0, 0.0)
    sizes = struct.pack("<QQ", dim, 2 * dim)
    nothing_trained = struct.pack("<Q", 0)
    length = struct.pack("<Q", 2 * dim * count)
    return b"IxMp" + index + b"IxSQ" + index + quantizer + sizes + nothing_trained + length


def _read_trailer(file: BinaryIO, dim: int) -> tuple[Stamp, ClusterSearch, Lists | None]:
    """What is ours at a file's end.

    Raises DamagedVectorIndex if the file is not as it was written.
    """
    end = file.seek(0, os.SEEK_END) - _STAMP.size
    if end < 0:
        raise DamagedVectorIndex("it is cut short")
    file.seek(end)
    magic, token, newest_id, vectors, *cluster_values, checksum = _STAMP.unpack(file.read())
    if magic != _MAGIC:
        raise DamagedVectorIndex("it is cut short or is another program's")
    stamp, cluster_search = Stamp(token, newest_id, vectors), ClusterSearch(*cluster_values)
    if checksum != _checksum(file, end, dim, stamp, cluster_search):
        raise DamagedVectorIndex("it is damaged, or of another dimension")
    if cluster_search.lists == 0:
        return stamp, cluster_search, None
    file.seek(end - _lists_size(cluster_search.lists, dim))
    offsets = np.frombuffer(file.read(8 * (cluster_search.lists + 1)), "<i8")
    centroids = np.frombuffer(file.read(2 * dim * cluster_search.lists), "<f2")
    return stamp, cluster_search, Lists(offsets, centroids.reshape(-1, dim))


def _lists_size(lists: int, dim: int) -> int:
    return 8 * (lists + 1) + 2 * dim * lists if lists else 0


def _checksum(
    file: BinaryIO, end: int, dim: int, stamp: Stamp, cluster_search: ClusterSearch
) -> int:
    """CRC-32 of the stamp, of FAISS's header, and of the ids and lists that follow the vectors."""
    ids = end - _lists_size(cluster_search.lists, dim) - 8 * stamp.vectors - 8  # their count first
    header = ids - 2 * dim * stamp.vectors
    if not 0 <= header <= ids <= end:
        raise DamagedVectorIndex("it is damaged, or of another dimension")
    file.seek(0)
    of_stamp = zlib.crc32(_STAMP.pack(_MAGIC, *stamp, *cluster_search, 0))
    checksum = zlib.crc32(file.read(header), of_stamp)
    file.seek(ids)
    return zlib.crc32(file.read(end - ids), checksum)
