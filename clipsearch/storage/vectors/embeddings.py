"""The embeddings of a catalog: its rows are the source of truth; the FAISS file is derived.

The file may be missing, old or damaged. Rows that it lacks are searched exactly in the catalog, and
stale rows in it are ignored, so a search is always right.

SQLite keeps no checksums. A row of the catalog that is not a unit vector of the model's length is
damaged: it is never searched or written to the file. Only ``other_than_in_file`` detects a row that
was changed into a different unit vector.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.errors import StoreError
from clipsearch.records import Vectors
from clipsearch.storage import schema
from clipsearch.storage.sqlite import SQL_VARIABLES, Database
from clipsearch.storage.vectors.new_vector_file import NewVectorFile
from clipsearch.storage.vectors.vector_file import (
    CLUSTER_FROM,
    TOKEN_SIZE,
    DamagedVectorIndex,
    Half,
    Ids,
    VectorIndex,
    differing,
    identity_of,
)
from clipsearch.vectors import top_k

VECTORS = "vectors.faiss"

Progress = Callable[[str, int, int], None]
"""Called with the current step, the number of vectors done, and their total."""

_ROWS_PER_CHUNK = 16_384

_MOST_NEWER = 100_000
"""These add 0.4 s to a search. Embedding them took hours; writing ten million takes minutes."""

_UNIT = 0.01
"""After rounding to fp16, a unit vector's length is within 0.001 of 1."""


class Embeddings:
    """Reads, searches and checks the vectors of one catalog."""

    def __init__(self, db: Database, directory: Path, dim: int) -> None:
        """Open nothing yet: the first search reads the FAISS file."""
        self._db = db
        self._path = directory / VECTORS
        self._dim = dim
        self._index: VectorIndex | None = None
        self.damage = ""
        """Why a search could not use the FAISS file, for a message; "" if it could."""
        self.left_out = 0
        """How many images were left out of the FAISS file that was opened or written."""

    # -- in the catalog --------------------------------------------------------------------

    def vector(self, id: int) -> Vectors:
        """One embedding, ``(dim,)``. Raises KeyError if the id has no valid one."""
        found = self._db.value(
            "SELECT vector FROM vectors WHERE id = ? AND length(vector) = ?", (id, 2 * self._dim)
        )
        if found is None or not _are_unit(decoded(found)):
            raise KeyError(id)
        return decoded(found)

    def ids(self) -> Ids:
        """Ids of the good images, ``(n,)``, ascending; damaged embeddings are included."""
        rows = self._db.rows("SELECT id FROM images WHERE error IS NULL ORDER BY id")
        return np.fromiter((id for (id,) in rows), np.int64)

    def count(self, newer_than: int = 0) -> int:
        """How many good images have a greater id; damaged embeddings are included."""
        counted = "SELECT count(*) FROM images WHERE id > ? AND error IS NULL"
        return int(self._db.value(counted, (newer_than,)))

    def chunks(self, newer_than: int = 0) -> Iterator[tuple[Ids, Half]]:
        """Ids ``(n,)`` and embeddings ``(n, dim)`` of all with a greater id, by ascending id.

        In chunks of a few megabytes. Damaged ones are left out; ``bad`` lists them.
        """
        for ids, vectors in self._of_right_length(newer_than):
            sound = _are_unit(vectors.astype(np.float32))
            if sound.all():
                yield ids, vectors
            else:
                yield ids[sound], vectors[sound]

    def bad(self) -> list[int]:
        """Ids of good images whose embedding is missing or invalid, ascending.

        A valid embedding is a unit vector of the model's length.
        """
        rows = self._db.rows(
            "SELECT id FROM images LEFT JOIN vectors USING (id)"
            " WHERE error IS NULL AND (vector IS NULL OR length(vector) <> ?)",
            (2 * self._dim,),
        )
        odd = {id for (id,) in rows}
        for ids, vectors in self._of_right_length():
            odd.update(ids[~_are_unit(vectors.astype(np.float32))].tolist())
        return sorted(odd)

    def _of_right_length(self, newer_than: int = 0) -> Iterator[tuple[Ids, Half]]:
        for rows in self._db.batches(
            _ROWS_PER_CHUNK,
            "SELECT id, vector FROM vectors WHERE id > ? AND length(vector) = ? ORDER BY id",
            (newer_than, 2 * self._dim),
        ):
            ids = np.fromiter((id for id, _ in rows), np.int64, len(rows))
            joined = b"".join(vector for _, vector in rows)
            yield ids, np.frombuffer(joined, np.dtype("<f2")).reshape(len(rows), self._dim)

    # -- searching -------------------------------------------------------------------------

    def search_each(
        self, queries: Vectors, k: int, among: Ids | None, *, exact: bool
    ) -> list[list[tuple[int, float]]]:
        """For each of ``(q, dim)`` queries, the ids and scores of the ``k`` best, best first.

        ``among`` restricts the search to some ids. Inside a snapshot.
        """
        index = self.index()
        recent = self._best_of_newer(queries, k, index.stamp.newest_id, among)
        answers = []
        for query, newer, (ids, scores) in zip(
            queries, recent, index.search_each(queries, k, among, exact=exact), strict=True
        ):
            # Images that were removed since the file was written are still in it: ask for more
            # until enough of the results are in the catalog.
            asked = k
            while True:
                there = self._there(ids.tolist())
                if len(there) >= k or len(ids) < asked:
                    break
                asked *= 4
                ids, scores = index.search(query, asked, among, exact=exact)
            found = [(int(id), float(s)) for id, s in zip(ids, scores, strict=True) if id in there]
            answers.append(_best([*found, *newer], k))
        return answers

    def index(self) -> VectorIndex:
        """The FAISS file; if it is damaged, an empty index, and ``damage`` says why.

        It is read again if another process has written into it since.
        """
        if self._index is None or self._index.is_altered(self._path):
            self._read()
        assert self._index is not None
        return self._index

    def _read(self, *, whole: bool = False, to_search: bool = True) -> None:
        """Open the FAISS file; whole, to_search: see ``VectorIndex.read``."""
        noted = self._db.value("SELECT value FROM meta WHERE key = 'vector_file'")
        self.damage = ""
        try:
            self._index = VectorIndex.read(
                self._path, self._dim, *_unpacked(noted), whole=whole, to_search=to_search
            )
        except DamagedVectorIndex as error:
            self.damage = str(error)
            self._index = VectorIndex.empty(self._dim)
        self.left_out = self._index.stamp.left_out

    def pending(self) -> int:
        """How many good images are newer than the FAISS file."""
        return self.count(newer_than=self.index().stamp.newest_id)

    def _best_of_newer(
        self, queries: Vectors, k: int, than: int, among: Ids | None
    ) -> list[list[tuple[int, float]]]:
        """For each query, the best images that the FAISS file lacks, searched chunk by chunk."""
        best: list[list[tuple[int, float]]] = [[] for _ in queries]
        for ids, vectors in self.chunks(than):
            if among is not None:
                wanted = np.isin(ids, among)
                ids, vectors = ids[wanted], vectors[wanted]
            for n, query in enumerate(queries):
                here = zip(*(part.tolist() for part in top_k(query, ids, vectors, k)), strict=True)
                best[n] = _best([*best[n], *here], k)
        return best

    def _there(self, ids: list[int]) -> set[int]:
        """The subset of the ids that is in the catalog."""
        there: set[int] = set()
        for start in range(0, len(ids), SQL_VARIABLES):
            some = ids[start : start + SQL_VARIABLES]
            marks = ",".join("?" * len(some))
            rows = self._db.rows(f"SELECT id FROM images WHERE id IN ({marks})", some)
            there.update(id for (id,) in rows)
        return there

    # -- the FAISS file --------------------------------------------------------------------

    def check_file(self) -> str:
        """Check every block of the FAISS file, and say what is wrong; "" if nothing is."""
        with self._db.snapshot():
            self._read(whole=True)
        return self.damage

    def other_than_in_file(self) -> list[int]:
        """Ids of images whose embedding differs from the one in the FAISS file, ascending.

        The file's blocks have checksums and the catalog's rows do not, so the row is the damaged
        one. Empty if the file cannot be used.
        """
        with self._db.snapshot():
            newest = self.index().stamp.newest_id
            if self.damage:
                return []
            chunks = ((ids[ids <= newest], of_ids[ids <= newest]) for ids, of_ids in self.chunks())
            return differing(self._path, self._dim, chunks)

    def update_file(
        self,
        queries: Callable[[], Vectors] | None,
        *,
        mode: int,
        cluster_from: int = CLUSTER_FROM,
        force: bool = False,
        progress: Progress,
    ) -> bool:
        """Write the FAISS file again, if it has fallen behind: see ``Store.update_vector_index``.

        mode: the file's permissions. Raises StoreError.
        """
        with self._db.snapshot():
            self._read(to_search=False)
            index, self._index = self.index(), None
            images = self.count()
            newer = self.count(newer_than=index.stamp.newest_id)
        stamp = index.stamp
        gone = stamp.vectors + stamp.left_out - (images - newer)
        mended = bool(stamp.left_out) and gone > 0  # so that it is no longer reported
        behind = (newer + gone) * 20 > images or newer > _MOST_NEWER
        to_cluster = queries is not None and images >= cluster_from
        if not (force or self.damage or mended or behind) and (
            index.cluster_search or not to_cluster
        ):
            self._note(index)
            return False
        texts = queries() if queries is not None and to_cluster else None
        token = uuid.uuid4().bytes
        try:
            with NewVectorFile(self._path, self._dim, token, mode) as file:
                with self._db.snapshot():
                    newest = self._db.value("SELECT max(id) FROM images WHERE error IS NULL")
                    chunks = _counted(self.chunks(), images, progress)
                    file.write(chunks, of=images, newest=newest or 0)
                if texts is not None:
                    file.invert(
                        texts,
                        lambda share: progress("finding clusters", int(share * images), images),
                    )
                del index  # Windows cannot replace a mapped file
                # If one of the catalog and the file came from a backup, they may use the same id
                # for different images. So a token ties each catalog to its own file.
                with self._db.transaction():
                    file.replace()
                    noted = token + identity_of(self._path.stat())
                    self._db.execute_many(
                        "UPDATE meta SET value = ? WHERE key = ?",
                        [(noted, "vector_file"), (schema.now(), "updated_at")],
                    )
        except OSError as error:
            raise StoreError(
                f"cannot write {self._path}: {error.strerror}",
                hint="No image is lost: searches use the catalog until the file can be written.",
            ) from error
        self.damage = ""
        self.left_out = file.left_out
        return True

    def _note(self, index: VectorIndex) -> None:
        """Record the identity of a file that was copied and found to be intact."""
        noted = index.stamp.token + index.identity
        if noted != self._db.value("SELECT value FROM meta WHERE key = 'vector_file'"):
            with self._db.transaction():
                self._db.execute("UPDATE meta SET value = ? WHERE key = 'vector_file'", (noted,))


def decoded(vector: bytes) -> Vectors:
    """A stored vector as float32, ``(dim,)``."""
    return np.frombuffer(vector, np.dtype("<f2")).astype(np.float32)


def encoded(vector: Vectors) -> bytes:
    """A vector ``(dim,)`` in its stored form: fp16, little-endian."""
    return np.asarray(vector, np.dtype("<f2")).tobytes()


def _are_unit(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Whether each of ``(..., dim)`` vectors has unit length; False for NaN and infinity."""
    # An infinite vector is damaged, but must not cause a warning.
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("...i,...i->...", vectors, vectors)
        near: npt.NDArray[np.bool_] = abs(np.sqrt(squares) - 1) < _UNIT
    return near


def _best(scored: list[tuple[int, float]], k: int) -> list[tuple[int, float]]:
    return sorted(scored, key=lambda one: (-one[1], one[0]))[:k]


def _unpacked(noted: bytes) -> tuple[bytes, bytes]:
    """The token of a catalog's file, and the file's identity, if recorded."""
    return noted[:TOKEN_SIZE], noted[TOKEN_SIZE:]


def _counted(
    chunks: Iterable[tuple[Ids, Half]], total: int, progress: Progress
) -> Iterator[tuple[Ids, Half]]:
    done = 0
    for ids, vectors in chunks:
        yield ids, vectors
        done += len(ids)
        progress("writing vectors", done, total)
