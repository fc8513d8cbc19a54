"""What the images of a folder were when they were last compared with the catalog: a digest each.

A walk that finds the same in a folder need not compare it file by file. A listing is derived from
the folder's rows, and only where all of them are good; whatever changes one of these rows deletes
the listing in the same transaction.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from clipsearch.images.scan import folder_of, listing
from clipsearch.storage import filters, schema
from clipsearch.storage.sqlite import Database


def below(db: Database, folder: bytes) -> dict[bytes, bytes]:
    """Folder -> listing, of those that are listed: of ``folder`` and all below it."""
    where, values = filters.below(folder)
    return dict(db.rows(f"SELECT path, listing FROM folders WHERE {where}", values))


def write(db: Database, folders: Iterable[bytes]) -> None:
    """List those of the folders whose images are all good, and were looked at."""
    made: list[tuple[bytes, bytes]] = []
    for folder in folders:
        rows = list(files_in(db, folder, "size, mtime_ns, error IS NULL AND camera IS NOT NULL"))
        if rows and all(good for *_, good in rows):
            # Of the path, only the name: this is what a walk knows.
            names = [(path.rpartition(b"/")[2], size, time) for path, size, time, _ in rows]
            made.append((folder, listing(names)))
    made = sorted(set(made) - set(below(db, b"").items()))
    if made:
        with db.transaction():
            db.execute_many("INSERT OR REPLACE INTO folders VALUES (?, ?)", made)


def delete(db: Database, paths: Iterable[bytes]) -> None:
    """Delete the listings of the folders that these files lie in. Inside a transaction."""
    folders = {folder_of(path) for path in paths}
    db.execute_many("DELETE FROM folders WHERE path = ?", ((folder,) for folder in folders))


def files_in(db: Database, folder: bytes, columns: str) -> Iterator[tuple[Any, ...]]:
    """``(path, *columns)`` of each file in a folder, and not below it, by path."""
    prefix = folder + b"/" if folder else b""
    until = "AND path < ?" if folder else ""
    sql = (
        f"SELECT path, {columns} FROM {schema.images(db)}"
        f" LEFT JOIN {schema.archived(db)} USING (id)"
        f" WHERE archived.id IS NULL AND path >= ? {until} ORDER BY path"
    )
    end = (folder + b"0",) if folder else ()  # what follows everything that begins with the prefix
    start: bytes | None = prefix
    while start is not None:
        rows, start = db.rows(sql, (start, *end)), None
        for path, *facts in rows:
            name, slash, _ = path[len(prefix) :].partition(b"/")
            if slash:  # the first of a subfolder: behind its last is where to go on
                start = prefix + name + b"0"
                break
            yield path, *facts
