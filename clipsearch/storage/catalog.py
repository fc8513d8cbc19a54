"""The index folder: a catalog that is the truth, and the FAISS file derived from it.

``catalog.sqlite3`` holds a row an image, its vector as fp16, and the model that made it. SQLite
mints the ids and never uses one twice; a changed picture gets a new id, so an id means one vector
forever and nothing is joined by row position.

``Store`` is what other rooms open. Its parts are files of their own: ``sqlite`` (the connection),
``schema``, ``rows``, ``filters``, ``embeddings`` (and their FAISS file), ``lock``, ``salvage``.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.errors import IndexNotFound, IndexUnreadable, StoreError
from clipsearch.paths import absolute
from clipsearch.records import (
    EVERYTHING,
    CollectionStatus,
    Filter,
    Hit,
    IndexedImage,
    ModelSpec,
    Source,
    Span,
    Vectors,
)
from clipsearch.storage import filters, salvage, schema
from clipsearch.storage.lock import WriterLock
from clipsearch.storage.rows import Rows
from clipsearch.storage.sqlite import Database
from clipsearch.storage.vectors.embeddings import VECTORS, Embeddings, Progress
from clipsearch.storage.vectors.vector_file import CLUSTER_FROM, Half, Ids

FOLDER = ".clipsearch"
"""The index folder's name inside the folder that it indexes."""

CATALOG = "catalog.sqlite3"
REBUILD = "rebuild"
"""Where in the index folder the next index is made, to take its place when it is whole."""


class Store(Rows):
    """One collection's index. Use as a context manager, or call ``close``."""

    def __init__(self, directory: Path, db: Database, lock: WriterLock | None) -> None:
        """Use ``create``, ``open`` or ``open_for_writing``."""
        super().__init__(directory, db)
        self._lock = lock
        self._embeddings = Embeddings(db, directory, self.spec.dim)

    # -- opening and closing ---------------------------------------------------------------

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether there is an index at ``directory``; an empty file is none yet."""
        catalog = directory / CATALOG
        return catalog.is_file() and _size(catalog) > 0

    @classmethod
    def open(cls, directory: Path) -> "Store":
        """Open for reading; works on read-only media and beside a writer.

        Raises IndexNotFound, IndexUnreadable.
        """
        _require(directory)
        return cls._open(directory, None)

    @classmethod
    def open_for_writing(cls, directory: Path, *, wait: bool = False) -> "Store":
        """Open as the one writer, or ``wait`` until that is possible.

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
            # SQLite's journal and the FAISS file have the mode of the catalog.
            os.close(os.open(directory / CATALOG, os.O_CREAT | os.O_WRONLY, mode & 0o666))
        except OSError as error:
            raise StoreError(
                f"cannot make the index folder {directory}: {error.strerror}",
                hint="Put the index elsewhere with --index DIR.",
            ) from error
        lock = WriterLock(directory)
        now = schema.now()
        meta: dict[str, str | bytes] = {
            "vector_file": b"",  # the token of the FAISS file that is this catalog's
            "model": spec.to_json(),
            # Empty where the index lies in its own root, so that both can travel.
            "root": b"" if directory == root / FOLDER else os.fsencode(root),
            "created_at": now,
            "updated_at": now,
        }
        try:
            return cls._connected(directory, lock, lambda db: schema.create(db, meta))
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _open(cls, directory: Path, lock: WriterLock | None) -> "Store":
        def prepare(db: Database) -> None:
            _require_ours(db, directory)
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
        """Close the catalog and let go of the writer's lock."""
        self._db.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what is known ---------------------------------------------------------------------

    @property
    def root(self) -> Path:
        """The folder of pictures, wherever the index and it have traveled."""
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

    def path_of(self, id: int) -> Path:
        """Where the picture lies. Raises KeyError for an id that is not there."""
        (path, *_) = self._rows([id])[id]
        return Path(os.fsdecode(absolute(os.fsencode(self.root), path)))

    def source_of(self, id: int) -> Source:
        """Where the picture's bytes are. Raises KeyError for an id that is not there."""
        *_, size, offset, archive, _, _ = self._rows([id])[id]
        return self._span(archive, offset, size) or os.fsencode(self.path_of(id))

    def images(self, only: Filter = EVERYTHING) -> list[IndexedImage]:
        """The good pictures that a filter lets through, in the order of their ids."""
        columns = "id, path, size, mtime_ns, hash, width, height, taken_at, archive, byte_offset"
        with self._db.snapshot():
            among = set(self._ids_among(only).tolist())
            rows = self._db.rows(
                f"SELECT {columns} FROM images LEFT JOIN {schema.archived(self._db)} USING (id)"
                " WHERE error IS NULL ORDER BY id"
            )
            return [
                IndexedImage._make((*row[:8], self._span(row[8], row[9], row[2])))
                for row in rows
                if row[0] in among
            ]

    def newest(self, most: int, only: Filter = EVERYTHING) -> list[tuple[str, Hit]]:
        """The good pictures that were taken, or else modified, last: when, and as hits.

        Newest first, at most ``most``; nobody searched for them, so they have no score (NaN).
        """
        with self._db.snapshot():
            found = filters.newest_among(self._db, os.fsencode(self.root), only, most)
            rows = self._rows([id for _, id in found])
        return [(when, self._hit(id, float("nan"), rows[id])) for when, id in found]

    def count(self, only: Filter = EVERYTHING) -> int:
        """How many good pictures there are, of those that a filter lets through."""
        return len(self._ids_among(only))

    def status(self) -> CollectionStatus:
        """Counts, sizes and times."""
        with self._db.snapshot():
            # All are counted in an index, without the condition that would read every row.
            known = self._db.value("SELECT count(*) FROM images")
            failed = self._failed()
            pending = self._embeddings.pending()
            clusters = self._embeddings.index().cluster_search
        return CollectionStatus(
            root=self.root,
            directory=self.directory,
            spec=self.spec,
            images=known - len(failed),
            failed=[(path, reason) for path, reason, _ in failed],
            failures=[failure for _, _, failure in failed],
            scope=self.scope,
            catalog_bytes=_size(self.directory / CATALOG),
            vector_bytes=_size(self.directory / VECTORS),
            created_at=self._meta["created_at"],
            updated_at=self._meta["updated_at"],
            pending=pending,
            clusters=clusters,
        )

    # -- embeddings ------------------------------------------------------------------------

    def vector(self, id: int) -> Vectors:
        """The stored embedding, ``(dim,)``. Raises KeyError for an id without a whole one."""
        return self._embeddings.vector(id)

    def vector_of_content(self, content_hash: bytes) -> Vectors | None:
        """The embedding ``(dim,)`` of a picture with this content; None if there is none."""
        for id, _ in self.find_content(content_hash):
            with suppress(KeyError):  # removed a moment ago
                return self.vector(id)
        return None

    def vectors(self, ids: Sequence[int]) -> Vectors:
        """The stored embeddings of these pictures, ``(n, dim)``. Raises KeyError as ``vector``."""
        return np.stack([self.vector(id) for id in ids])

    def ids(self, only: Filter = EVERYTHING) -> Ids:
        """Ids of the pictures that a filter lets through and that have a vector, ``(n,)``.

        Ascending; without a filter, those of ``all_vectors``.
        """
        ids = self._embeddings.ids()
        return ids if only == EVERYTHING else ids[np.isin(ids, self._ids_among(only))]

    def embeddings(self) -> Iterator[tuple[Ids, Half]]:
        """Ids ``(n,)`` and embeddings ``(n, dim)`` in fp16, some at a time, by ascending id."""
        return self._embeddings.chunks()

    def all_vectors(self) -> Iterator[Half]:
        """All embeddings, ``(n, dim)`` fp16 at a time, in the order of the ids."""
        return (vectors for _, vectors in self.embeddings())

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
        with self._db.snapshot():
            among = None if only == EVERYTHING else self._ids_among(only)
            found = self._embeddings.search_each(queries, k, among, exact=exact)
            rows = self._rows([id for scored in found for id, _ in scored])
        return [[self._hit(id, score, rows[id]) for id, score in scored] for scored in found]

    def _hit(self, id: int, score: float, row: Sequence[Any]) -> Hit:
        path, width, height, taken_at, camera, latitude, longitude, *archived = row
        size, offset, archive, caption, url = archived
        return Hit(
            id,
            path,
            self.root,
            score,
            width,
            height,
            taken_at,
            camera=camera or None,
            latitude=latitude,
            longitude=longitude,
            span=self._span(archive, offset, size),
            caption=caption,
            url=url,
        )

    def _span(self, archive: bytes | None, offset: int | None, size: int) -> Span | None:
        """Where a picture's bytes are that is not a file of its own; None for one that is."""
        if offset is None:
            return None
        whole = b"" if archive is None else absolute(os.fsencode(self.root), archive)
        return Span(whole, offset, size)

    def _ids_among(self, only: Filter) -> Ids:
        return filters.ids_among(self._db, os.fsencode(self.root), only)

    def _rows(self, ids: Sequence[int]) -> dict[int, tuple[Any, ...]]:
        """What a hit tells of each picture."""
        columns = (
            "path, width, height, taken_at, camera, latitude, longitude,"
            " size, byte_offset, archive, caption, url"
        )
        join = f"LEFT JOIN {schema.archived(self._db)} USING (id)"
        return {id: tuple(row) for id, *row in self._of(ids, columns, join)}

    # -- checking and mending --------------------------------------------------------------

    @property
    def damage(self) -> str:
        """Why the FAISS file could not be used, if a search met that; for a message."""
        return self._embeddings.damage

    def sqlite_problems(self) -> list[str]:
        """What SQLite's own checks find wrong with the catalog; nothing if it is whole."""
        return self._db.problems()

    def bad_vectors(self) -> list[tuple[int, bytes]]:
        """Ids and paths of good pictures without an embedding, or with one that cannot be."""
        return [(id, path) for id, path in self._of(self._embeddings.bad(), "path")]

    def vector_file_problem(self) -> str:
        """What is wrong with the FAISS file, every embedding in it compared; "" if nothing is."""
        return self._embeddings.file_problem()

    def update_vector_index(
        self,
        queries: Callable[[], Vectors] | None = None,
        *,
        cluster_from: int = CLUSTER_FROM,
        anew: bool = False,
        progress: Progress = lambda doing, done, total: None,
    ) -> bool:
        """Write the FAISS file anew, if it has fallen behind by more than a search should carry.

        What it lacks is searched in the catalog, at a cost that grows with its number; a new
        file costs as much as the whole collection. One part in twenty balances the two.

        queries: gives unit vectors of texts, ``(q, dim)``, at least two; called only for a new
        file of ``cluster_from`` vectors or more, which is then ordered by cluster if that is worth
        it. Without them the file is for exact searches, until an update that has them. anew:
        write it in any case. progress: told what is being done, and of how many vectors it is
        done, as for ``indexing.update``. Says whether it was written.

        Raises StoreError.
        """
        mode = (self.directory / CATALOG).stat().st_mode & 0o666
        return self._embeddings.update_file(
            queries, mode=mode, cluster_from=cluster_from, anew=anew, progress=progress
        )

    def salvage(self, other: "Store") -> int:
        """Copy what can be read of a damaged catalog into an empty one; how many pictures.

        Raises nothing for what cannot be read: it is left out.
        """
        with other.batch():
            return salvage.copy(self._db, other._db)

    def replace_with(self, other: "Store") -> None:
        """Put another index (a finished rebuild) in this one's place, and close both.

        Raises StoreError if the files cannot be moved.
        """
        with other.batch():
            other._set("root", self._meta["root"])
        # Taking the write lock rolls back what a killed writer left, so that no journal of the
        # old catalog lies beside the new one.
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


def _require(directory: Path) -> None:
    if not Store.exists(directory):
        raise IndexNotFound(
            f"there is no index at {directory}", hint="Make one with: clipsearch index FOLDER"
        )


def _require_ours(db: Database, directory: Path) -> None:
    """Raise unless the file is a catalog, and of a version that this program knows."""
    version = schema.version(db)
    if version > schema.VERSION:
        raise IndexUnreadable(
            f"the index at {directory} was written by a newer clipsearch "
            f"(schema {version}; this one knows {schema.VERSION})",
            hint="Upgrade clipsearch. The index was not touched.",
        )
    if version < 1 and schema.is_blank(db):
        raise IndexNotFound(
            f"the index at {directory} was never begun",
            hint="Make it with: clipsearch index FOLDER",
        )
    if version < 1:
        raise IndexUnreadable(
            f"{directory / CATALOG} is another program's database",
            hint="Put the index elsewhere with --index DIR.",
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
