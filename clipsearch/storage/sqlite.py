"""A connection to a catalog, with SQLite's errors as ours; the only file that imports sqlite3.

Uses SQLite's rollback journal and not its write-ahead log, which needs shared memory and so fails
on network shares and read-only media. A transaction is one batch long, so readers and the writer
wait for each other only briefly.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any, NoReturn

from clipsearch.errors import IndexDamaged, IndexLocked, StoreError

SQL_VARIABLES = 500
"""The most variables in one statement; SQLite's limit is 999 or higher."""

MOST = 2**63 - 1
"""The largest integer that SQLite can hold."""

_BUSY_SECONDS = 30.0


class Database:
    """One SQLite file, open for reading or as the only writer.

    Every method raises IndexLocked, IndexUnreadable or StoreError, each with the next step,
    instead of SQLite's own errors.
    """

    def __init__(self, path: Path, *, write: bool) -> None:
        """Open ``path``; with ``write``, create it if it is missing."""
        self._path = path
        self._write = write
        before = _identity(path)
        # A reader also opens it for writing if it can: a writer that was killed during a commit
        # leaves a journal, which the next process has to roll back. On read-only media SQLite
        # falls back to reading.
        mode = "rwc" if write else "rw"
        with self._errors():
            self._connection = sqlite3.connect(
                f"{_uri(path.absolute())}?mode={mode}",
                uri=True,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            if write:
                # If a power cut reverts a journal's deletion, the journal would undo the commit or
                # corrupt a catalog that has replaced this one. So it is truncated and synced.
                self.execute("PRAGMA journal_mode = TRUNCATE")
                self.execute("PRAGMA synchronous = FULL")
                # Without this, a batch larger than the cache locks out readers until it ends.
                self.execute("PRAGMA cache_spill = OFF")
            else:
                self.execute("PRAGMA query_only = ON")
            self.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            self.close()
            raise
        self._file = before or _identity(path)

    def is_replaced(self) -> bool:
        """Whether another file has replaced it; this connection still reads the old one."""
        now = _identity(self._path)
        return now is not None and now != self._file

    def close(self) -> None:
        """Close the connection; closing it again does nothing."""
        if self._write:
            with suppress(sqlite3.Error):  # already closed, or the disk fails
                self._connection.execute("PRAGMA journal_mode = DELETE")  # deletes an empty one
        self._connection.close()

    def execute(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run one statement."""
        with self._errors():
            return self._connection.execute(sql, values)

    def execute_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for each row."""
        with self._errors():
            self._connection.executemany(sql, rows)

    def rows(self, sql: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, one by one."""
        with self._errors():
            yield from self._connection.execute(sql, values)

    def batches(
        self, size: int, sql: str, values: Sequence[object] = ()
    ) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a query, up to ``size`` at a time."""
        with self._errors():
            cursor = self._connection.execute(sql, values)
            while found := cursor.fetchmany(size):
                yield found

    def row(self, sql: str, values: Sequence[object] = ()) -> tuple[Any, ...] | None:
        """The first row of a query; None if there is none."""
        with self._errors():
            found: tuple[Any, ...] | None = self._connection.execute(sql, values).fetchone()
        return found

    def value(self, sql: str, values: Sequence[object] = ()) -> Any:
        """The first value of a query's first row; None if there is none."""
        found = self.row(sql, values)
        return found[0] if found else None

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads inside see one state of the catalog, even if others commit."""
        self.execute("BEGIN")
        try:
            self.row("SELECT 1 FROM meta")  # the first read takes the snapshot
            yield
        finally:
            self.execute("ROLLBACK")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all changes inside together, or none of them."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            with suppress(StoreError):  # a full disk has already rolled it back
                self.execute("ROLLBACK")
            raise

    def problems(self) -> list[str]:
        """Problems that SQLite's own checks find in the file; empty if it is intact."""
        try:
            found = [text for (text,) in self._connection.execute("PRAGMA integrity_check")]
            orphans = self._connection.execute("PRAGMA foreign_key_check").fetchall()
        except sqlite3.DatabaseError as error:
            return [str(error)]
        return [text for text in found if text != "ok"] + [
            f"row {row} of {table} refers to a missing row of {parent}"
            for table, row, parent, _ in orphans
        ]

    def _errors(self) -> "_translated":
        return _translated(self._path)


class _translated:  # noqa: N801  (used like contextlib.suppress)
    """Turn SQLite's errors into ours; a class, because a generator would be slow here."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, sqlite3.Error):
            _raise(error, self._path)


def _raise(error: sqlite3.Error, path: Path) -> NoReturn:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_BUSY:
        raise IndexLocked(
            f"{path} has been busy for {_BUSY_SECONDS:.0f} seconds",
            hint="Another program, such as a backup, has it open. Try again when it has finished.",
        ) from error
    if code == sqlite3.SQLITE_FULL:
        raise StoreError(
            f"the disk is full ({path})",
            hint="Free some space and run the same command again; finished work is kept.",
        ) from error
    if code == sqlite3.SQLITE_IOERR:
        raise StoreError(
            f"cannot read or write {path}: {error}",
            hint="Check that its disk is connected and works, then run the same command again; "
            "finished work is kept.",
        ) from error
    if code == sqlite3.SQLITE_READONLY:
        raise StoreError(
            f"cannot write to {path}: {error}",
            hint="The file or its disk is read-only. Make it writable, or put the index elsewhere "
            "with --index DIR.",
        ) from error
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        raise _not_opened(error, path) from error
    raise IndexDamaged(f"cannot read {path}: {error}") from error


def _not_opened(error: sqlite3.Error, path: Path) -> StoreError:
    """Say why a file could not be opened, which SQLite does not."""
    try:
        with path.open("rb"):
            pass
    except OSError as reason:
        return StoreError(
            f"cannot open {path}: {reason.strerror}",
            hint="Check that it is a file and that you may read it; it may belong to another user.",
        )
    return StoreError(
        f"cannot open {path} or its journal: {error}",
        hint=f"Check that you may write to {path.parent}, or put the index elsewhere with "
        "--index DIR.",
    )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _uri(path: PurePath) -> str:
    """A path as a SQLite URI, in which a Windows share is part of the path."""
    uri = path.as_uri()
    return uri if uri.startswith("file:///") else uri.replace("file://", "file:////", 1)
