"""Batches are whole or not there, and readers never see half of one."""

import sqlite3
import sys
import threading
import time
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NoReturn

import pytest
from fakes import (
    picture,
    vectors_of,
)
from small_index import QUERY, add, check, forest, pictures

from clipsearch.errors import (
    IndexDamaged,
    IndexLocked,
    IndexUnreadable,
    StoreError,
)
from clipsearch.records import ImageFile
from clipsearch.storage import sqlite
from clipsearch.storage.catalog import CATALOG, Store
from clipsearch.storage.sqlite import Database


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        (PurePosixPath("/a b/c#d?e%f"), "file:///a%20b/c%23d%3Fe%25f"),
        (PureWindowsPath(r"C:\photos\x"), "file:///C:/photos/x"),
        (PureWindowsPath(r"\\nas\share\photos"), "file:////nas/share/photos"),
    ],
)
def test_sqlite_is_told_a_path_in_the_form_it_takes(
    path: PurePosixPath | PureWindowsPath, uri: str
) -> None:
    """SQLite refuses a URI that names a host, which is how Python writes a Windows share."""
    assert sqlite._uri(path) == uri


def test_a_connection_that_fails_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows cannot delete a folder while a file in it is open."""
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def remember(*arguments: object, **options: object) -> sqlite3.Connection:
        opened.append(connect(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", remember)
    for content in (b"\0" * 5000, b"garbage" * 1000):
        (tmp_path / CATALOG).write_bytes(content)
        for opener in (Store.open, Store.open_for_writing):
            with pytest.raises(IndexUnreadable):
                opener(tmp_path)
    assert len(opened) == 4
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


@pytest.mark.parametrize(
    ("code", "kind", "said", "hint"),
    [
        (sqlite3.SQLITE_BUSY, IndexLocked, "has been busy for 30 seconds", "Try again when"),
        (sqlite3.SQLITE_FULL, StoreError, "the disk is full", "Free some space"),
        (sqlite3.SQLITE_IOERR_READ, StoreError, "cannot read or write", "Check that its disk"),
        (sqlite3.SQLITE_READONLY, StoreError, "cannot write to", "--index DIR"),
        (sqlite3.SQLITE_CORRUPT, IndexDamaged, "cannot read", "--rebuild"),
        (sqlite3.SQLITE_NOTADB, IndexDamaged, "cannot read", "--rebuild"),
        (sqlite3.SQLITE_CANTOPEN, StoreError, "No such file", "Check that it is a file"),
    ],
)
def test_what_sqlite_cannot_do_says_why_and_the_next_step(
    tmp_path: Path, code: int, kind: type[StoreError], said: str, hint: str
) -> None:
    """Only what is damaged is called so: nobody is sent to rebuild for a disk that is away."""
    error = sqlite3.OperationalError("sqlite's own words")
    error.sqlite_errorcode = code
    with pytest.raises(kind, match=said) as caught:
        sqlite._raise(error, tmp_path / CATALOG)
    assert isinstance(caught.value, IndexDamaged) == (kind is IndexDamaged)
    assert hint in caught.value.hint


def test_why_a_catalog_cannot_be_opened_is_asked_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / CATALOG).mkdir()
    with pytest.raises(StoreError, match="Is a directory") as caught:
        sqlite.Database(tmp_path / CATALOG, write=False).value("SELECT 1 FROM meta")
    assert "Check that it is a file and that you may read it" in caught.value.hint
    (tmp_path / CATALOG).rmdir()

    def shut(*_: object) -> None:  # root may read everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", shut)
    with pytest.raises(StoreError, match=f"cannot open .*{CATALOG}: Permission denied"):
        sqlite.Database(tmp_path / CATALOG, write=False).value("SELECT 1 FROM meta")


# -- all or nothing ------------------------------------------------------------------------------


def test_a_batch_that_fails_changes_nothing(writer: Store, directory: Path) -> None:
    vectors = add(writer, forest(20))
    writer.update_vector_index()
    known = writer.known()
    with Store.open(directory) as reader:
        updated = reader.status().updated_at

    def half_a_batch() -> None:
        with writer.batch():
            writer.add([picture(b"new", 500), picture(b"0.png", 501)])
            writer.add_failed(ImageFile(b"sub/1.png", 1, 1), "x")
            writer.add_copy(ImageFile(b"copy", 1, 1), known[b"0.png"].id + 3)
            writer.move(known[b"4.png"].id, ImageFile(b"moved", 1, 1))
            writer.remove([b"8.png"])
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        half_a_batch()
    assert writer.known() == known
    check(writer, vectors)
    with Store.open(directory) as reader:
        assert reader.known() == known
        assert reader.status().updated_at == updated
    vectors |= add(writer, [picture(b"after", 600)])
    check(writer, vectors)


def test_a_batch_that_is_interrupted_changes_nothing(writer: Store) -> None:
    def interrupted() -> None:
        with writer.batch():
            writer.add(pictures(5))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert writer.known() == {}


def test_a_full_disk_says_so_and_keeps_what_was_committed(writer: Store, directory: Path) -> None:
    vectors = add(writer, forest(50))
    (pages,) = writer._db.execute("PRAGMA page_count").fetchone()
    writer._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreError, match="the disk is full") as caught:
        add(writer, forest(2000, start=50))
    assert type(caught.value) is StoreError
    assert "Free some space" in caught.value.hint
    check(writer, vectors)
    with Store.open(directory) as reader:
        check(reader, vectors)
    writer._db.execute("PRAGMA max_page_count = 1000000")
    vectors |= add(writer, forest(50, start=50))
    check(writer, vectors)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on a process there")
def test_a_disk_that_fills_up_at_the_commit_keeps_what_was_committed(
    writer: Store, directory: Path
) -> None:
    import resource

    vectors = add(writer, forest(50))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (directory / CATALOG).stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, hard))
    try:
        with pytest.raises(StoreError):
            add(writer, forest(2000, start=50))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    check(writer, vectors)
    writer.close()
    with Store.open_for_writing(directory) as again:
        check(again, vectors)
        vectors |= add(again, forest(50, start=50))
        check(again, vectors)


# -- readers beside a writer ---------------------------------------------------------------------


def test_readers_beside_a_batch_see_the_state_before_it(writer: Store, directory: Path) -> None:
    vectors = add(writer, forest(40))
    writer.update_vector_index()
    early = Store.open(directory)
    with writer.batch():
        writer.add(forest(10, start=40))
        writer.remove([b"0.png", b"4.png"])
        with Store.open(directory) as late:
            for reader in (early, late):
                check(reader, vectors)
                assert set(reader.known()) == set(vectors)
                assert reader.status().images == 40
    after = vectors_of(forest(50))
    del after[b"0.png"], after[b"4.png"]
    check(early, after)
    early.close()


def test_readers_are_not_locked_out_by_a_batch_of_any_size(
    writer: Store, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = add(writer, forest(40))
    monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 0.1)
    writer._db.execute("PRAGMA cache_size = 10")  # pages; the batch below needs many more
    with writer.batch():
        writer.add(forest(3000, start=40))
        with Store.open(directory) as reader:
            check(reader, vectors)
    assert len(writer.known()) == 3040


def test_readers_never_fail_and_never_see_half_a_batch(writer: Store, directory: Path) -> None:
    """Batches of three images in one direction, while a reader searches without a pause."""
    stop = threading.Event()
    seen: list[int] = []
    errors: list[BaseException] = []

    def read() -> None:
        try:
            with Store.open(directory) as kept:
                while not stop.is_set():
                    with Store.open(directory) as fresh:
                        for reader in (kept, fresh):
                            hits = reader.search(QUERY, 1000)
                            groups = {hit.path.split(b"/")[0] for hit in hits}
                            assert len(hits) == 3 * len(groups)
                            seen.append(len(hits))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for n in range(40):
            with writer.batch():
                if n % 4 == 3:
                    writer.remove([b"%d/%d" % (n - 1, m) for m in range(3)])
                writer.add([picture(b"%d/%d" % (n, m), 3 * n + m) for m in range(3)])
            if n % 5 == 4:
                writer.update_vector_index()
                count, deadline = len(seen), time.monotonic() + 20
                while len(seen) == count and time.monotonic() < deadline and not errors:
                    time.sleep(0.001)
    finally:
        stop.set()
        thread.join()
    assert not errors
    assert len(set(seen)) >= 5


def test_a_reader_that_waits_in_vain_says_so(
    writer: Store, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_SECONDS", 0.05)
    with Store.open(directory) as reader:
        writer._db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(IndexLocked, match="busy"):
            reader.search(QUERY, 1)
        writer._db.execute("ROLLBACK")
        assert reader.search(QUERY, 1) == []


def test_a_catalog_that_may_not_be_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "catalog").mkdir()  # which SQLite cannot open, whoever asks

    def refuse(path: Path, mode: str) -> NoReturn:
        raise PermissionError(13, "Permission denied", path)

    with pytest.raises(StoreError, match=r"cannot open .*catalog: Is a directory"):
        Database(tmp_path / "catalog", write=False)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StoreError, match=r"cannot open .*catalog: Permission denied") as caught:
        Database(tmp_path / "catalog", write=False)
    assert "--index" not in caught.value.hint


def test_a_commit_empties_the_journal_and_closing_takes_it_away(
    writer: Store, directory: Path
) -> None:
    """A journal that is only deleted may be there again after a power cut, and undo the commit."""
    journal = directory / f"{CATALOG}-journal"
    add(writer, pictures(3))
    assert journal.read_bytes() == b""
    with Store.open(directory) as reader:
        assert reader.count() == 3
    writer.close()
    assert not journal.exists()
    with Store.open(directory) as reader:
        assert reader.count() == 3
