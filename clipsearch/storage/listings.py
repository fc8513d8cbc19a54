"""Listings: a digest of each folder's images, from when they were last compared with the catalog.

If a walk finds the same listing in a folder, it need not compare the folder file by file. A listing
is derived from the folder's rows, and only if all of them are good; any change to one of these rows
deletes the listing in the same transaction.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from clipsearch.images.scan import folder_of, listing
from clipsearch.storage import filters, schema
from clipsearch.storage.sqlite import Database


def below(db: Database, folder: bytes) -> dict[bytes, bytes]:
    """Folder -> listing, for ``folder`` and all folders below it that have one."""
    where, values = filters.below(folder)
    return dict(db.rows(f"SELECT path, listing FROM folders WHERE {where}", values))


def write(db: Database, folders: Iterable[bytes]) -> None:
    """Store the listings of those folders whose images are all good and fully read."""
    made: list[tuple[bytes, bytes]] = []
    for folder in folders:
        rows = list(files_in(db, folder, "size, mtime_ns, error IS NULL AND camera IS NOT NULL"))
        if rows and all(good for *_, good in rows):
            # Only the names, because a walk knows no more.
            names = [(path.rpartition(b"/")[2], size, time) for path, size, time, _ in rows]
            made.append((folder, listing(names)))
    made = sorted(set(made) - set(below(db, b"").items()))
    if made:
        with db.transaction():
            db.execute_many("INSERT OR REPLACE INTO folders VALUES (?, ?)", made)


def delete(db: Database, paths: Iterable[bytes]) -> None:
    """Delete the listings of the folders that contain these files. Inside a transaction."""
    folders = {folder_of(path) for path in paths}
    db.execute_many("DELETE FROM folders WHERE path = ?", ((folder,) for folder in folders))


def files_in(db: Database, folder: bytes, columns: str) -> Iterator[tuple[Any, ...]]:
    """``(path, *columns)`` of each file directly in a folder, sorted by path."""
    prefix = folder + b"/" if folder else b""
    until = "AND path < ?" if folder else ""
    sql = (
        f"SELECT path, {columns} FROM {schema.images(db)}"
        f" LEFT JOIN {schema.archived(db)} USING (id)"
        f" WHERE archived.id IS NULL AND path >= ? {until} ORDER BY path"
    )
    end = (folder + b"0",) if folder else ()  # sorts after every path with the prefix
    start: bytes | None = prefix
    while start is not None:
        rows, start = db.rows(sql, (start, *end)), None
        for path, *facts in rows:
            name, slash, _ = path[len(prefix) :].partition(b"/")
            if slash:  # the first file of a subfolder: continue after its last
                start = prefix + name + b"0"
                break
            yield path, *facts
