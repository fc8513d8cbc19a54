"""A connection to a catalog, and SQLite's errors as ours; the only file that imports sqlite3.

The journal is SQLite's rollback journal and not its write-ahead log, which needs shared memory
and so fails on network shares and read-only media. Transactions are one batch long; readers and
the writer wait for each other for moments.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any, NoReturn

from clipsearch.errors import IndexDamaged, IndexLocked, StoreError

SQL_VARIABLES = 500
"""How many values one statement may name; SQLite's least limit is 999."""

MOST = 2**63 - 1
"""The greatest number that SQLite knows."""

_BUSY_SECONDS = 30.0


class Database:
    """One SQLite file, open for reading or as the one writer.

    Every method raises IndexLocked, IndexUnreadable or StoreError, with the next step, in place
    of SQLite's own errors.
    """

    def __init__(self, path: Path, *, write: bool) -> None:
        """Open ``path``; with ``write``, make it if it is not there."""
        self._path = path
        self._write = write
        before = _identity(path)
        # A reader, too, opens it for writing where it may: a writer that was killed at a commit
        # leaves a journal, which whoever comes next has to roll back. On read-only media SQLite
        # is content to read.
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
                # A journal whose deletion is lost in a power cut would undo the commit, or, once
                # another catalog has taken this one's place, ruin that. It is emptied and synced.
                self.execute("PRAGMA journal_mode = TRUNCATE")
                self.execute("PRAGMA synchronous = FULL")
                # A batch that outgrows the cache would lock all readers out until it ends.
                self.execute("PRAGMA cache_spill = OFF")
            else:
                self.execute("PRAGMA query_only = ON")
            self.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            self.close()
            raise
        self._file = before or _identity(path)

    def is_replaced(self) -> bool:
        """Whether another file is at this path by now; this connection still reads the old one."""
        now = _identity(self._path)
        return now is not None and now != self._file

    def close(self) -> None:
        """Close the connection; a second time does nothing."""
        if self._write:
            with suppress(sqlite3.Error):  # it is open no more, or the disk fails
                self._connection.execute("PRAGMA journal_mode = DELETE")  # deletes an empty one
        self._connection.close()

    def execute(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run one statement."""
        with self._errors():
            return self._connection.execute(sql, values)

    def execute_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for each of the rows."""
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
        """The first row of a query; None where there is none."""
        with self._errors():
            found: tuple[Any, ...] | None = self._connection.execute(sql, values).fetchone()
        return found

    def value(self, sql: str, values: Sequence[object] = ()) -> Any:
        """The first value of the first row of a query that has one; None where there is none."""
        found = self.row(sql, values)
        return found[0] if found else None

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads inside see one state of the catalog, whatever is committed meanwhile."""
        self.execute("BEGIN")
        try:
            self.row("SELECT 1 FROM meta")  # this is what takes the snapshot
            yield
        finally:
            self.execute("ROLLBACK")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside are committed together, or none of them is."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            with suppress(StoreError):  # a full disk has already rolled it back
                self.execute("ROLLBACK")
            raise

    def problems(self) -> list[str]:
        """What SQLite's own checks find wrong with the file; nothing if it is whole."""
        try:
            found = [text for (text,) in self._connection.execute("PRAGMA integrity_check")]
            orphans = self._connection.execute("PRAGMA foreign_key_check").fetchall()
        except sqlite3.DatabaseError as error:
            return [str(error)]
        return [text for text in found if text != "ok"] + [
            f"row {row} of {table} belongs to no row of {parent}"
            for table, row, parent, _ in orphans
        ]

    def _errors(self) -> "_translated":
        return _translated(self._path)


class _translated:  # noqa: N801  (used like contextlib.suppress)
    """Turn SQLite's errors into ours; a class, since a generator would be slow here."""

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
            hint="Another program has it open, a backup say. Try again when it has finished.",
        ) from error
    if code == sqlite3.SQLITE_FULL:
        raise StoreError(
            f"the disk is full ({path})",
            hint="Make room and run the same command again; what was done so far is kept.",
        ) from error
    if code == sqlite3.SQLITE_IOERR:
        raise StoreError(
            f"cannot read or write {path}: {error}",
            hint="Is its disk still there and well? What was done so far is kept: run the same "
            "command again.",
        ) from error
    if code == sqlite3.SQLITE_READONLY:
        raise StoreError(
            f"cannot write to {path}: {error}",
            hint="It is read-only, or on a disk that is. Change that, or put the index elsewhere "
            "with --index DIR.",
        ) from error
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        raise _not_opened(error, path) from error
    raise IndexDamaged(f"cannot read {path}: {error}") from error


def _not_opened(error: sqlite3.Error, path: Path) -> StoreError:
    """Why a file could not be opened, which SQLite does not say."""
    try:
        with path.open("rb"):
            pass
    except OSError as reason:
        return StoreError(
            f"cannot open {path}: {reason.strerror}",
            hint="Check that it is a file and that you may read it; it may be another user's.",
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
    """A path as SQLite's kind of URI, in which a Windows share is part of the path."""
    uri = path.as_uri()
    return uri if uri.startswith("file:///") else uri.replace("file://", "file:////", 1)
