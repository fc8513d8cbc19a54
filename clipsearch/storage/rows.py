"""The rows of a catalog: images and their vectors, attachments, and the model that made them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clipsearch.errors import IndexDamaged, IndexUnreadable, ModelMismatch
from clipsearch.images.scan import folder_of
from clipsearch.records import (
    Archived,
    EmbeddedImage,
    Failure,
    Found,
    ImageFile,
    KnownImage,
    ModelSpec,
    Origin,
    Scope,
)
from clipsearch.storage import filters, listings, schema
from clipsearch.storage.sqlite import SQL_VARIABLES, Database
from clipsearch.storage.vectors.embeddings import decoded, encoded
from clipsearch.storage.vectors.vector_file import Ids

_SCOPE = "scope"
"""The attachment that says which files are indexed."""


class Rows:
    """How ``Store`` reads and writes rows; all changes are made inside ``batch``.

    All reads and writes raise IndexUnreadable for a damaged catalog, IndexLocked for one that
    stays busy, and StoreError if the disk fails.
    """

    def __init__(self, directory: Path, db: Database) -> None:
        """Take the index folder and its open catalog, of any version.

        Raises IndexUnreadable if the catalog lacks a required fact.
        """
        self.directory = directory
        self._db = db
        self._meta = dict(db.rows("SELECT key, value FROM meta"))
        try:
            self.spec = ModelSpec.from_json(self._meta["model"])
        except (KeyError, ValueError) as error:
            raise _incomplete(directory, "which model made it") from error
        for key, kind in schema.META_KINDS.items():
            if not isinstance(self._meta.get(key), kind):
                raise _incomplete(directory, f"its {key}")

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Commit all changes inside together, or none of them."""
        with self._db.transaction():
            yield
            self._set("updated_at", schema.now())

    def set_spec(self, spec: ModelSpec) -> None:
        """Record where the same model is now. Inside ``batch``.

        Raises ModelMismatch if it is not the same model.
        """
        if spec.fingerprint != self.spec.fingerprint:
            raise ModelMismatch(
                f"the index at {self.directory} was made with {self.spec.label} "
                f"({self.spec.fingerprint[:12]}), not with {spec.label} ({spec.fingerprint[:12]})",
                hint="To change the model, all images must be read again: add --rebuild. "
                "Your current index stays in use until the rebuild finishes.",
            )
        self._set("model", spec.to_json())
        self.spec = spec

    @property
    def scope(self) -> Scope:
        """Which files of the folder are indexed. Raises IndexUnreadable if that is damaged."""
        text = self.attachment(_SCOPE)
        try:
            return Scope(()) if text is None else Scope.from_json(text)
        except ValueError as error:  # excluding nothing could index unwanted files
            raise IndexUnreadable(
                f"the list of excluded files in the index at {self.directory} is damaged",
                hint="Set it again: clipsearch index FOLDER --no-exclude [--exclude GLOB]...",
            ) from error

    def set_scope(self, scope: Scope) -> None:
        """Record which files of the folder are indexed. Inside ``batch``."""
        self.attach(_SCOPE, scope.to_json())

    def _set(self, key: str, value: str | bytes) -> None:
        self._db.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))

    # -- images --------------------------------------------------------------------------

    def is_empty(self) -> bool:
        """Whether it has no images, good or failed."""
        return self._db.row("SELECT 1 FROM images LIMIT 1") is None

    def known(self, under: bytes = b"", found: Found | None = None) -> dict[bytes, KnownImage]:
        """What the catalog knows of every file, or of those below ``under``.

        found: the result of a walk there; files in its unchanged folders are then left out. Images
        in archives are always left out: no walk over a folder finds them.
        """
        if found is not None and found.same:
            changed = {folder_of(file.path) for file in found.files}
            changed |= self.listings(under).keys() - found.same.keys()
            known: dict[bytes, KnownImage] = {}
            for folder in changed:
                known |= _known(listings.files_in(self._db, folder, _KNOWN))
            if len(known) + sum(found.same.values()) == self._count_files(under):
                return known
            # The rest are in folders that are gone and had no listing.
        where, values = filters.below(under)
        rows = self._db.rows(
            f"SELECT path, {_KNOWN} FROM {schema.images(self._db)}"
            f" LEFT JOIN {schema.archived(self._db)} USING (id)"
            f" WHERE archived.id IS NULL AND {where}",
            values,
        )
        same = found.same if found is not None else {}
        return _known(row for row in rows if not same or folder_of(row[0]) not in same)

    def _count_files(self, under: bytes) -> int:
        """How many files there are below ``under``, good and failed."""
        where, values = filters.below(under)
        count = f"SELECT count(*) FROM images WHERE {where}"
        archived = f"SELECT id FROM {schema.archived(self._db)}"
        every = self._db.value(count, values)
        return int(every - self._db.value(f"{count} AND id IN ({archived})", values))

    def listings(self, under: bytes = b"") -> dict[bytes, bytes]:
        """Folder -> its ``scan.listing``, if nothing has changed there since ``list_folders``.

        For ``under`` and the folders below it.
        """
        return listings.below(self._db, under)

    def list_folders(self, folders: Iterable[bytes]) -> None:
        """Store listings for the next walk, of those folders whose images are all good."""
        listings.write(self._db, folders)

    def sizes_among(self, sizes: Iterable[int]) -> set[int]:
        """The subset of these sizes in bytes that good images have."""
        asked = set(sizes)
        sql, some = "SELECT DISTINCT size FROM images WHERE error IS NULL", sorted(asked)
        if len(some) > SQL_VARIABLES:  # several scans would take longer than reading all sizes
            return asked.intersection(size for (size,) in self._db.rows(sql))
        rows = self._db.rows(f"{sql} AND size IN ({','.join('?' * len(some))})", some)
        return {size for (size,) in rows}

    def count_archived(self) -> int:
        """How many images are not files of their own."""
        return int(self._db.value(f"SELECT count(*) FROM {schema.archived(self._db)}"))

    def ids_of(self, paths: Sequence[bytes]) -> dict[bytes, int]:
        """Path -> id of those images, good or failed, that are in the catalog."""
        found: dict[bytes, int] = {}
        for start in range(0, len(paths), SQL_VARIABLES):
            some = paths[start : start + SQL_VARIABLES]
            marks = ",".join("?" * len(some))
            found |= self._db.rows(f"SELECT path, id FROM images WHERE path IN ({marks})", some)
        return found

    def _failed(self) -> list[tuple[bytes, str, Failure | None]]:
        """Path, reason and failure of the images that failed, by path."""
        # Sorted here: SQLite takes four times as long to sort a million rows.
        images = schema.images(self._db)
        rows = self._db.rows(f"SELECT path, error, failure FROM {images} WHERE error IS NOT NULL")
        return sorted(((path, why, _failure(failure)) for path, why, failure in rows), key=_path)

    def unseen(self) -> int:
        """How many good images have not had their camera and place read yet."""
        images = schema.images(self._db)
        return int(
            self._db.value(f"SELECT count(*) FROM {images} WHERE camera IS NULL AND error IS NULL")
        )

    def find_content(self, content_hash: bytes) -> list[tuple[int, bytes]]:
        """Ids and paths of the good images with exactly this content that have an embedding."""
        rows = self._db.rows(
            "SELECT id, path FROM images JOIN vectors USING (id)"
            " WHERE hash = ? AND error IS NULL AND length(vector) = ? ORDER BY id",
            (content_hash, 2 * self.spec.dim),
        )
        return [(id, path) for id, path in rows]

    def whole(self, ids: Ids) -> Iterator[EmbeddedImage]:
        """All that is stored about these images; those removed in the meantime are left out."""
        columns = (
            "path, size, mtime_ns, hash, width, height, taken_at, vector, nullif(camera, ''),"
            " latitude, longitude, byte_offset, archive, caption, url"
        )
        join = f"JOIN vectors USING (id) LEFT JOIN {schema.archived(self._db)} USING (id)"
        for row in self._of(ids.tolist(), columns, join):
            _, path, size, mtime_ns, digest, width, height, taken_at, vector, *rest = row
            camera, north, east, offset, archive, caption, url = rest
            archived = None if offset is None else Archived(archive, offset, caption, url)
            facts = (digest, width, height, taken_at, decoded(vector), camera, north, east)
            yield EmbeddedImage(ImageFile(path, size, mtime_ns), *facts, archived)

    def _of(self, ids: Sequence[int], columns: str, join: str = "") -> Iterator[tuple[Any, ...]]:
        """``(id, *columns)`` of these images, read in groups, each by ascending id."""
        images = schema.images(self._db)
        for start in range(0, len(ids), SQL_VARIABLES):
            some = ids[start : start + SQL_VARIABLES]
            marks = ",".join("?" * len(some))
            yield from list(
                self._db.rows(
                    f"SELECT id, {columns} FROM {images} {join} WHERE id IN ({marks}) ORDER BY id",
                    some,
                )
            )

    def add(self, images: Iterable[EmbeddedImage]) -> None:
        """Add or replace images, each under a new id. Inside ``batch``."""
        for image in images:
            facts = (image.content_hash, image.width, image.height, image.taken_at, None)
            origin = (image.camera or "", image.latitude, image.longitude)
            id = self._insert(image.file, *facts, *origin, None, vector=encoded(image.vector))
            if image.archived is not None:
                self._db.execute(
                    "INSERT INTO archived VALUES (?, ?, ?, ?, ?)", (id, *image.archived)
                )

    def add_copy(self, file: ImageFile, source: int) -> None:
        """Add a file with the same content as the image ``source``. Inside ``batch``."""
        row = self._db.row(
            "SELECT hash, width, height, taken_at, NULL, camera, latitude, longitude, NULL, vector"
            " FROM images JOIN vectors USING (id) WHERE id = ?",
            (source,),
        )
        assert row is not None
        *facts, vector = row
        self._insert(file, *facts, vector=vector)

    def add_failed(self, file: ImageFile, reason: str, failure: Failure | None = None) -> None:
        """Record that a file cannot be decoded, and why. Inside ``batch``."""
        text = failure.to_json() if failure else None
        self._insert(file, None, None, None, None, reason, None, None, None, text)

    def set_origins(self, origins: Iterable[tuple[int, Origin]]) -> None:
        """Store the camera and place of images, by their ids. Inside ``batch``."""
        self._db.execute_many(
            "UPDATE images SET camera = ?, latitude = ?, longitude = ? WHERE id = ?",
            ((found.camera or "", found.latitude, found.longitude, id) for id, found in origins),
        )

    def move(self, id: int, file: ImageFile) -> None:
        """Give an image a new path, size or time; its vector stays. Inside ``batch``."""
        old = self._db.value("SELECT path FROM images WHERE id = ?", (id,))
        listings.delete(self._db, {old, file.path} - {None})
        self._db.execute("DELETE FROM images WHERE path = ? AND id <> ?", (file.path, id))
        self._db.execute(
            "UPDATE images SET path = ?, size = ?, mtime_ns = ? WHERE id = ?",
            (file.path, file.size, file.mtime_ns, id),
        )

    def forget(self, ids: Iterable[int]) -> None:
        """Forget images by their ids. Inside ``batch``."""
        ids = list(ids)
        listings.delete(self._db, (path for _, path in self._of(ids, "path")))
        self._db.execute_many("DELETE FROM images WHERE id = ?", ((id,) for id in ids))

    def remove(self, paths: Iterable[bytes]) -> None:
        """Forget images. Inside ``batch``."""
        paths = list(paths)
        listings.delete(self._db, paths)
        self._db.execute_many("DELETE FROM images WHERE path = ?", ((path,) for path in paths))

    def _insert(self, file: ImageFile, *facts: object, vector: bytes | None = None) -> int:
        listings.delete(self._db, [file.path])
        self._db.execute("DELETE FROM images WHERE path = ?", (file.path,))
        id = self._db.execute(
            "INSERT INTO images (path, size, mtime_ns, hash, width, height, taken_at, error,"
            " camera, latitude, longitude, failure) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (file.path, file.size, file.mtime_ns, *facts),
        ).lastrowid
        assert id is not None
        if vector is not None:
            self._db.execute("INSERT INTO vectors VALUES (?, ?)", (id, vector))
        return id

    # -- attachments -----------------------------------------------------------------------

    def attachment(self, name: str) -> Any:
        """What was attached under a name, text or bytes; None if nothing was."""
        if not schema.has_attachments(self._db):
            return None
        return self._db.value("SELECT value FROM attachments WHERE name = ?", (name,))

    def attached(self, prefix: str) -> list[str]:
        """Names of the attachments that start with ``prefix``, sorted."""
        if not schema.has_attachments(self._db):
            return []
        rows = self._db.rows(
            "SELECT name FROM attachments WHERE name >= ? ORDER BY name", (prefix,)
        )
        return [name for (name,) in rows if name.startswith(prefix)]

    def attach(self, name: str, value: str | bytes) -> None:
        """Store a value whose meaning another room defines. Inside ``batch``."""
        self._db.execute("INSERT OR REPLACE INTO attachments VALUES (?, ?)", (name, value))

    def detach(self, name: str) -> None:
        """Forget an attachment. Inside ``batch``."""
        self._db.execute("DELETE FROM attachments WHERE name = ?", (name,))


_KNOWN = "id, size, mtime_ns, error IS NOT NULL, camera IS NULL AND error IS NULL, failure"
"""The columns that ``_known`` expects after the path."""


def _known(rows: Iterable[tuple[Any, ...]]) -> dict[bytes, KnownImage]:
    return {
        path: KnownImage(id, size, mtime_ns, bool(failed), bool(unseen), _failure(failure))
        for path, id, size, mtime_ns, failed, unseen, failure in rows
    }


def _failure(text: Any) -> Failure | None:
    if text is not None:
        with suppress(ValueError):  # damaged: the image is tried again
            return Failure.from_json(text)
    return None


def _path(failed: tuple[bytes, str, Failure | None]) -> bytes:
    return failed[0]


def _incomplete(directory: Path, what: str) -> IndexDamaged:
    return IndexDamaged(f"the index at {directory} is damaged: it does not state {what}")
