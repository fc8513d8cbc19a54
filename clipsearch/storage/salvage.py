"""What can still be read of a damaged catalog, copied into an empty one."""

from collections.abc import Iterator
from typing import Any

from clipsearch.errors import StoreError
from clipsearch.storage.sqlite import Database

_COLUMNS = (
    "id, path, size, mtime_ns, hash, width, height, taken_at, camera, latitude, longitude,"
    " failure, error"
)


def copy(damaged: Database, empty: Database) -> int:
    """Copy pictures with their vectors, and attachments; return how many pictures.

    Inside a transaction of ``empty``. Raises nothing for what cannot be read: it is left out.
    """
    marks = ",".join("?" * (_COLUMNS.count(",") + 1))
    copied = 0
    for order in ("", "DESC"):  # from both ends towards the damage
        pictures = f"SELECT {_COLUMNS}, vector FROM images LEFT JOIN vectors USING (id)"
        for *facts, vector in _readable(damaged, f"{pictures} ORDER BY id {order}"):
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
    empty.execute_many(
        "INSERT OR REPLACE INTO attachments VALUES (?, ?)",
        _readable(damaged, "SELECT name, value FROM attachments"),
    )
    return copied


def _readable(damaged: Database, sql: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a query up to the damage."""
    try:
        yield from damaged.rows(sql)
    except (StoreError, OverflowError):
        return
