"""The index folder: a catalogue that is the truth, and the FAISS file derived from it.

``catalog.sqlite3`` holds a row an image, its vector as fp16, and the model that made it. SQLite
mints the ids and never uses one twice; a changed picture gets a new id, so an id means one vector
for ever and nothing is joined by row position. ``vectors.faiss`` may be missing, old or damaged:
whatever it lacks is searched exactly in the catalogue, and what it has too much is passed over,
so a search is right at every moment in between.

The journal is SQLite's rollback journal and not its write-ahead log, which needs shared memory
and so fails on network shares and read-only media. Transactions are one batch long; readers and
the writer wait for each other for moments.
"""

import os
import platform
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsearch.errors import (
    IndexLocked,
    IndexNotFound,
    IndexUnreadable,
    ModelMismatch,
    StoreError,
)
from clipsearch.paths import absolute
from clipsearch.records import (
    EVERYTHING,
    CollectionStatus,
    EmbeddedImage,
    Filter,
    Hit,
    ImageFile,
    IndexedImage,
    KnownImage,
    ModelSpec,
    Origin,
    Vectors,
)
from clipsearch.storage.globe import distance_km
from clipsearch.storage.vector_file import (
    CLUSTER_FROM,
    DamagedVectorIndex,
    Half,
    Ids,
    NewVectorFile,
    VectorIndex,
    count_differing,
)
from clipsearch.vectors import top_k

if TYPE_CHECKING:
    from filelock import FileLock

FOLDER = ".clipsearch"
"""The index folder's name inside the folder that it indexes."""

CATALOG, VECTORS, LOCK, REBUILD = "catalog.sqlite3", "vectors.faiss", "writer.lock", "rebuild"
HOLDER = "writer.txt"
"""Who holds the lock, in words. Apart from it: whoever tries the lock empties its file."""

SCHEMA_VERSION = 3

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: the FAISS file carries it
    path BLOB NOT NULL UNIQUE,             -- relative to the root, the file system's own bytes
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    hash BLOB,                             -- BLAKE2b-160 of the content; NULL where it failed
    width INTEGER, height INTEGER,
    taken_at TEXT,
    error TEXT,                            -- why there is no vector; NULL for a good picture
    camera TEXT,                           -- '': it does not tell; NULL: not looked at yet
    latitude REAL, longitude REAL
);
CREATE INDEX images_by_hash ON images (hash);
-- Apart from images, so that comparing 60,000 paths does not read 60,000 vectors.
CREATE TABLE vectors (
    id INTEGER PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,
    vector BLOB NOT NULL                   -- dim x fp16, little-endian
);
-- What other rooms keep with the index and can make again: measurements, probes.
CREATE TABLE attachments (name TEXT PRIMARY KEY, value NOT NULL);
"""

_META_KINDS = {"vector_file": bytes, "root": bytes, "created_at": str, "updated_at": str}
"""What the table ``meta`` holds beside the model."""

_MIGRATIONS = {
    2: "CREATE TABLE attachments (name TEXT PRIMARY KEY, value NOT NULL)",
    # A column more costs the same for any number of rows, and can be had of a damaged catalogue.
    3: "ALTER TABLE images ADD COLUMN camera TEXT;\n"
    "ALTER TABLE images ADD COLUMN latitude REAL;\n"
    "ALTER TABLE images ADD COLUMN longitude REAL",
}
"""What makes a catalogue one of this version out of one of the version before."""

_UNIT = 0.01
"""A unit vector's length after rounding to fp16 is 1 to within a thousandth."""
_TAKEN_AT = (
    "coalesce(taken_at, strftime('%Y-%m-%dT%H:%M:%S', mtime_ns / 1000000000, 'unixepoch',"
    " 'localtime'))"
)
_KM_PER_DEGREE = 111.19
"""Of latitude, a trifle less than it is, so that none is passed over for its rounding."""
_BUSY_SECONDS = 30.0
_ROWS_PER_CHUNK = 16_384
_SQL_VARIABLES = 500
_MOST = 2**63 - 1
"""The greatest number that SQLite knows."""
"""How many values one statement may name; SQLite's least limit is 999."""


class Store:
    """One collection's index. Use as a context manager, or call ``close``."""

    def __init__(self, directory: Path, connection: sqlite3.Connection, lock: "FileLock | None"):
        """Use ``create``, ``open`` or ``open_for_writing``."""
        self.directory = directory
        self._db = connection
        self._lock = lock
        self._meta = dict(connection.execute("SELECT key, value FROM meta"))
        try:
            self.spec = ModelSpec.from_json(self._meta["model"])
        except (KeyError, ValueError) as error:
            raise IndexUnreadable(
                f"the index at {directory} does not tell which model made it",
                hint=f"It is damaged. Delete {directory} and index again.",
            ) from error
        for key, kind in _META_KINDS.items():
            if not isinstance(self._meta.get(key), kind):
                raise IndexUnreadable(
                    f"the index at {directory} does not tell its {key}",
                    hint=f"It is damaged. Delete {directory} and index again.",
                )
        self._vector_index: VectorIndex | None = None
        self.damage = ""
        """Why the FAISS file could not be used, if a search met that; for a message."""

    # -- opening and closing ---------------------------------------------------------------

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether there is an index at ``directory``; an empty file is none yet."""
        catalog = directory / CATALOG
        return catalog.is_file() and _size(catalog) > 0

    @classmethod
    def _require(cls, directory: Path) -> None:
        if not cls.exists(directory):
            raise IndexNotFound(
                f"there is no index at {directory}", hint="Make one with: clipsearch index FOLDER"
            )

    @classmethod
    def open(cls, directory: Path) -> "Store":
        """Open for reading; works on read-only media and beside a writer.

        Raises IndexNotFound, IndexUnreadable.
        """
        cls._require(directory)
        return cls._connect(directory, write=False, lock=None)

    @classmethod
    def open_for_writing(cls, directory: Path, *, wait: bool = False) -> "Store":
        """Open as the one writer, or ``wait`` until that is possible.

        Raises IndexLocked, IndexNotFound, IndexUnreadable.
        """
        cls._require(directory)
        lock = _acquire(directory, wait=wait)
        try:
            return cls._connect(directory, write=True, lock=lock)
        except BaseException:
            _release(directory, lock)
            raise

    @classmethod
    def create(cls, directory: Path, root: Path, spec: ModelSpec) -> "Store":
        """Make an empty index for ``root`` and open it as the one writer.

        Raises IndexLocked, and StoreError if the folder cannot be written to.
        """
        try:
            # No wider than the folder of pictures itself: the index tells what is in it. But for
            # its owner to write to, even where the pictures are not.
            mode = root.stat().st_mode & 0o777 | 0o700
            directory.mkdir(mode=mode, parents=True, exist_ok=True)
            # Nor are its files, where the folder was there before and is open to more people:
            # SQLite's journal and the FAISS file have the mode of the catalogue.
            os.close(os.open(directory / CATALOG, os.O_CREAT | os.O_WRONLY, mode & 0o666))
        except OSError as error:
            raise StoreError(
                f"cannot make the index folder {directory}: {error.strerror}",
                hint="Put the index elsewhere with --index DIR.",
            ) from error
        lock = _acquire(directory)
        try:
            with _connection(directory, write=True) as connection:
                connection.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA.split(";\n"):
                    connection.execute(statement)
                now = _now()
                inside = directory == root / FOLDER
                meta = {
                    "vector_file": b"",  # the token of the FAISS file that is this catalogue's
                    "model": spec.to_json(),
                    # Empty where the index lies in its own root, so that both can travel.
                    "root": b"" if inside else os.fsencode(root),
                    "created_at": now,
                    "updated_at": now,
                }
                connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                connection.execute("COMMIT")
                return cls(directory, connection, lock)
        except BaseException:
            _release(directory, lock)
            raise

    @classmethod
    def _connect(cls, directory: Path, *, write: bool, lock: "FileLock | None") -> "Store":
        with _connection(directory, write=write) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise IndexUnreadable(
                    f"the index at {directory} was written by a newer clipsearch "
                    f"(schema {version}; this one knows {SCHEMA_VERSION})",
                    hint="Upgrade clipsearch. The index was not touched.",
                )
            if version < 1:
                (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                if tables == 0:  # its writer was killed before the first commit
                    raise IndexNotFound(
                        f"the index at {directory} was never begun",
                        hint="Make it with: clipsearch index FOLDER",
                    )
                raise IndexUnreadable(
                    f"{directory / CATALOG} is another program's database",
                    hint="Put the index elsewhere with --index DIR.",
                )
            if write:
                _migrate(connection, version)
            return cls(directory, connection, lock)

    def close(self) -> None:
        """Close the catalogue and let go of the writer's lock."""
        self._db.close()
        if self._lock is not None:
            _release(self.directory, self._lock)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what is known ---------------------------------------------------------------------

    @property
    def root(self) -> Path:
        """The folder of pictures, wherever the index and it have travelled."""
        root: bytes = self._meta["root"]
        return Path(os.fsdecode(root)) if root else self.directory.parent

    def require_root(self) -> None:
        """Raise IndexUnreadable if the index was copied out of its folder, and no one knows which.

        An index inside its folder does not say where that is, so that both can travel.
        """
        if not self._meta["root"] and self.directory.name != FOLDER:
            raise IndexUnreadable(
                f"the index at {self.directory} was copied out of its folder, and does not tell "
                "where its pictures are",
                hint=f"Put it into the folder of pictures again, under the name {FOLDER}.",
            )

    def is_empty(self) -> bool:
        """Whether there is no picture in it, good or failed."""
        with self._errors():
            return self._db.execute("SELECT 1 FROM images LIMIT 1").fetchone() is None

    def known(self, under: bytes = b"") -> dict[bytes, KnownImage]:
        """What the catalogue knows of every file, or of those below ``under``."""
        where, values = _below(under)
        with self._errors():
            rows = self._db.execute(
                "SELECT path, id, size, mtime_ns, error IS NOT NULL,"
                f" camera IS NULL AND error IS NULL FROM {self._images()} WHERE {where}",
                values,
            )
            return {
                path: KnownImage(id, size, mtime_ns, bool(failed), bool(unseen))
                for path, id, size, mtime_ns, failed, unseen in rows
            }

    def unseen(self) -> int:
        """How many good pictures are still to be looked at for their camera and place."""
        with self._errors():
            (count,) = self._db.execute(
                f"SELECT count(*) FROM {self._images()} WHERE camera IS NULL AND error IS NULL"
            ).fetchone()
        return int(count)

    def find_content(self, content_hash: bytes) -> list[tuple[int, bytes]]:
        """Ids and paths of the good pictures with this very content that have an embedding."""
        with self._errors():
            return self._db.execute(
                "SELECT id, path FROM images JOIN vectors USING (id)"
                " WHERE hash = ? AND error IS NULL AND length(vector) = ? ORDER BY id",
                (content_hash, 2 * self.spec.dim),
            ).fetchall()

    def vector(self, id: int) -> Vectors:
        """The stored embedding, ``(dim,)``. Raises KeyError for an id without a whole one."""
        with self._errors():
            row = self._db.execute(
                "SELECT vector FROM vectors WHERE id = ? AND length(vector) = ?",
                (id, 2 * self.spec.dim),
            ).fetchone()
        if row is None:
            raise KeyError(id)
        return np.frombuffer(row[0], np.dtype("<f2")).astype(np.float32)

    def vector_of_content(self, content_hash: bytes) -> Vectors | None:
        """The embedding ``(dim,)`` of a picture with this content; None if there is none."""
        for id, _ in self.find_content(content_hash):
            with suppress(KeyError):  # removed a moment ago
                return self.vector(id)
        return None

    def path_of(self, id: int) -> Path:
        """Where the picture lies. Raises KeyError for an id that there is none of."""
        with self._errors():
            return Path(os.fsdecode(absolute(os.fsencode(self.root), self._rows([id])[id][0])))

    def vectors(self, ids: Sequence[int]) -> Vectors:
        """The stored embeddings of these pictures, ``(n, dim)``. Raises KeyError as ``vector``."""
        return np.stack([self.vector(id) for id in ids])

    def ids(self, only: Filter = EVERYTHING) -> Ids:
        """Ids of the pictures that a filter lets through and that have a vector, ``(n,)``.

        Ascending; without a filter, those of ``all_vectors``.
        """
        with self._errors():
            rows = self._db.execute(
                "SELECT id FROM vectors WHERE length(vector) = ? ORDER BY id", (2 * self.spec.dim,)
            )
            ids = np.fromiter((id for (id,) in rows), np.int64)
            return ids if only == EVERYTHING else ids[np.isin(ids, self._ids_among(only))]

    def whole(self, ids: Ids) -> Iterator[EmbeddedImage]:
        """All that is stored of these pictures, by id; those removed meanwhile are left out."""
        for start in range(0, len(ids), _SQL_VARIABLES):
            some = ids[start : start + _SQL_VARIABLES].tolist()
            marks = ",".join("?" * len(some))
            with self._errors():
                rows = self._db.execute(
                    "SELECT path, size, mtime_ns, hash, width, height, taken_at, vector,"
                    f" nullif(camera, ''), latitude, longitude FROM {self._images()}"
                    f" JOIN vectors USING (id) WHERE id IN ({marks}) ORDER BY id",
                    some,
                ).fetchall()
            for *file, digest, width, height, taken_at, vector, camera, north, east in rows:
                unit = np.frombuffer(vector, np.dtype("<f2")).astype(np.float32)
                facts = (digest, width, height, taken_at, unit, camera, north, east)
                yield EmbeddedImage(ImageFile(*file), *facts)

    def embeddings(self) -> Iterator[tuple[Ids, Half]]:
        """Ids ``(n,)`` and embeddings ``(n, dim)`` in fp16, some at a time, by ascending id."""
        with self._errors():
            yield from self._chunks(newer_than=0)

    def all_vectors(self) -> Iterator[Half]:
        """All embeddings, ``(n, dim)`` fp16 at a time, in the order of the ids."""
        return (vectors for _, vectors in self.embeddings())

    def images(self, only: Filter = EVERYTHING) -> list[IndexedImage]:
        """The good pictures that a filter lets through, in the order of their ids."""
        columns = ", ".join(IndexedImage._fields).replace("content_hash", "hash")
        with self._errors(), self._snapshot():
            among = set(self._ids_among(only).tolist())
            rows = self._db.execute(f"SELECT {columns} FROM images WHERE error IS NULL ORDER BY id")
            return [IndexedImage(*row) for row in rows if row[0] in among]

    def count(self, only: Filter = EVERYTHING) -> int:
        """How many good pictures there are, of those that a filter lets through."""
        with self._errors():
            return len(self._ids_among(only))

    def attachment(self, name: str) -> Any:
        """What was attached under a name, text or bytes; None if nothing was."""
        if name not in self.attached(name):
            return None
        with self._errors():
            (value,) = self._db.execute(
                "SELECT value FROM attachments WHERE name = ?", (name,)
            ).fetchone()
        return value

    def attached(self, prefix: str) -> list[str]:
        """Names of the attachments that begin so, in order."""
        with self._errors():
            if self._version() < 2:  # read only, and so not migrated
                return []
            rows = self._db.execute(
                "SELECT name FROM attachments WHERE name >= ? ORDER BY name", (prefix,)
            )
            return [name for (name,) in rows if name.startswith(prefix)]

    def status(self) -> CollectionStatus:
        """Counts, sizes and times."""
        with self._errors(), self._snapshot():
            # All are counted in an index, and the failed ones sorted here: with the condition and
            # the order left to SQLite, a million rows take four times as long.
            (known,) = self._db.execute("SELECT count(*) FROM images").fetchone()
            failed = sorted(
                self._db.execute("SELECT path, error FROM images WHERE error IS NOT NULL")
            )
            index = self._open_vector_index()
            (pending,) = self._db.execute(
                "SELECT count(*) FROM vectors WHERE id > ?", (index.stamp.newest_id,)
            ).fetchone()
        return CollectionStatus(
            root=self.root,
            directory=self.directory,
            spec=self.spec,
            images=known - len(failed),
            failed=failed,
            catalog_bytes=_size(self.directory / CATALOG),
            vector_bytes=_size(self.directory / VECTORS),
            created_at=self._meta["created_at"],
            updated_at=self._meta["updated_at"],
            pending=pending,
            clusters=index.cluster_search,
        )

    # -- checking --------------------------------------------------------------------------

    def sqlite_problems(self) -> list[str]:
        """What SQLite's own checks find wrong with the catalogue; nothing if it is whole."""
        try:
            found = [text for (text,) in self._db.execute("PRAGMA integrity_check")]
            orphans = self._db.execute("PRAGMA foreign_key_check").fetchall()
        except sqlite3.DatabaseError as error:
            return [str(error)]
        return [text for text in found if text != "ok"] + [
            f"row {row} of {table} belongs to no row of {parent}"
            for table, row, parent, _ in orphans
        ]

    def bad_vectors(self) -> list[tuple[int, bytes]]:
        """Ids and paths of good pictures without an embedding, or with one that cannot be.

        An embedding has the model's length and is a unit vector.
        """
        with self._errors():
            bad = self._db.execute(
                "SELECT id, path FROM images LEFT JOIN vectors USING (id)"
                " WHERE error IS NULL AND (vector IS NULL OR length(vector) <> ?)",
                (2 * self.spec.dim,),
            ).fetchall()
            odd = {id for id, _ in bad}
            for ids, vectors in self._chunks(newer_than=0):
                lengths = np.linalg.norm(vectors.astype(np.float32), axis=1)
                odd |= {int(id) for id in ids[~(abs(lengths - 1) < _UNIT)]}
            rows = self._rows(sorted(odd))
        return [(id, rows[id][0]) for id in sorted(rows)]

    def vector_file_problem(self) -> str:
        """What is wrong with the FAISS file, every embedding in it compared; "" if nothing is."""
        with self._errors(), self._snapshot():
            self._vector_index = None
            self.damage = ""
            index = self._open_vector_index()
            if self.damage:
                return self.damage
            chunks = (
                (ids[ids <= index.stamp.newest_id], vectors[ids <= index.stamp.newest_id])
                for ids, vectors in self._chunks(newer_than=0)
            )
            path = self.directory / VECTORS
            wrong = count_differing(path, self.spec.dim, index.count, chunks)
        return f"{wrong} embeddings are not those of the catalogue" if wrong else ""

    # -- searching -------------------------------------------------------------------------

    def search(
        self, query: Vectors, k: int, only: Filter = EVERYTHING, *, exact: bool = False
    ) -> list[Hit]:
        """The ``k`` pictures most similar to the unit vector ``query`` ``(dim,)``, best first.

        ``only`` restricts it to some pictures. Exact, at every moment of a collection's life,
        unless the FAISS file is searched through its clusters, of which ``status`` tells: with a
        filter or ``exact`` it never is, and pictures newer than it are always searched exactly.
        """
        (hits,) = self.search_each(query[np.newaxis], k, only, exact=exact)
        return hits

    def search_each(
        self, queries: Vectors, k: int, only: Filter = EVERYTHING, *, exact: bool = False
    ) -> list[list[Hit]]:
        """``search`` for each of ``(q, dim)`` queries, all at one moment of the collection."""
        with self._errors(), self._snapshot():
            index = self._open_vector_index()
            among = None if only == EVERYTHING else self._ids_among(only)
            recent = self._vectors(index.stamp.newest_id, among)
            answers = []
            for query, (ids, scores) in zip(
                queries, index.search_each(queries, k, among, exact=exact), strict=True
            ):
                recent_ids, recent_scores = top_k(query, *recent, k)
                # Pictures that were removed since the file was written are still in it: ask for
                # more until enough of what it gives is in the catalogue.
                asked = k
                while True:
                    rows = self._rows([*ids.tolist(), *recent_ids.tolist()])
                    if sum(int(id) in rows for id in ids) >= k or len(ids) < asked:
                        break
                    asked *= 4
                    ids, scores = index.search(query, asked, among, exact=exact)
                scored = zip([*ids, *recent_ids], [*scores, *recent_scores], strict=True)
                ranked = sorted((-float(score), int(id)) for id, score in scored if int(id) in rows)
                answers.append([self._hit(id, -score, *rows[id]) for score, id in ranked[:k]])
        return answers

    def _hit(
        self,
        id: int,
        score: float,
        path: bytes,
        width: int,
        height: int,
        taken_at: str | None,
        *origin: Any,
    ) -> Hit:
        camera, latitude, longitude = origin
        return Hit(
            *(id, path, self.root, score, width, height, taken_at),
            camera=camera or None,
            latitude=latitude,
            longitude=longitude,
        )

    def _version(self) -> int:
        """The catalogue's schema version: a reader meets older ones, and migrates none."""
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        return int(version)

    def _images(self) -> str:
        """The table of images for a FROM, with all its columns whatever the version."""
        if self._version() >= 3:
            return "images"
        columns = "NULL AS camera, NULL AS latitude, NULL AS longitude"
        return f"(SELECT *, {columns} FROM images) AS images"

    def _rows(self, ids: Sequence[int]) -> dict[int, tuple[Any, ...]]:
        rows: dict[int, tuple[Any, ...]] = {}
        for start in range(0, len(ids), _SQL_VARIABLES):
            some = ids[start : start + _SQL_VARIABLES]
            marks = ",".join("?" * len(some))
            for id, *row in self._db.execute(
                "SELECT id, path, width, height, taken_at, camera, latitude, longitude"
                f" FROM {self._images()} WHERE id IN ({marks})",
                some,
            ):
                rows[id] = tuple(row)
        return rows

    def _ids_among(self, only: Filter) -> Ids:
        """Ids of the pictures that a filter lets through."""
        where, values = _below(only.under)
        conditions: list[tuple[str, object]] = [
            (f"{_TAKEN_AT} >= ?", only.after),
            (f"{_TAKEN_AT} < ?", only.before),
            ("width >= ?", min(only.min_width, _MOST) or None),
            ("height >= ?", min(only.min_height, _MOST) or None),
            ("camera <> ?", "" if only.camera is not None else None),
            # No place within a distance lies further north or south than that.
            ("latitude >= ?", only.near and only.near.latitude - only.near.km / _KM_PER_DEGREE),
            ("latitude <= ?", only.near and only.near.latitude + only.near.km / _KM_PER_DEGREE),
        ]
        asked = [(text, value) for text, value in conditions if value is not None]
        where = " AND ".join(["error IS NULL", where, *(text for text, _ in asked)])
        rows = self._db.execute(
            f"SELECT id, path, camera, latitude, longitude FROM {self._images()} WHERE {where}",
            (*values, *(value for _, value in asked)),
        )
        root = os.fsencode(self.root)
        kept = (
            id
            for id, path, *origin in rows
            if _lets_through(only, path, root, *origin) and (only.ids is None or id in only.ids)
        )
        return np.fromiter(kept, np.int64)

    def _vectors(self, newer_than: int, among: Ids | None = None) -> tuple[Ids, Half]:
        """Ids and vectors that the FAISS file does not have."""
        chunks = list(self._chunks(newer_than))
        ids = np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in chunks)])
        empty = np.empty((0, self.spec.dim), np.float16)
        vectors = np.concatenate([empty, *(vectors for _, vectors in chunks)])
        if among is not None:
            wanted = np.isin(ids, among)
            ids, vectors = ids[wanted], vectors[wanted]
        return ids, vectors

    def _chunks(self, newer_than: int) -> Iterator[tuple[Ids, Half]]:
        """All ``(ids, vectors)`` with a greater id, a few megabytes at a time.

        A vector of another length is damaged, and its picture is not found; ``verify`` names it.
        """
        cursor = self._db.execute(
            "SELECT id, vector FROM vectors WHERE id > ? AND length(vector) = ? ORDER BY id",
            (newer_than, 2 * self.spec.dim),
        )
        while rows := cursor.fetchmany(_ROWS_PER_CHUNK):
            ids = np.fromiter((id for id, _ in rows), np.int64, len(rows))
            joined = b"".join(vector for _, vector in rows)
            yield ids, np.frombuffer(joined, np.dtype("<f2")).reshape(len(rows), self.spec.dim)

    def _open_vector_index(self) -> VectorIndex:
        """The FAISS file, or an empty index in its place, with ``damage`` saying why."""
        if self._vector_index is None:
            (token,) = self._db.execute(
                "SELECT value FROM meta WHERE key = 'vector_file'"
            ).fetchone()
            try:
                self._vector_index = VectorIndex.read(
                    self.directory / VECTORS, self.spec.dim, token
                )
            except DamagedVectorIndex as error:
                self.damage = str(error)
                self._vector_index = VectorIndex.empty(self.spec.dim)
        return self._vector_index

    # -- changing --------------------------------------------------------------------------

    @contextmanager
    def batch(self) -> Iterator[None]:
        """All changes inside are committed together, or none of them is."""
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("UPDATE meta SET value = ? WHERE key = 'updated_at'", (_now(),))
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has already rolled it back
                    self._db.execute("ROLLBACK")
                raise

    def add(self, images: Iterable[EmbeddedImage]) -> None:
        """Add or replace pictures, each under a new id. Inside ``batch``."""
        for image in images:
            facts = (image.content_hash, image.width, image.height, image.taken_at, None)
            origin = (image.camera or "", image.latitude, image.longitude)
            id = self._insert(image.file, *facts, *origin)
            self._insert_vector(id, np.asarray(image.vector, np.dtype("<f2")).tobytes())

    def add_copy(self, file: ImageFile, source: int) -> None:
        """Add a file whose content is that of the picture ``source``. Inside ``batch``."""
        facts = self._db.execute(
            "SELECT hash, width, height, taken_at, NULL, camera, latitude, longitude"
            " FROM images WHERE id = ?",
            (source,),
        ).fetchone()
        (vector,) = self._db.execute(
            "SELECT vector FROM vectors WHERE id = ?", (source,)
        ).fetchone()
        self._insert_vector(self._insert(file, *facts), vector)

    def add_failed(self, file: ImageFile, reason: str) -> None:
        """Remember that a file cannot be decoded, and why. Inside ``batch``."""
        self._insert(file, None, None, None, None, reason, None, None, None)

    def set_origins(self, origins: Iterable[tuple[int, Origin]]) -> None:
        """Note what pictures, by their ids, tell of their camera and place. Inside ``batch``."""
        self._db.executemany(
            "UPDATE images SET camera = ?, latitude = ?, longitude = ? WHERE id = ?",
            ((found.camera or "", found.latitude, found.longitude, id) for id, found in origins),
        )

    def move(self, id: int, file: ImageFile) -> None:
        """Give a picture a new path, size or time; its vector stays. Inside ``batch``."""
        self._db.execute("DELETE FROM images WHERE path = ? AND id <> ?", (file.path, id))
        self._db.execute(
            "UPDATE images SET path = ?, size = ?, mtime_ns = ? WHERE id = ?", (*file, id)
        )

    def forget(self, ids: Iterable[int]) -> None:
        """Forget pictures by their ids. Inside ``batch``."""
        self._db.executemany("DELETE FROM images WHERE id = ?", ((id,) for id in ids))

    def salvage(self, other: "Store") -> int:
        """Copy what can be read of a damaged catalogue into an empty one; how many pictures.

        Raises nothing for what cannot be read: it is left out.
        """
        columns = (
            "id, path, size, mtime_ns, hash, width, height, taken_at, camera, latitude, longitude,"
            " error"
        )
        copied = 0
        with other.batch():
            for order in ("", "DESC"):  # from both ends towards the damage
                try:
                    rows = self._db.execute(
                        f"SELECT {columns}, vector FROM images LEFT JOIN vectors USING (id)"
                        f" ORDER BY id {order}"
                    )
                    for *facts, vector in rows:
                        if facts[-1] is None and vector is None:
                            continue
                        marks = ",".join("?" * len(facts))
                        added = other._db.execute(
                            f"INSERT OR IGNORE INTO images ({columns}) VALUES ({marks})", facts
                        ).rowcount
                        if added and vector is not None:
                            other._insert_vector(facts[0], vector)
                        copied += added
                except (sqlite3.DatabaseError, OverflowError):
                    continue
            for name in self._readable_attachments():
                other.attach(*name)
        return copied

    def _readable_attachments(self) -> list[tuple[str, Any]]:
        try:
            return [(name, self.attachment(name)) for name in self.attached("")]
        except StoreError:
            return []

    def remove(self, paths: Iterable[bytes]) -> None:
        """Forget pictures. Inside ``batch``."""
        self._db.executemany("DELETE FROM images WHERE path = ?", ((path,) for path in paths))

    def attach(self, name: str, value: str | bytes) -> None:
        """Keep with the index what another room means by it. Inside ``batch``."""
        self._db.execute("INSERT OR REPLACE INTO attachments VALUES (?, ?)", (name, value))

    def detach(self, name: str) -> None:
        """Forget an attachment. Inside ``batch``."""
        self._db.execute("DELETE FROM attachments WHERE name = ?", (name,))

    def set_spec(self, spec: ModelSpec) -> None:
        """Note where the same model is now to be found. Inside ``batch``.

        Raises ModelMismatch if it is not the same model.
        """
        if spec.fingerprint != self.spec.fingerprint:
            raise ModelMismatch(
                f"the index at {self.directory} was made with {self.spec.label} "
                f"({self.spec.fingerprint[:12]}), not with {spec.label} ({spec.fingerprint[:12]})",
                hint="To change the model, all pictures must be read anew: add --rebuild. "
                "The index you have stays as it is until that has finished.",
            )
        self._db.execute("UPDATE meta SET value = ? WHERE key = 'model'", (spec.to_json(),))
        self.spec = spec

    def _insert(self, file: ImageFile, *facts: object) -> int:
        self._db.execute("DELETE FROM images WHERE path = ?", (file.path,))
        cursor = self._db.execute(
            "INSERT INTO images (path, size, mtime_ns, hash, width, height, taken_at, error,"
            " camera, latitude, longitude) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*file, *facts),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _insert_vector(self, id: int, vector: bytes) -> None:
        self._db.execute("INSERT INTO vectors VALUES (?, ?)", (id, vector))

    def update_vector_index(
        self,
        queries: Callable[[], Vectors] | None = None,
        *,
        cluster_from: int = CLUSTER_FROM,
        anew: bool = False,
        progress: Callable[[str, int, int], None] = lambda doing, done, total: None,
    ) -> bool:
        """Write the FAISS file anew, if it has fallen behind by more than a search should carry.

        What it lacks is searched in the catalogue, at a cost that grows with its number; a new
        file costs as much as the whole collection. One part in twenty balances the two.

        queries: gives unit vectors of texts, ``(q, dim)``, at least two; called only for a new
        file of ``cluster_from`` vectors or more, which is then ordered by cluster if that is worth
        it. Without them the file is for exact searches, until an update that has them. anew:
        write it in any case. progress: told what is being done, and of how many vectors it is
        done, as for ``indexing.update``. Says whether it was written.

        Raises StoreError.
        """
        with self._errors(), self._snapshot():
            self._vector_index = None
            index = self._open_vector_index()
            (images,) = self._db.execute(
                "SELECT count(*) FROM images WHERE error IS NULL"
            ).fetchone()
            (newer,) = self._db.execute(
                "SELECT count(*) FROM vectors WHERE id > ?", (index.stamp.newest_id,)
            ).fetchone()
        gone = index.stamp.vectors - (images - newer)
        behind = anew or bool(self.damage) or (newer + gone) * 20 > images
        to_cluster = queries is not None and images >= cluster_from
        if not behind and (index.cluster_search or not to_cluster):
            return False
        texts = queries() if queries is not None and to_cluster else None
        token = uuid.uuid4().bytes
        path = self.directory / VECTORS
        try:
            mode = (self.directory / CATALOG).stat().st_mode & 0o666
            with NewVectorFile(path, self.spec.dim, token, mode) as file:
                with self._errors(), self._snapshot():
                    file.write(_counted(self._chunks(newer_than=0), images, progress))
                if texts is not None:
                    file.order_by_cluster(
                        texts,
                        lambda share: progress("finding clusters", int(share * images), images),
                    )
                del index
                self._vector_index = None  # Windows replaces no file that is mapped
                # A catalogue and a file that did not grow up together (one of them out of a
                # backup) may use one id for two pictures: each catalogue knows its own file by a
                # token.
                with self.batch():
                    self._db.execute(
                        "UPDATE meta SET value = ? WHERE key = 'vector_file'", (token,)
                    )
                    file.replace()
        except OSError as error:
            raise StoreError(
                f"cannot write {path}: {error.strerror}",
                hint="No picture is lost: searches read the catalogue until it can be written.",
            ) from error
        self.damage = ""
        return True

    def replace_with(self, other: "Store") -> None:
        """Put another index (a finished rebuild) in this one's place, and close both.

        Raises StoreError if the files cannot be moved.
        """
        with other.batch():
            other._db.execute("UPDATE meta SET value = ? WHERE key = 'root'", (self._meta["root"],))
        # Taking the write lock rolls back what a killed writer left, so that no journal of the
        # old catalogue lies beside the new one.
        with self.batch():
            pass
        for store in (other, self):
            store._db.close()
        try:
            for name in (CATALOG, VECTORS):
                os.replace(other.directory / name, self.directory / name)
        except OSError as error:
            raise StoreError(
                f"cannot replace the old index: {error.strerror}",
                hint="Is another program reading it? Run the same command again.",
            ) from error
        finally:
            other.close()
            self.close()
        shutil.rmtree(other.directory, ignore_errors=True)

    # -- SQLite ----------------------------------------------------------------------------

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Reads inside see one state of the catalogue, whatever is committed meanwhile."""
        self._db.execute("BEGIN")
        try:
            self._db.execute("SELECT 1 FROM meta").fetchone()  # this is what takes the snapshot
            yield
        finally:
            self._db.execute("ROLLBACK")

    def _errors(self) -> "_sqlite_errors":
        return _sqlite_errors(self.directory)


@contextmanager
def _connection(directory: Path, *, write: bool) -> Iterator[sqlite3.Connection]:
    """Open the catalogue for a store to keep; it is closed again if anything goes wrong inside."""
    # A reader, too, opens it for writing where it may: a writer that was killed at a commit leaves
    # a journal, which whoever comes next has to roll back. On read-only media SQLite is content
    # to read.
    mode = "rwc" if write else "rw"
    with _sqlite_errors(directory):
        connection = sqlite3.connect(
            f"{_uri(directory.absolute() / CATALOG)}?mode={mode}",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            if write:
                connection.execute("PRAGMA journal_mode = DELETE")
                connection.execute("PRAGMA synchronous = FULL")
                # A batch that outgrows the cache would lock all readers out until it ends.
                connection.execute("PRAGMA cache_spill = OFF")
            else:
                connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA foreign_keys = ON")
            yield connection
        except BaseException:
            connection.close()
            raise


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring a catalogue of an older version up to date, a version at a time.

    Each step and its version number are one transaction: a run that is killed leaves the version
    before, and the next one goes on from there. Readers know every version.
    """
    for target in range(version + 1, SCHEMA_VERSION + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _MIGRATIONS[target].split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {target}")
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise


def _uri(path: PurePath) -> str:
    """A path as SQLite's kind of URI, in which a Windows share is part of the path."""
    uri = path.as_uri()
    return uri if uri.startswith("file:///") else uri.replace("file://", "file:////", 1)


class _sqlite_errors:  # noqa: N801  (used like contextlib.suppress)
    """Turn SQLite's errors into ours, with the next step."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if not isinstance(error, sqlite3.Error):
            return
        where = self._directory / CATALOG
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_BUSY:
            raise IndexLocked(
                f"{where} has been busy for {_BUSY_SECONDS:.0f} seconds", hint="Try again."
            ) from error
        if code == sqlite3.SQLITE_FULL:
            raise StoreError(
                f"the disk is full ({where})",
                hint="Make room and run the same command again; what was done so far is kept.",
            ) from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            raise StoreError(
                f"cannot write or open {where}: {error}",
                hint="Put the index elsewhere with --index DIR.",
            ) from error
        raise IndexUnreadable(
            f"cannot read {where}: {error}",
            hint=f"If it is damaged, delete {self._directory} and index again.",
        ) from error


def _acquire(directory: Path, *, wait: bool = False) -> "FileLock":
    """The writer's lock: the system releases it when its holder ends, however it ends."""
    from filelock import FileLock, Timeout  # here, since no reader needs it and it is slow to load

    lock = FileLock(directory / LOCK, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout as error:
        holder = _holder(directory)
        raise IndexLocked(
            f"another clipsearch is writing to {directory}" + (f": {holder}" if holder else ""),
            hint="Wait until it has finished (index --wait does); searching works meanwhile.",
        ) from error
    except OSError as error:
        raise StoreError(
            f"cannot write to the index folder {directory}: {error.strerror}",
            hint="Put the index elsewhere with --index DIR.",
        ) from error
    with suppress(OSError):  # a full disk, say: only the message to others is lost
        (directory / HOLDER).write_text(
            f"process {os.getpid()} on {platform.node()} since {_now()}", encoding="utf-8"
        )
    return lock


def writer_of(directory: Path) -> str | None:
    """Who is writing to the index at this moment, in words, which may be none; None: nobody.

    A lock file that a dead process left is nobody's. For a moment this holds the lock itself.
    """
    from filelock import FileLock, Timeout

    if not (directory / LOCK).is_file():
        return None
    lock = FileLock(directory / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return _holder(directory)
    except OSError:  # on a read-only medium nobody writes
        return None
    lock.release()
    return None


def _holder(directory: Path) -> str:
    try:
        return (directory / HOLDER).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _release(directory: Path, lock: "FileLock") -> None:
    with suppress(OSError):
        (directory / HOLDER).unlink()
    lock.release()


def _lets_through(
    only: Filter,
    path: bytes,
    root: bytes,
    camera: str | None,
    latitude: float | None,
    longitude: float | None,
) -> bool:
    """What SQL cannot ask: of a path, which need not be text, of a glob, of a distance."""
    if only.near is not None:
        if latitude is None or longitude is None:
            return False
        there, km = only.near[:2], only.near.km
        if distance_km(*there, latitude, longitude) > km:
            return False
    if only.camera is not None and not _matches(only.camera.casefold(), (camera or "").casefold()):
        return False
    if only.paths is not None and absolute(root, path) not in only.paths:
        return False
    if only.suffixes and os.path.splitext(path)[1].lower() not in only.suffixes:
        return False
    if only.name is None:
        return True
    told = path if "/" in only.name else os.path.basename(path)
    return fnmatchcase(told, os.fsencode(only.name))


def _matches(asked: str, camera: str) -> bool:
    if any(letter in asked for letter in "*?["):
        return fnmatchcase(camera, asked)
    return asked in camera


def _counted(
    chunks: Iterable[tuple[Ids, Half]], total: int, progress: Callable[[str, int, int], None]
) -> Iterator[tuple[Ids, Half]]:
    done = 0
    for ids, vectors in chunks:
        yield ids, vectors
        done += len(ids)
        progress("writing vectors", done, total)


def _below(under: bytes) -> tuple[str, tuple[bytes, ...]]:
    """An SQL condition for the paths below a folder: a range, so that the index on path is used."""
    if not under:
        return "1", ()
    return "(path = ? OR (path > ? AND path < ?))", (under, under + b"/", under + b"0")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
