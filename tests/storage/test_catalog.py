"""The index folder: made, opened, moved, read where nothing can be written, rebuilt."""

import math
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import (
    assert_exact,
    fake_spec,
    half,
    picture,
    texts_for,
    unit,
    vectors_of,
)
from small_index import QUERY, add, check, forest, holder, pictures, snapshot

from clipsearch.errors import (
    IndexNotFound,
    IndexUnreadable,
    StoreError,
)
from clipsearch.records import EmbeddedImage, Filter, ImageFile, KnownImage, Vectors
from clipsearch.storage.catalog import CATALOG, FOLDER, REBUILD, Store
from clipsearch.storage.lock import LOCK
from clipsearch.storage.vectors.embeddings import VECTORS

# -- making and opening --------------------------------------------------------------------------


def test_a_new_index_is_empty_and_knows_its_model(root: Path, directory: Path) -> None:
    assert not Store.exists(directory)
    with Store.create(directory, root, fake_spec(name="caf\udce9")) as store:
        assert store.spec == fake_spec(name="caf\udce9")
        assert store.root == root
        assert store.known() == {}
        assert store.search(QUERY, 5) == []
        assert store.search(QUERY, 5, Filter(b"sub")) == []
    assert Store.exists(directory)


def test_what_was_stored_is_there_when_it_is_opened_again(root: Path, directory: Path) -> None:
    path = b"sub/caf\xe9 \n.png"
    image = EmbeddedImage(
        ImageFile(path, 5_000_000_000, -1), b"h" * 20, 640, 480, "2024-05-01T12:30:00", unit(7)
    )
    with Store.create(directory, root, fake_spec()) as store, store.batch():
        store.add([image])
    with Store.open(directory) as store:
        (known,) = store.known().items()
        assert known == (path, KnownImage(known[1].id, 5_000_000_000, -1, failed=False))
        assert store.find_content(b"h" * 20) == [(known[1].id, path)]
        np.testing.assert_array_equal(store.vector(known[1].id), half(unit(7)))
        (hit,) = store.search(unit(7), 3)
        assert hit.path == path
        assert hit.root == root
        assert (hit.id, hit.width, hit.height) == (known[1].id, 640, 480)
        assert hit.taken_at == "2024-05-01T12:30:00"
        assert hit.score == pytest.approx(1, abs=1e-3)
        assert store.spec == fake_spec()


def test_an_id_without_a_vector_is_a_key_error(writer: Store) -> None:
    with writer.batch():
        writer.add_failed(ImageFile(b"bad.png", 1, 1), "the file is empty")
    (bad,) = writer.known().values()
    for id in (bad.id, 12345):
        with pytest.raises(KeyError):
            writer.vector(id)


@pytest.mark.parametrize("opener", [Store.open, Store.open_for_writing])
def test_no_index_is_index_not_found(tmp_path: Path, opener: Callable[[Path], Store]) -> None:
    (tmp_path / "empty").mkdir()
    for directory in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(IndexNotFound):
            opener(directory)
    assert os.listdir(tmp_path / "empty") == []
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["100% ?mode=ro#x&y", "über 写真", "with\nnewline"])
def test_the_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    assert_lives_in(tmp_path / name)


@pytest.mark.skipif(sys.platform != "linux", reason="names there are text")
def test_the_folders_name_need_not_be_utf8(tmp_path: Path) -> None:
    assert_lives_in(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")))


def assert_lives_in(root: Path) -> None:
    root.mkdir()
    for directory in (root / FOLDER, root / "elsewhere"):
        with Store.create(directory, root, fake_spec()) as store:
            vectors = add(store, pictures(30))
            store.update_vector_index()
        with Store.open(directory) as store:
            assert store.root == root
            assert_exact(store.search(QUERY, 5), vectors, QUERY, 5)
            assert not store.damage


def test_an_index_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot make the index folder") as caught:
        Store.create(tmp_path / "file" / "index", tmp_path, fake_spec())
    assert "--index" in caught.value.hint
    with pytest.raises(StoreError, match="cannot make the index folder"):
        Store.create(tmp_path / "index", tmp_path / "no such root", fake_spec())


# -- where the images are ----------------------------------------------------------------------


def test_an_index_inside_its_folder_travels_with_it(root: Path, tmp_path: Path) -> None:
    with Store.create(root / FOLDER, root, fake_spec()) as store:
        vectors = add(store, pictures(30))
        store.update_vector_index()
    (tmp_path / "disk").mkdir()
    moved = tmp_path / "disk" / "renamed"
    os.rename(root, moved)
    with Store.open(moved / FOLDER) as store:
        assert store.root == moved
        hits = store.search(QUERY, 5)
        assert {hit.root for hit in hits} == {moved}
        assert_exact(hits, vectors, QUERY, 5)
        assert not store.damage
    assert os.fsencode(root) not in (moved / FOLDER / CATALOG).read_bytes()


def test_an_index_elsewhere_remembers_where_its_pictures_are(root: Path, tmp_path: Path) -> None:
    Store.create(tmp_path / "index", root, fake_spec()).close()
    os.rename(tmp_path / "index", tmp_path / "moved")
    with Store.open(tmp_path / "moved") as store:
        assert store.root == root
        assert store.directory == tmp_path / "moved"


@pytest.mark.skipif(sys.platform == "win32", reason="no permissions of that kind there")
@pytest.mark.parametrize("mode", [0o500, 0o555, 0o700, 0o750])
def test_the_index_folder_is_as_private_as_the_pictures_and_its_owners_to_write(
    root: Path, tmp_path: Path, mode: int
) -> None:
    before = os.umask(0o022)
    try:
        root.chmod(mode)
        Store.create(tmp_path / "index", root, fake_spec()).close()
    finally:
        os.umask(before)
        root.chmod(0o700)
    assert (tmp_path / "index").stat().st_mode & 0o777 == mode | 0o700


@pytest.mark.skipif(sys.platform == "win32", reason="no permissions of that kind there")
@pytest.mark.parametrize("mode", [0o700, 0o750])
def test_in_a_folder_that_is_open_to_more_people_the_files_are_as_private_as_the_pictures(
    root: Path, tmp_path: Path, mode: int
) -> None:
    index = tmp_path / "index"
    index.mkdir(mode=0o755)
    root.chmod(mode)
    before = os.umask(0o022)
    try:
        with Store.create(index, root, fake_spec()) as store:
            add(store, forest(40))
            store.update_vector_index(lambda: texts_for(20), cluster_from=20)
            with store.batch():
                store.add(forest(4, start=40))
                names = {path.name for path in index.iterdir()}
                assert {CATALOG, f"{CATALOG}-journal", VECTORS} <= names
                for path in index.iterdir():
                    if not path.name.startswith("writer"):  # which tell of no image
                        assert path.stat().st_mode & 0o777 == mode & 0o644
    finally:
        os.umask(before)


# -- reading where nothing can be written --------------------------------------------------------


def test_reading_writes_nothing(writer: Store, directory: Path) -> None:
    vectors = add(writer, forest(40))
    writer.update_vector_index()
    add(writer, forest(2, start=40))
    writer.close()
    before = snapshot(directory)
    with Store.open(directory) as reader:
        assert snapshot(directory) == before
        vectors |= vectors_of(forest(2, start=40))
        check(reader, vectors)
        reader.known(b"sub")
        reader.status()
        reader.find_content(b"x")
        assert snapshot(directory) == before
        with pytest.raises(StoreError), reader.batch():
            reader.add(pictures(1))
    assert snapshot(directory) == before


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write anywhere: for a moment, be someone else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="no permissions of that kind there")
def test_a_folder_that_cannot_be_written_to_can_be_searched() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "photos"
        root.mkdir()
        with Store.create(root / FOLDER, root, fake_spec()) as store:
            vectors = add(store, forest(40))
            store.update_vector_index()
            vectors |= add(store, forest(2, start=40))
        for folder, mode in ((Path(name), 0o755), (root, 0o555), (root / FOLDER, 0o555)):
            folder.chmod(mode)
        for file in (root / FOLDER).iterdir():
            file.chmod(0o444)
        before = snapshot(root / FOLDER)
        try:
            with unprivileged():
                if not os.access(root, os.R_OK, effective_ids=True):
                    pytest.skip("the temporary folder is root's alone")
                with Store.open(root / FOLDER) as reader:
                    check(reader, vectors)
                    assert not reader.damage
                with pytest.raises(StoreError, match="cannot write to the index folder"):
                    Store.open_for_writing(root / FOLDER)
                with pytest.raises(StoreError, match="cannot make the index folder") as caught:
                    Store.create(root / "new", root, fake_spec())
                assert "--index" in caught.value.hint
        finally:
            for folder in (root, root / FOLDER):
                folder.chmod(0o755)
        assert snapshot(root / FOLDER) == before


# -- rebuilding ----------------------------------------------------------------------------------


def rebuilt(store: Store, vectors: dict[bytes, Vectors]) -> Store:
    """A finished rebuild with another model of another dimension."""
    other = Store.create(
        store.directory / REBUILD, store.root, fake_spec(24, fingerprint="b" * 64, name="new")
    )
    with other.batch():
        other.add(picture(path, 9000 + n, dim=24) for n, path in enumerate(vectors))
    other.update_vector_index()
    return other


def new_vectors(vectors: dict[bytes, Vectors]) -> dict[bytes, Vectors]:
    return {path: unit(9000 + n, 24) for n, path in enumerate(vectors)}


@pytest.mark.parametrize("inside", [True, False])
def test_a_rebuild_takes_the_place_of_the_old_index(
    root: Path, tmp_path: Path, inside: bool
) -> None:
    directory = root / FOLDER if inside else tmp_path / "index"
    store = Store.create(directory, root, fake_spec())
    vectors = add(store, forest(60))
    store.update_vector_index()
    other = rebuilt(store, vectors)
    with Store.open(directory) as reader:
        assert reader.spec == fake_spec()
        check(reader, vectors)
        store.replace_with(other)
    assert sorted(os.listdir(directory)) == sorted([CATALOG, VECTORS, LOCK])
    if inside:  # and it still travels
        os.rename(root, tmp_path / "moved")
        root, directory = tmp_path / "moved", tmp_path / "moved" / FOLDER
    with Store.open_for_writing(directory) as again:
        assert again.root == root
        assert again.spec == fake_spec(24, fingerprint="b" * 64, name="new")
        query = unit(5, 24)
        assert_exact(again.search(query, 9), new_vectors(vectors), query, 9)
        assert not again.damage


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be replaced there")
def test_a_reader_of_the_old_index_is_not_disturbed_by_a_rebuild(
    writer: Store, directory: Path
) -> None:
    vectors = add(writer, forest(60))
    writer.update_vector_index()
    other = rebuilt(writer, vectors)
    with Store.open(directory) as early:
        writer.replace_with(other)
        check(early, vectors)
    with Store.open(directory) as late:
        assert late.spec.name == "new"


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_rebuild_that_cannot_be_put_in_place_leaves_a_whole_index(
    writer: Store, directory: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    vectors = add(writer, forest(60))
    writer.update_vector_index()
    other = rebuilt(writer, vectors)
    replace, calls = os.replace, []

    def fail_once(*arguments: Path) -> None:
        calls.append(arguments)
        if len(calls) == fails_at:
            raise PermissionError(13, "Permission denied")
        replace(*arguments)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(StoreError, match="cannot replace the old index"):
        writer.replace_with(other)
    with Store.open_for_writing(directory) as after:
        if fails_at == 1:
            check(after, vectors)
        else:  # the new catalog beside the old FAISS file
            query = unit(5, 24)
            assert_exact(after.search(query, 9), new_vectors(vectors), query, 9)
            after.update_vector_index()
            assert_exact(after.search(query, 9), new_vectors(vectors), query, 9)
            assert not after.damage


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_rebuild_replaces_even_an_index_whose_last_writer_was_killed(
    writer: Store, directory: Path
) -> None:
    """A journal left beside the new catalog would be rolled back into it, and ruin it."""
    vectors = add(writer, forest(60))
    writer.close()
    with holder(directory, "spilling") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (directory / f"{CATALOG}-journal").exists()
    with Store.open_for_writing(directory) as store:
        store.replace_with(rebuilt(store, vectors))
    with Store.open(directory) as after:
        query = unit(5, 24)
        assert_exact(after.search(query, 9), new_vectors(vectors), query, 9)


# -- telling -------------------------------------------------------------------------------------


def test_status_counts_what_is_there(writer: Store, root: Path, directory: Path) -> None:
    add(writer, pictures(40))
    writer.update_vector_index()
    add(writer, pictures(1, start=40))
    with writer.batch():
        writer.add_failed(ImageFile(b"bad", 1, 1), "why")
    with Store.open(directory) as reader:
        status = reader.status()
    assert (status.root, status.directory, status.spec) == (root, directory, fake_spec())
    assert (status.images, status.pending, status.failed) == (41, 1, [(b"bad", "why")])
    assert status.catalog_bytes == (directory / CATALOG).stat().st_size
    assert status.vector_bytes == (directory / VECTORS).stat().st_size
    assert status.created_at <= status.updated_at
    assert status.created_at.endswith("+00:00")


def test_an_index_copied_out_of_its_folder_does_not_guess_where_the_pictures_are(
    root: Path, tmp_path: Path
) -> None:
    with Store.create(root / FOLDER, root, fake_spec()) as store:
        add(store, pictures(3))
    copy = shutil.copytree(root / FOLDER, tmp_path / "elsewhere" / "index")
    with Store.open(copy) as store, pytest.raises(IndexUnreadable, match="copied out") as caught:
        store.require_root()
    assert FOLDER in caught.value.hint
    travelled = shutil.copytree(root / FOLDER, tmp_path / "travelled" / FOLDER)
    with Store.open(travelled) as store:  # it moved together with its images
        store.require_root()
        assert store.root == tmp_path / "travelled"


def test_the_newest_are_those_taken_or_modified_last(tmp_path: Path) -> None:
    taken = ["2024-05-31T12:00:00", None, "2020-01-01T00:00:00", "2031-01-01T00:00:00"]
    with Store.create(tmp_path / FOLDER, tmp_path, fake_spec()) as store:
        with store.batch():
            for n, when in enumerate(taken):
                one = picture(b"%d.png" % n, n)
                modified = one.file._replace(mtime_ns=1_577_000_000 * 10**9)  # in December 2019
                store.add([replace(one, file=modified, taken_at=when)])
        found = store.newest(9)
        assert [hit.path for _, hit in found] == [b"3.png", b"0.png", b"2.png", b"1.png"]
        assert [when[:4] for when, _ in found] == ["2031", "2024", "2020", "2019"]
        assert all(math.isnan(hit.score) for _, hit in found)
        assert [hit.path for _, hit in store.newest(2)] == [b"3.png", b"0.png"]
        filtered = store.newest(1, Filter(before="2030"))
        assert [hit.path for _, hit in filtered] == [b"0.png"]
