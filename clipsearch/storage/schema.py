"""The catalog's tables: how they are created, and migrated from older versions.

Readers can read every version and change nothing; a writer migrates the catalog.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from clipsearch.errors import IndexNotFound, IndexUnreadable
from clipsearch.storage.sqlite import Database

VERSION = 6

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
    latitude REAL, longitude REAL,
    failure TEXT                           -- JSON, of what failed: whether to try it again
);
CREATE INDEX images_by_hash ON images (hash);
-- Apart from images, so that comparing 60,000 paths does not read 60,000 vectors.
CREATE TABLE vectors (
    id INTEGER PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,
    vector BLOB NOT NULL                   -- dim x fp16, little-endian
);
-- Pictures that are not files of their own, but members of an archive, or not here at all.
CREATE TABLE archived (
    id INTEGER PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,
    archive BLOB,                          -- relative to the root; NULL: nobody knows it
    byte_offset INTEGER NOT NULL,          -- where the picture begins in it
    caption TEXT, url TEXT
);
-- What other rooms keep with the index and can make again: measurements, probes.
CREATE TABLE attachments (name TEXT PRIMARY KEY, value NOT NULL);
-- Of folders whose pictures are all good: what a walk finds there if nothing has changed.
CREATE TABLE folders (
    path BLOB PRIMARY KEY,                 -- relative to the root
    listing BLOB NOT NULL                  -- a digest of names, sizes and times
) WITHOUT ROWID;
"""

META_KINDS = {"vector_file": bytes, "root": bytes, "created_at": str, "updated_at": str}
"""What the table ``meta`` holds besides the model."""

_MIGRATIONS = {
    2: "CREATE TABLE attachments (name TEXT PRIMARY KEY, value NOT NULL)",
    # Adding a column takes the same time for any number of rows, and works on a damaged catalog.
    3: "ALTER TABLE images ADD COLUMN camera TEXT;\n"
    "ALTER TABLE images ADD COLUMN latitude REAL;\n"
    "ALTER TABLE images ADD COLUMN longitude REAL",
    4: "ALTER TABLE images ADD COLUMN failure TEXT",
    5: "CREATE TABLE archived (id INTEGER PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,"
    " archive BLOB, byte_offset INTEGER NOT NULL, caption TEXT, url TEXT)",
    6: "CREATE TABLE folders (path BLOB PRIMARY KEY, listing BLOB NOT NULL) WITHOUT ROWID",
}
"""Version -> the statements that migrate a catalog from the version before."""

_LATER = {3: ("camera", "latitude", "longitude"), 4: ("failure",)}
"""Version -> the columns that it added to ``images``."""


def create(db: Database, meta: Mapping[str, str | bytes]) -> None:
    """Create the tables of an empty catalog in one transaction."""
    with db.transaction():
        for statement in _SCHEMA.split(";\n"):
            db.execute(statement)
        db.execute_many("INSERT INTO meta VALUES (?, ?)", meta.items())
        db.execute(f"PRAGMA user_version = {VERSION}")


def migrate(db: Database) -> None:
    """Migrate a catalog of an older version, one version at a time.

    Each step and its version number are one transaction: a killed run leaves the catalog at the
    previous version, and the next run continues from there.
    """
    for target in range(version(db) + 1, VERSION + 1):
        with db.transaction():
            for statement in _MIGRATIONS[target].split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {target}")


def version(db: Database) -> int:
    """The catalog's schema version; 0 if the file is not a catalog or is still empty."""
    return int(db.value("PRAGMA user_version"))


def require_ours(db: Database, catalog: Path) -> None:
    """Raise unless the file is a catalog of a version that this program knows.

    IndexUnreadable for another program's file or a newer catalog, IndexNotFound for an empty file.
    """
    found = version(db)
    if found > VERSION:
        raise IndexUnreadable(
            f"the index at {catalog.parent} was written by a newer clipsearch "
            f"(schema {found}; this one knows {VERSION})",
            hint="Upgrade clipsearch. The index was not touched.",
        )
    if found < 1 and is_blank(db):
        raise IndexNotFound(
            f"the index at {catalog.parent} is empty",
            hint="Create it with: clipsearch index FOLDER",
        )
    if found < 1:
        raise IndexUnreadable(
            f"{catalog} is a database of another program",
            hint="Put the index elsewhere with --index DIR.",
        )


def is_blank(db: Database) -> bool:
    """Whether the file has no tables: its writer was killed before the first commit."""
    return not db.value("SELECT count(*) FROM sqlite_master")


def has_attachments(db: Database) -> bool:
    """Whether the catalog has a table of attachments."""
    return version(db) >= 2


def images(db: Database) -> str:
    """The table of images for a FROM clause, with all columns of the current version."""
    missing = [name for since, names in _LATER.items() if version(db) < since for name in names]
    if not missing:
        return "images"
    columns = ", ".join(f"NULL AS {name}" for name in missing)
    return f"(SELECT *, {columns} FROM images) AS images"


def archived(db: Database) -> str:
    """The table of archived images for a JOIN clause; without rows in versions that lack it."""
    if version(db) >= 5:
        return "archived"
    columns = "NULL AS id, NULL AS archive, NULL AS byte_offset, NULL AS caption, NULL AS url"
    return f"(SELECT {columns} WHERE 0) AS archived"


def now() -> str:
    """The current time in the format of ``meta``: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
