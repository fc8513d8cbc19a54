"""The embeddings of a catalog: its rows are the truth, and the FAISS file is derived from them.

The file may be missing, old or damaged. What it lacks is searched exactly in the catalog, and
what it has too much is ignored, so a search is right at every moment in between.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from clipsearch.errors import StoreError
from clipsearch.records import Vectors
from clipsearch.storage import schema
from clipsearch.storage.sqlite import SQL_VARIABLES, Database
from clipsearch.storage.vectors.new_vector_file import NewVectorFile
from clipsearch.storage.vectors.vector_file import (
    CLUSTER_FROM,
    DamagedVectorIndex,
    Half,
    Ids,
    VectorIndex,
    count_differing,
)
from clipsearch.vectors import top_k

VECTORS = "vectors.faiss"

Progress = Callable[[str, int, int], None]
"""Told what is being done, of how many vectors it is done, and of how many in all."""

_ROWS_PER_CHUNK = 16_384

_UNIT = 0.01
"""A unit vector's length after rounding to fp16 is 1 to within a thousandth."""


class Embeddings:
    """The vectors of one catalog, of one length, to be read, searched and checked."""

    def __init__(self, db: Database, directory: Path, dim: int) -> None:
        """Open nothing yet: the FAISS file is read by the first search."""
        self._db = db
        self._path = directory / VECTORS
        self._dim = dim
        self._index: VectorIndex | None = None
        self.damage = ""
        """Why the FAISS file could not be used, if a search met that; for a message."""

    # -- in the catalog --------------------------------------------------------------------

    def vector(self, id: int) -> Vectors:
        """One embedding, ``(dim,)``. Raises KeyError for an id without a whole one."""
        found = self._db.value(
            "SELECT vector FROM vectors WHERE id = ? AND length(vector) = ?", (id, 2 * self._dim)
        )
        if found is None:
            raise KeyError(id)
        return decoded(found)

    def ids(self) -> Ids:
        """Ids of the pictures that have an embedding, ``(n,)``, ascending."""
        rows = self._db.rows(
            "SELECT id FROM vectors WHERE length(vector) = ? ORDER BY id", (2 * self._dim,)
        )
        return np.fromiter((id for (id,) in rows), np.int64)

    def chunks(self, newer_than: int = 0) -> Iterator[tuple[Ids, Half]]:
        """Ids ``(n,)`` and embeddings ``(n, dim)`` of all with a greater id, in their order.

        A few megabytes at a time. A vector of another length is damaged, and its picture is not
        found; ``bad`` names it.
        """
        for rows in self._db.batches(
            _ROWS_PER_CHUNK,
            "SELECT id, vector FROM vectors WHERE id > ? AND length(vector) = ? ORDER BY id",
            (newer_than, 2 * self._dim),
        ):
            ids = np.fromiter((id for id, _ in rows), np.int64, len(rows))
            joined = b"".join(vector for _, vector in rows)
            yield ids, np.frombuffer(joined, np.dtype("<f2")).reshape(len(rows), self._dim)

    def bad(self) -> list[int]:
        """Ids of good pictures without an embedding, or with one that cannot be, ascending.

        An embedding has the model's length and is a unit vector.
        """
        rows = self._db.rows(
            "SELECT id FROM images LEFT JOIN vectors USING (id)"
            " WHERE error IS NULL AND (vector IS NULL OR length(vector) <> ?)",
            (2 * self._dim,),
        )
        odd = {id for (id,) in rows}
        for ids, vectors in self.chunks():
            lengths = np.linalg.norm(vectors.astype(np.float32), axis=1)
            odd.update(ids[~(abs(lengths - 1) < _UNIT)].tolist())
        return sorted(odd)

    # -- searched --------------------------------------------------------------------------

    def search_each(
        self, queries: Vectors, k: int, among: Ids | None, *, exact: bool
    ) -> list[list[tuple[int, float]]]:
        """For each of ``(q, dim)`` queries the ids and scores of the ``k`` best, best first.

        ``among`` restricts it to some ids. Inside a snapshot.
        """
        index = self.index()
        recent = self._newer(index.stamp.newest_id, among)
        answers = []
        for query, (ids, scores) in zip(
            queries, index.search_each(queries, k, among, exact=exact), strict=True
        ):
            # Pictures that were removed since the file was written are still in it: ask for more
            # until enough of what it gives is in the catalog.
            asked = k
            while True:
                there = self._there(ids.tolist())
                if len(there) >= k or len(ids) < asked:
                    break
                asked *= 4
                ids, scores = index.search(query, asked, among, exact=exact)
            found = [(int(id), float(s)) for id, s in zip(ids, scores, strict=True) if id in there]
            found += zip(*(part.tolist() for part in top_k(query, *recent, k)), strict=True)
            answers.append(sorted(found, key=lambda scored: (-scored[1], scored[0]))[:k])
        return answers

    def index(self) -> VectorIndex:
        """The FAISS file, or an empty index in its place, with ``damage`` saying why."""
        if self._index is None:
            token = self._db.value("SELECT value FROM meta WHERE key = 'vector_file'")
            try:
                self._index = VectorIndex.read(self._path, self._dim, token)
            except DamagedVectorIndex as error:
                self.damage = str(error)
                self._index = VectorIndex.empty(self._dim)
        return self._index

    def pending(self) -> int:
        """How many vectors are newer than the FAISS file."""
        newest = self.index().stamp.newest_id
        return int(self._db.value("SELECT count(*) FROM vectors WHERE id > ?", (newest,)))

    def _newer(self, than: int, among: Ids | None) -> tuple[Ids, Half]:
        """Ids and vectors that the FAISS file does not have."""
        chunks = list(self.chunks(than))
        ids = np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in chunks)])
        empty = np.empty((0, self._dim), np.float16)
        vectors = np.concatenate([empty, *(vectors for _, vectors in chunks)])
        if among is not None:
            wanted = np.isin(ids, among)
            ids, vectors = ids[wanted], vectors[wanted]
        return ids, vectors

    def _there(self, ids: list[int]) -> set[int]:
        """Those of the ids that the catalog has."""
        there: set[int] = set()
        for start in range(0, len(ids), SQL_VARIABLES):
            some = ids[start : start + SQL_VARIABLES]
            marks = ",".join("?" * len(some))
            rows = self._db.rows(f"SELECT id FROM images WHERE id IN ({marks})", some)
            there.update(id for (id,) in rows)
        return there

    # -- the FAISS file --------------------------------------------------------------------

    def file_problem(self) -> str:
        """What is wrong with the FAISS file, every embedding in it compared; "" if nothing is."""
        with self._db.snapshot():
            self._index = None
            self.damage = ""
            index = self.index()
            if self.damage:
                return self.damage
            chunks = (
                (ids[ids <= index.stamp.newest_id], vectors[ids <= index.stamp.newest_id])
                for ids, vectors in self.chunks()
            )
            wrong = count_differing(self._path, self._dim, chunks)
        return f"{wrong} embeddings are not those of the catalogue" if wrong else ""

    def update_file(
        self,
        queries: Callable[[], Vectors] | None,
        *,
        mode: int,
        cluster_from: int = CLUSTER_FROM,
        anew: bool = False,
        progress: Progress,
    ) -> bool:
        """Write the FAISS file anew, if it has fallen behind: see ``Store.update_vector_index``.

        mode: the file's permissions. Raises StoreError.
        """
        with self._db.snapshot():
            self._index = None
            index = self.index()
            images = self._db.value("SELECT count(*) FROM images WHERE error IS NULL")
            newer = self.pending()
        gone = index.stamp.vectors - (images - newer)
        behind = anew or bool(self.damage) or (newer + gone) * 20 > images
        to_cluster = queries is not None and images >= cluster_from
        if not behind and (index.cluster_search or not to_cluster):
            return False
        texts = queries() if queries is not None and to_cluster else None
        token = uuid.uuid4().bytes
        try:
            with NewVectorFile(self._path, self._dim, token, mode) as file:
                with self._db.snapshot():
                    file.write(_counted(self.chunks(), images, progress))
                if texts is not None:
                    file.invert(
                        texts,
                        lambda share: progress("finding clusters", int(share * images), images),
                    )
                del index
                self._index = None  # Windows replaces no file that is mapped
                # A catalog and a file that did not grow up together (one of them out of a
                # backup) may use one id for two pictures: each catalog knows its own file by a
                # token.
                with self._db.transaction():
                    self._db.execute_many(
                        "UPDATE meta SET value = ? WHERE key = ?",
                        [(token, "vector_file"), (schema.now(), "updated_at")],
                    )
                    file.replace()
        except OSError as error:
            raise StoreError(
                f"cannot write {self._path}: {error.strerror}",
                hint="No picture is lost: searches read the catalogue until it can be written.",
            ) from error
        self.damage = ""
        return True


def decoded(vector: bytes) -> Vectors:
    """A stored vector as float32, ``(dim,)``."""
    return np.frombuffer(vector, np.dtype("<f2")).astype(np.float32)


def encoded(vector: Vectors) -> bytes:
    """A vector ``(dim,)`` as it is stored: fp16, little-endian."""
    return np.asarray(vector, np.dtype("<f2")).tobytes()


def _counted(
    chunks: Iterable[tuple[Ids, Half]], total: int, progress: Progress
) -> Iterator[tuple[Ids, Half]]:
    done = 0
    for ids, vectors in chunks:
        yield ids, vectors
        done += len(ids)
        progress("writing vectors", done, total)
