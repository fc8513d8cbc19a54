"""A folder is listed as a walk would find it, as long as no row of it changes."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import picture, unsynchronised
from small_index import add, forest

from clipsearch.images.scan import folder_of, listing
from clipsearch.records import Archived, Found, ImageFile, Origin
from clipsearch.storage.catalog import Store

FOLDERS = [b"", b"sub", b"sub/deep", b"subway"]


@pytest.fixture
def store(writer: Store) -> Store:
    """Twelve images in four folders, which are listed."""
    add(writer, forest(12))
    writer.list_folders(FOLDERS)
    return writer


def walked(store: Store, *same: bytes, gone: bytes = b"none") -> Found:
    """What a walk finds where some folders are the same, and one is gone."""
    files = [
        ImageFile(path, entry.size, entry.mtime_ns)
        for path, entry in store.known().items()
        if folder_of(path) not in (*same, gone)
    ]
    return Found(sorted(files), same=dict.fromkeys(same, 3))


def test_a_listing_is_what_a_walk_finds_in_the_folder_alone(store: Store) -> None:
    assert set(store.listings()) == set(FOLDERS)
    assert set(store.listings(b"sub")) == {b"sub", b"sub/deep"}
    names = [(name + b".png", 1000 + int(name), 1) for name in (b"1", b"5", b"9")]
    assert store.listings()[b"sub"] == listing(names) == listing(names[::-1])
    assert len(set(store.listings().values())) == 4


def test_names_sizes_and_times_tell_listings_apart() -> None:
    entries = [(b"a.jpg", 1, 2), (b"b.jpg", 3, 4)]
    others = [
        [(b"a.jpg", 1, 2)],
        [(b"a.jpg", 1, 2), (b"c.jpg", 3, 4)],
        [(b"a.jpg", 3, 2), (b"b.jpg", 1, 4)],
        [(b"a.jpg", 1, 4), (b"b.jpg", 3, 2)],
        [(b"a.jpg", 1, 2), (b"b.jpg", 3, 5)],
        [(b"a.jpg\n", 1, 2), (b"b.jpg", 3, 4)],
        [(b"[(1, 3), (2, 4)]", 1, 3), (b"[(1, 3), (2, 4)]", 2, 4)],
        [(b"far.jpg", 2**70, -(2**70))],
    ]
    assert len({listing(some) for some in [entries, *others]}) == 1 + len(others)


CHANGES: dict[str, Callable[[Store], object]] = {
    "added": lambda store: store.add([picture(b"sub/new.png", 50)]),
    "copied": lambda store: store.add_copy(ImageFile(b"sub/new.png", 1, 1), 1),
    "failed": lambda store: store.add_failed(ImageFile(b"sub/new.png", 1, 1), "damaged"),
    "moved in": lambda store: store.move(id_of(store, b"3.png"), ImageFile(b"sub/x.png", 1, 1)),
    "moved out": lambda store: store.move(id_of(store, b"sub/5.png"), ImageFile(b"x.png", 1, 1)),
    "touched": lambda store: store.move(id_of(store, b"sub/5.png"), ImageFile(b"sub/5.png", 1, 9)),
    "forgotten": lambda store: store.forget([id_of(store, b"sub/5.png")]),
    "removed": lambda store: store.remove([b"sub/5.png"]),
}


def id_of(store: Store, path: bytes) -> int:
    return store.ids_of([path]).get(path, 0)


@pytest.mark.parametrize("how", CHANGES)
def test_whatever_changes_a_row_of_a_folder_deletes_its_listing(store: Store, how: str) -> None:
    before = store.listings()
    with store.batch():
        CHANGES[how](store)
    left = store.listings()
    assert b"sub" not in left
    assert left.items() <= before.items()
    assert {b"sub/deep", b"subway"} <= left.keys()


def test_a_change_that_is_given_up_leaves_the_listing(store: Store) -> None:
    before = store.listings()
    with suppress(InterruptedError), store.batch():
        store.remove([b"sub/5.png"])
        raise InterruptedError
    assert store.listings() == before


def test_a_folder_with_a_picture_that_failed_or_was_not_looked_at_is_not_listed(
    store: Store,
) -> None:
    with store.batch():
        store.add_failed(ImageFile(b"sub/bad.png", 1, 1), "damaged")
        store.add([picture(b"old.png", 60), picture(b"new/1.png", 61)])
        store._db.execute("UPDATE images SET camera = NULL WHERE path = ?", (b"old.png",))
    store.list_folders([*FOLDERS, b"new", b"empty"])
    assert set(store.listings()) == {b"sub/deep", b"subway", b"new"}
    with store.batch():
        store.remove([b"sub/bad.png"])
        store.set_origins([(id_of(store, b"old.png"), Origin())])
    store.list_folders(FOLDERS)
    assert set(store.listings()) == {*FOLDERS, b"new"}


def test_what_is_listed_already_is_not_written_again(store: Store, directory: Path) -> None:
    before = (store.status().updated_at, os.stat(directory / "catalog.sqlite3").st_mtime_ns)
    store.list_folders(FOLDERS)
    after = (store.status().updated_at, os.stat(directory / "catalog.sqlite3").st_mtime_ns)
    assert after == before


@pytest.mark.parametrize("same", [(b"subway",), (b"", b"sub"), tuple(FOLDERS)])
def test_the_files_of_folders_that_are_the_same_are_left_out(
    store: Store, same: tuple[bytes, ...]
) -> None:
    all_known = store.known()
    known = store.known(found=walked(store, *same))
    assert known == {path: all_known[path] for path in all_known if folder_of(path) not in same}


def test_rows_of_other_folders_are_not_even_read(store: Store) -> None:
    """Those of a folder that is gone are, and one row of a folder below it."""
    add(store, [picture(b"sub/more/%d.png" % n, n) for n in range(100, 150)])
    store.list_folders([b"sub/more"])
    found = walked(store, b"", b"sub/deep", b"subway", gone=b"sub")
    found = replace(found, files=[], same={**found.same, b"sub/more": 50})
    read: list[str] = []
    store._db._connection.set_trace_callback(read.append)
    assert set(store.known(found=found)) == {b"sub/1.png", b"sub/5.png", b"sub/9.png"}
    store._db._connection.set_trace_callback(None)
    rows = [sql for sql in read if "mtime_ns" in sql]
    assert len(rows) == 3
    assert all("path >=" in sql and "path <" in sql for sql in rows)


def test_a_folder_that_is_gone_and_was_not_listed_is_found_out_by_counting(store: Store) -> None:
    add(store, [picture(b"gone/%d.png" % n, n) for n in range(70, 72)])
    known = store.known(found=walked(store, *FOLDERS, gone=b"gone"))
    assert set(known) == {b"gone/70.png", b"gone/71.png"}


def test_members_of_archives_are_no_files_of_a_folder(store: Store) -> None:
    archived = Archived(b"sub/a.tar", 0, None, None)
    with store.batch():
        store.add([replace(picture(b"sub/a.tar/1.jpg", 80), archived=archived)])
        store.add([replace(picture(b"sub/0.jpg", 81), archived=archived)])
    store.list_folders([b"sub", b"sub/a.tar"])
    assert set(store.listings()) == set(FOLDERS)
    assert store.known(found=walked(store, *FOLDERS)) == {}


@pytest.mark.parametrize("count", [3, 600])
def test_sizes_are_those_of_good_pictures(writer: Store, count: int) -> None:
    with unsynchronised(writer).batch():
        writer.add(picture(b"%d.png" % n, n) for n in range(10))
        writer.add_failed(ImageFile(b"bad.png", 1, 1), "damaged")
    assert writer.sizes_among(range(1000 - count // 3, 1000 + count)) == set(
        range(1000, 1000 + min(count, 10))
    )
    assert writer.sizes_among([]) == set()
