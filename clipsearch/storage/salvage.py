"""Read what is still readable in a damaged catalog, and copy it into an empty one."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from clipsearch.errors import StoreError
from clipsearch.records import ModelSpec
from clipsearch.storage import schema
from clipsearch.storage.sqlite import Database

_COLUMNS = (
    "id, path, size, mtime_ns, hash, width, height, taken_at, camera, latitude, longitude,"
    " failure, error"
)


class Told(NamedTuple):
    """Facts that a damaged catalog states about itself; None if unreadable."""

    spec: ModelSpec | None
    """The model that made its embeddings."""
    root: bytes | None
    """Its folder of images, as stored in the table ``meta``."""


def told(catalog: Path) -> Told:
    """Read which model made a damaged catalog, and which folder it indexes."""
    with closing(_opened(catalog)) as damaged:
        meta = dict(_readable(damaged, "SELECT key, value FROM meta"))
    try:
        spec = ModelSpec.from_json(meta["model"])
    except (KeyError, ValueError):
        spec = None
    root = meta.get("root")
    return Told(spec, root if isinstance(root, bytes) else None)


def copy(catalog: Path, empty: Database, *, pictures: bool) -> int:
    """Copy attachments and, with ``pictures``, images and vectors; return how many images.

    Call inside a transaction of ``empty``. Unreadable rows are left out without an error.
    """
    with closing(_opened(catalog)) as damaged:
        for order in ("", "DESC"):  # from both ends towards the damage
            empty.execute_many(
                "INSERT OR IGNORE INTO attachments VALUES (?, ?)",
                _readable(damaged, f"SELECT name, value FROM attachments ORDER BY rowid {order}"),
            )
        return _copy_pictures(damaged, empty) if pictures else 0


def _copy_pictures(damaged: Database, empty: Database) -> int:
    try:
        images = schema.images(damaged)
    except StoreError:  # not even the version can be read
        return 0
    marks = ",".join("?" * (_COLUMNS.count(",") + 1))
    copied = 0
    for order in ("", "DESC"):
        rows = f"SELECT {_COLUMNS}, vector FROM {images} LEFT JOIN vectors USING (id)"
        for *facts, vector in _readable(damaged, f"{rows} ORDER BY id {order}"):
            if facts[-1] is None and vector is None:
                continue
            added = empty.execute(
                f"INSERT OR IGNORE INTO images ({_COLUMNS}) VALUES ({marks})", facts
            ).rowcount
            if added and vector is not None:
                empty.execute("INSERT INTO vectors VALUES (?, ?)", (facts[0], vector))
            copied += added
    for id, *archived in _readable(damaged, "SELECT * FROM archived"):
        empty.execute(
            "INSERT OR IGNORE INTO archived SELECT ?, ?, ?, ?, ?"
            " WHERE EXISTS (SELECT 1 FROM images WHERE id = ?)",
            (id, *archived, id),
        )
    return copied


def _opened(catalog: Path) -> Database:
    damaged = Database(catalog, write=False)
    # Without this, SQLite reads nothing from a truncated file.
    damaged.execute("PRAGMA writable_schema = ON")
    return damaged


def _readable(damaged: Database, sql: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a query up to the damage."""
    try:
        yield from damaged.rows(sql)
    except (StoreError, OverflowError):
        return
