"""The index folder: a catalog, the source of truth, and the FAISS file derived from it.

``catalog.sqlite3`` holds one row per image, its vector as fp16, and the model that made it. SQLite
assigns the ids and never reuses one; a changed image gets a new id, so an id always means the same
vector and nothing is joined by row position.

Other rooms open a ``Store``. Its parts are in separate files: ``sqlite`` (the connection),
``schema``, ``rows``, ``pictures``, ``filters``, ``embeddings`` (and their FAISS file), ``lock``,
``salvage``.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np

from clipsearch.errors import IndexExists, IndexNotFound, IndexUnreadable, StoreError
from clipsearch.paths import make_folder, size_of, sync_folder
from clipsearch.records import (
    EVERYTHING,
    CollectionStatus,
    Filter,
    Hit,
    ModelSpec,
    Vectors,
)
from clipsearch.storage import salvage, schema
from clipsearch.storage.lock import HOLDER, LOCK, WriterLock
from clipsearch.storage.pictures import Pictures
from clipsearch.storage.sqlite import Database
from clipsearch.storage.vectors.embeddings import VECTORS, Embeddings, Progress
from clipsearch.storage.vectors.vector_file import CLUSTER_FROM, Half, Ids

FOLDER = ".clipsearch"
"""The index folder's name inside the folder that it indexes."""

CATALOG = "catalog.sqlite3"
REBUILD = "rebuild"
"""The folder in the index folder where a new index is built before it replaces the old one."""

BEGUN = frozenset({CATALOG, f"{CATALOG}-journal", LOCK, HOLDER})
"""Files that a killed first run can leave behind, which are not an index yet."""


class Store(Pictures):
    """One collection's index. Use as a context manager, or call ``close``."""

    def __init__(self, directory: Path, db: Database, lock: WriterLock | None) -> None:
        """Use ``create``, ``open`` or ``open_for_writing`` instead."""
        super().__init__(directory, db)
        self._lock = lock
        self._embeddings = Embeddings(db, directory, self.spec.dim)

    # -- opening and closing ---------------------------------------------------------------

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether there is an index at ``directory``; an empty file does not count."""
        catalog = directory / CATALOG
        return catalog.is_file() and size_of(catalog) > 0

    @classmethod
    def open(cls, directory: Path) -> "Store":
        """Open for reading; works on read-only media and next to a writer.

        Raises IndexNotFound, IndexUnreadable.
        """
        _require(directory)
        return cls._open(directory, None)

    @classmethod
    def open_for_writing(cls, directory: Path, *, wait: bool = False) -> "Store":
        """Open as the only writer; with ``wait``, wait for the lock.

        Raises IndexLocked, IndexNotFound, IndexUnreadable.
        """
        _require(directory)
        lock = WriterLock(directory, wait=wait)
        try:
            return cls._open(directory, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def create(cls, directory: Path, root: Path, spec: ModelSpec, *, wait: bool = False) -> "Store":
        """Create an empty index for ``root`` and open it as the only writer.

        wait: wait for the lock. Raises IndexLocked, IndexExists if another run has created one in
        the meantime, and StoreError if the folder is not writable.
        """
        try:
            # No more permissive than the folder of images, since the index reveals its content.
            # But always writable for its owner, even if that folder is not.
            mode = root.stat().st_mode & 0o777 | 0o700
            make_folder(directory, mode)
            # The same for its files, in case the index folder existed with wider permissions:
            # SQLite's journal and the FAISS file get the catalog's mode.
            os.close(os.open(directory / CATALOG, os.O_CREAT | os.O_WRONLY, mode & 0o666))
        except OSError as error:
            raise StoreError(
                f"cannot make the index folder {directory}: {error.strerror} ({error.filename})",
                hint="Put the index elsewhere with --index DIR. If something else is in its place, "
                "move that away.",
            ) from error
        lock = WriterLock(directory, wait=wait)
        now = schema.now()
        meta: dict[str, str | bytes] = {
            "vector_file": b"",  # the token of this catalog's FAISS file
            "model": spec.to_json(),
            "root": _root_of(directory, root),
            "created_at": now,
            "updated_at": now,
        }

        def prepare(db: Database) -> None:
            if not schema.is_blank(db):  # checked under the lock, so no one else can create one
                raise IndexExists(
                    f"another clipsearch has just created an index at {directory}",
                    hint="Run the same command again.",
                )
            schema.create(db, meta)

        try:
            return cls._connected(directory, lock, prepare)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _open(cls, directory: Path, lock: WriterLock | None) -> "Store":
        def prepare(db: Database) -> None:
            schema.require_ours(db, directory / CATALOG)
            if lock is not None:
                schema.migrate(db)

        return cls._connected(directory, lock, prepare)

    @classmethod
    def _connected(
        cls, directory: Path, lock: WriterLock | None, prepare: Callable[[Database], None]
    ) -> "Store":
        db = Database(directory / CATALOG, write=lock is not None)
        try:
            prepare(db)
            return cls(directory, db, lock)
        except BaseException:
            db.close()  # Windows cannot delete a folder while a file in it is open
            raise

    def close(self) -> None:
        """Close the catalog and release the writer's lock."""
        self._db.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- facts about the index -------------------------------------------------------------

    def set_root(self, root: Path) -> None:
        """Record that the images are elsewhere now. Inside ``batch``."""
        self._meta["root"] = _root_of(self.directory, root)
        self._set("root", self._meta["root"])

    def is_replaced(self) -> bool:
        """Whether a rebuild has replaced the catalog; this store still reads the old one."""
        return self._db.is_replaced()

    def require_root(self) -> None:
        """Raise IndexUnreadable if the index was copied out of an unknown folder.

        An index inside its folder does not store the folder's path, so both can be moved.
        """
        if not self._meta["root"] and self.directory.name != FOLDER:
            raise IndexUnreadable(
                f"the index at {self.directory} was copied out of its folder, and does not say "
                "where its images are",
                hint=f"Move it back into the folder of images, under the name {FOLDER}.",
            )

    def status(self) -> CollectionStatus:
        """Counts, sizes and times."""
        with self._db.snapshot():
            # Counts all rows in an SQLite index; with a condition it would read every row.
            known = self._db.value("SELECT count(*) FROM images")
            failed, archived = self._failed(), self.count_archived()
            pending = self._embeddings.pending()
            clusters = self._embeddings.index().cluster_search
        return CollectionStatus(
            root=self.root,
            directory=self.directory,
            spec=self.spec,
            images=known - len(failed),
            archived=archived,
            failed=[(path, reason) for path, reason, _ in failed],
            failures=[failure for _, _, failure in failed],
            scope=self.scope,
            catalog_bytes=size_of(self.directory / CATALOG),
            vector_bytes=size_of(self.directory / VECTORS),
            created_at=self._meta["created_at"],
            updated_at=self._meta["updated_at"],
            pending=pending,
            clusters=clusters,
            damage=self.damage,
            left_out=self.left_out,
        )

    # -- embeddings ------------------------------------------------------------------------

    def vector(self, id: int) -> Vectors:
        """The stored embedding, ``(dim,)``. Raises KeyError if the id has no valid one."""
        return self._embeddings.vector(id)

    def vector_of_content(self, content_hash: bytes) -> Vectors | None:
        """The embedding ``(dim,)`` of an image with this content; None if there is none."""
        for id, _ in self.find_content(content_hash):
            with suppress(KeyError):  # removed a moment ago
                return self.vector(id)
        return None

    def snapshot(self) -> AbstractContextManager[None]:
        """Reads inside see one state: every id in ``ids`` has a vector, even if removed since."""
        return self._db.snapshot()

    def vectors(self, ids: Sequence[int]) -> Vectors:
        """The stored embeddings of these images, ``(n, dim)``. Raises KeyError like ``vector``."""
        return np.stack([self.vector(id) for id in ids])

    def ids(self, only: Filter = EVERYTHING) -> Ids:
        """Ids of the good images that a filter accepts, ``(n,)``, ascending."""
        ids = self._embeddings.ids()
        return ids if only == EVERYTHING else ids[np.isin(ids, self._ids_among(only))]

    def count_newer(self, than: int = 0) -> int:
        """How many good images have a greater id."""
        return self._embeddings.count(than)

    def embeddings(self) -> Iterator[tuple[Ids, Half]]:
        """Ids ``(n,)`` and embeddings ``(n, dim)`` in fp16, in chunks, by ascending id."""
        return self._embeddings.chunks()

    def all_vectors(self) -> Iterator[Half]:
        """All embeddings, in chunks of ``(n, dim)`` fp16, by ascending id."""
        return (vectors for _, vectors in self.embeddings())

    # -- searching -------------------------------------------------------------------------

    def search(
        self, query: Vectors, k: int, only: Filter = EVERYTHING, *, exact: bool = False
    ) -> list[Hit]:
        """The ``k`` images most similar to the unit vector ``query`` ``(dim,)``, best first.

        ``only`` restricts the search to some images. The search is exact, whatever the state of the
        collection, unless it uses the FAISS file's clusters (see ``status``). It never uses them
        with a filter or ``exact``, and images newer than the file are always searched exactly.
        """
        (hits,) = self.search_each(query[np.newaxis], k, only, exact=exact)
        return hits

    def search_each(
        self, queries: Vectors, k: int, only: Filter = EVERYTHING, *, exact: bool = False
    ) -> list[list[Hit]]:
        """``search`` for each of ``(q, dim)`` queries, all on one state of the collection."""
        with self._db.snapshot():
            among = None if only == EVERYTHING else self._ids_among(only)
            found = self._embeddings.search_each(queries, k, among, exact=exact)
            rows = self._rows([id for scored in found for id, _ in scored])
        return [[self._hit(id, score, rows[id]) for id, score in scored] for scored in found]

    # -- checking and repairing ------------------------------------------------------------

    @property
    def damage(self) -> str:
        """Why a search could not use the FAISS file, for a message; "" if it could."""
        return self._embeddings.damage

    @property
    def left_out(self) -> int:
        """How many good images no search finds, because the FAISS file was written without them.

        Their embeddings in the catalog are damaged; ``bad_vectors`` lists them.
        """
        return self._embeddings.left_out

    def sqlite_problems(self) -> list[str]:
        """Problems that SQLite's own checks find in the catalog; empty if it is intact."""
        return self._db.problems()

    def bad_vectors(self) -> list[tuple[int, bytes]]:
        """Ids and paths of good images whose embedding is missing or damaged.

        Damaged: it is not a valid embedding, or it differs from the one in the FAISS file.
        """
        bad = {*self._embeddings.bad(), *self._embeddings.other_than_in_file()}
        return [(id, path) for id, path in self._of(sorted(bad), "path")]

    def vector_file_problem(self) -> str:
        """Check every block of the FAISS file, and say what is wrong; "" if nothing is."""
        return self._embeddings.check_file()

    def update_vector_index(
        self,
        queries: Callable[[], Vectors] | None = None,
        *,
        cluster_from: int = CLUSTER_FROM,
        force: bool = False,
        progress: Progress = lambda doing, done, total: None,
    ) -> bool:
        """Write the FAISS file again if it lacks so many images that searches become slow.

        Images that it lacks are searched in the catalog, which takes time for each of them; writing
        a new file takes time for the whole collection. The balance is at 5% of the images, up to
        100,000 of them.

        queries: returns unit vectors of texts, ``(q, dim)``, at least two; called only for a new
        file of ``cluster_from`` vectors or more, which is then inverted if that is worth it.
        Without queries, the file is for exact searches until an update that has them. force: write
        it in any case. progress: called with the current step and its number of vectors done, as
        in ``indexing.update``. Returns whether the file was written.

        Raises StoreError.
        """
        mode = (self.directory / CATALOG).stat().st_mode & 0o666
        return self._embeddings.update_file(
            queries, mode=mode, cluster_from=cluster_from, force=force, progress=progress
        )

    def salvage(self, catalog: Path, *, pictures: bool) -> int:
        """Copy what is readable in a damaged catalog into this empty one; return how many images.

        Copies attachments and, with ``pictures``, images with valid embeddings. Unreadable rows
        are left out without an error.
        """
        with self.batch():
            copied = salvage.copy(catalog, self._db, pictures=pictures)
            bad = self._embeddings.bad()
            self.forget(bad)
        return copied - len(bad)

    def replace_with(self, other: "Store") -> None:
        """Replace this index with another one (a finished rebuild), and close both.

        Raises StoreError if the files cannot be moved.
        """
        try:
            # Taking the write lock rolls back an unfinished transaction of a killed writer, so that
            # the old catalog leaves no journal next to the new one.
            with self.batch():
                pass
            self._db.close()
            other.take_place(self.directory, self._meta["root"])
        finally:
            self.close()

    def take_place(self, directory: Path, root: bytes) -> None:
        """Close this index, and replace the files in ``directory`` with its own.

        root: its folder of images, as stored in ``meta``. Raises StoreError if the files cannot be
        moved.
        """
        try:
            with self.batch():
                self._set("root", root)
            self._db.close()
            for name in (CATALOG, VECTORS):
                os.replace(self.directory / name, directory / name)
            sync_folder(directory)
        except OSError as error:
            raise StoreError(
                f"cannot replace the old index: {error.strerror}",
                hint="Is another program reading it? Run the same command again.",
            ) from error
        finally:
            self.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def _root_of(directory: Path, root: Path) -> bytes:
    """A folder as stored in ``meta``: empty if the index is inside it, so both can be moved."""
    return b"" if directory == root / FOLDER else os.fsencode(root)


def _require(directory: Path) -> None:
    if not Store.exists(directory):
        raise IndexNotFound(
            f"there is no index at {directory}", hint="Create one with: clipsearch index FOLDER"
        )
