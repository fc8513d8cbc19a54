"""One process writes at a time, and a lock does not outlive its holder."""

import os
import shutil
import time
from pathlib import Path

import pytest
from fakes import (
    fake_spec,
)
from small_index import QUERY, add, check, forest, holder, pictures

from clipsearch.errors import (
    IndexExists,
    IndexLocked,
    IndexUnreadable,
)
from clipsearch.storage.catalog import CATALOG, Store


def test_a_second_writer_is_told_at_once(root: Path, directory: Path) -> None:
    first = Store.create(directory, root, fake_spec())
    started = time.monotonic()
    for open_it in (
        lambda: Store.open_for_writing(directory),
        lambda: Store.create(directory, root, fake_spec()),
    ):
        with pytest.raises(IndexLocked, match="another clipsearch is writing"):
            open_it()
    assert time.monotonic() - started < 5
    first.close()
    with Store.open_for_writing(directory) as second:
        add(second, pictures(1))


def test_an_index_that_was_made_meanwhile_is_not_made_again(root: Path, directory: Path) -> None:
    with Store.create(directory, root, fake_spec()) as first:
        vectors = add(first, pictures(3))
    for wait in (False, True):
        with pytest.raises(IndexExists, match="has just created an index at"):
            Store.create(directory, root, fake_spec(), wait=wait)
    with Store.open_for_writing(directory) as store:
        check(store, vectors)


@pytest.mark.skipif(os.name == "nt", reason="no links for everybody there")
def test_the_name_of_the_holder_is_written_through_no_link(root: Path, directory: Path) -> None:
    directory.mkdir()
    (root / "letter.txt").write_text("mine")
    (directory / "writer.txt").symlink_to(root / "letter.txt")
    Store.create(directory, root, fake_spec()).close()
    assert (root / "letter.txt").read_text() == "mine"


def test_the_lock_is_free_after_a_failure_to_open(writer: Store, directory: Path) -> None:
    writer.close()
    good = (directory / CATALOG).read_bytes()
    (directory / CATALOG).write_bytes(b"garbage" * 1000)
    with pytest.raises(IndexUnreadable) as caught:
        Store.open_for_writing(directory)
    (directory / CATALOG).write_bytes(good)
    Store.open_for_writing(directory).close()
    assert caught.tb is not None  # which keeps all its frames, and a lock in them, from ending


@pytest.mark.process
@pytest.mark.parametrize("mode", ["", "spilling"])
def test_a_writer_that_is_killed_leaves_what_it_committed_and_no_lock(
    writer: Store, directory: Path, tmp_path: Path, mode: str
) -> None:
    vectors = add(writer, forest(40))
    writer.update_vector_index()
    writer.close()
    with holder(directory, mode) as process:
        with pytest.raises(IndexLocked):
            Store.open_for_writing(directory)
        copy = shutil.copytree(directory, tmp_path / "plain copy")
        process.kill()
        process.wait()
        with Store.open(directory) as reader:  # a reader may be the first to come by
            check(reader, vectors)
        with Store.open_for_writing(directory) as again:
            check(again, vectors)
            vectors |= add(again, forest(10, start=40))
            check(again, vectors)
    with Store.open(copy) as reader:  # a copy that was made in the middle
        assert len(reader.search(QUERY, 99)) == 40
