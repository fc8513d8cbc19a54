"""The index folder: exact at every moment, whole after every accident, and able to travel."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest
from conftest import ROOT
from fakes import (
    DIM,
    assert_exact,
    clustered,
    fake_spec,
    half,
    picture,
    texts_for,
    unit,
    unsynchronised,
    vectors_of,
)

from clipsearch.errors import (
    IndexLocked,
    IndexNotFound,
    IndexUnreadable,
    ModelMismatch,
    StoreError,
)
from clipsearch.records import EmbeddedImage, Filter, ImageFile, KnownImage, Vectors
from clipsearch.storage import catalog as store_module
from clipsearch.storage.catalog import CATALOG, FOLDER, LOCK, REBUILD, VECTORS, Store
from clipsearch.vectors import top_k

QUERY = unit(1_000_000)


def pictures(count: int, start: int = 0, folder: bytes = b"") -> list[EmbeddedImage]:
    return [picture(folder + b"%04d.png" % n, n) for n in range(start, start + count)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.fixture
def directory(root: Path) -> Path:
    return root / FOLDER


@pytest.fixture
def writer(root: Path, directory: Path) -> Iterator[Store]:
    with unsynchronised(Store.create(directory, root, fake_spec())) as store:
        yield store


def add(store: Store, images: list[EmbeddedImage]) -> dict[bytes, Vectors]:
    with store.batch():
        store.add(images)
    return vectors_of(images)


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Name -> modification time and content, of all that a folder holds."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.iterdir()}


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
    assert store_module._uri(path) == uri


# -- where the pictures are ----------------------------------------------------------------------


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
                    if not path.name.startswith("writer"):  # which tell of no picture
                        assert path.stat().st_mode & 0o777 == mode & 0o644
    finally:
        os.umask(before)


# -- changing ------------------------------------------------------------------------------------


def test_an_id_is_never_used_twice(writer: Store, directory: Path) -> None:
    seen: set[int] = set()
    for turn in range(4):
        add(writer, pictures(3, start=3 * turn))
        ids = {entry.id for entry in writer.known().values()}
        assert not ids & seen
        seen |= ids
        with writer.batch():
            writer.remove(list(writer.known()))
        if turn == 1:
            writer.close()
            writer = Store.open_for_writing(directory)
    writer.close()
    assert len(seen) == 12


def test_a_replaced_picture_gets_a_new_id_and_only_its_new_vector(writer: Store) -> None:
    add(writer, [picture(b"a", 1), picture(b"b", 2)])
    old = writer.known()[b"a"].id
    add(writer, [picture(b"a", 3)])
    new = writer.known()[b"a"].id
    assert new > old
    with pytest.raises(KeyError):
        writer.vector(old)
    np.testing.assert_array_equal(writer.vector(new), half(unit(3)))
    assert writer.find_content(picture(b"a", 1).content_hash) == []
    assert len(writer.search(QUERY, 10)) == 2


def test_of_two_pictures_with_one_path_in_a_batch_the_later_counts(writer: Store) -> None:
    vectors = add(writer, [picture(b"a", 1), picture(b"a", 2)])
    assert_exact(writer.search(unit(2), 5), vectors, unit(2), 5)


def test_a_copy_is_a_second_picture_with_the_same_vector(writer: Store) -> None:
    add(writer, [picture(b"a", 1)])
    source = writer.known()[b"a"].id
    with writer.batch():
        writer.add_copy(ImageFile(b"b", 9, 10), source)
    known = writer.known()
    assert known[b"b"] == KnownImage(known[b"b"].id, 9, 10, failed=False)
    assert known[b"b"].id != source
    np.testing.assert_array_equal(writer.vector(known[b"b"].id), writer.vector(source))
    assert writer.find_content(picture(b"a", 1).content_hash) == [
        (source, b"a"),
        (known[b"b"].id, b"b"),
    ]
    first, second = writer.search(unit(1), 5)
    assert {first.path, second.path} == {b"a", b"b"}
    assert (first.width, first.height) == (second.width, second.height)


def test_a_copy_over_another_picture_takes_its_place(writer: Store) -> None:
    add(writer, [picture(b"a", 1), picture(b"b", 2)])
    with writer.batch():
        writer.add_copy(ImageFile(b"b", 1, 1), writer.known()[b"a"].id)
    vectors = {b"a": unit(1), b"b": unit(1)}
    assert_exact(writer.search(unit(2), 5), vectors, unit(2), 5)


def test_a_moved_picture_keeps_its_id_and_vector(writer: Store) -> None:
    add(writer, [picture(b"a", 1)])
    id = writer.known()[b"a"].id
    with writer.batch():
        writer.move(id, ImageFile(b"sub/new", 77, 88))
    assert writer.known() == {b"sub/new": KnownImage(id, 77, 88, failed=False)}
    np.testing.assert_array_equal(writer.vector(id), half(unit(1)))
    assert [hit.path for hit in writer.search(QUERY, 5)] == [b"sub/new"]


def test_a_touched_picture_is_moved_onto_itself(writer: Store) -> None:
    add(writer, [picture(b"a", 1)])
    id = writer.known()[b"a"].id
    with writer.batch():
        writer.move(id, ImageFile(b"a", 1001, 999))
    assert writer.known() == {b"a": KnownImage(id, 1001, 999, failed=False)}


def test_a_picture_that_moves_onto_another_takes_its_place(writer: Store) -> None:
    add(writer, [picture(b"a", 1), picture(b"b", 2)])
    id = writer.known()[b"a"].id
    with writer.batch():
        writer.move(id, ImageFile(b"b", 1, 1))
    assert list(writer.known()) == [b"b"]
    assert_exact(writer.search(unit(2), 5), {b"b": unit(1)}, unit(2), 5)


def test_a_failed_file_is_known_and_never_found(writer: Store) -> None:
    add(writer, [picture(b"a", 1), picture(b"b", 2)])
    with writer.batch():
        writer.add_failed(ImageFile(b"a", 5, 6), "the file is empty")
        writer.add_failed(ImageFile(b"c", 7, 8), "damaged picture (x)")
    known = writer.known()
    assert [known[path].failed for path in (b"a", b"b", b"c")] == [True, False, True]
    assert (known[b"a"].size, known[b"a"].mtime_ns) == (5, 6)
    assert writer.find_content(picture(b"a", 1).content_hash) == []
    assert [hit.path for hit in writer.search(QUERY, 5)] == [b"b"]
    status = writer.status()
    assert status.images == 1
    assert status.failed == [(b"a", "the file is empty"), (b"c", "damaged picture (x)")]


def test_a_failed_file_that_is_mended_is_found(writer: Store) -> None:
    with writer.batch():
        writer.add_failed(ImageFile(b"a", 5, 6), "the file is empty")
    add(writer, [picture(b"a", 1)])
    assert not writer.known()[b"a"].failed
    assert writer.status().failed == []
    assert [hit.path for hit in writer.search(QUERY, 5)] == [b"a"]


def test_removed_pictures_are_gone_with_their_vectors(writer: Store) -> None:
    vectors = add(writer, pictures(10))
    gone = writer.known()[b"0003.png"].id
    with writer.batch():
        writer.remove([b"0003.png", b"never there"])
    del vectors[b"0003.png"]
    assert set(writer.known()) == set(vectors)
    with pytest.raises(KeyError):
        writer.vector(gone)
    assert_exact(writer.search(QUERY, 20), vectors, QUERY, 20)


def test_content_is_found_only_where_it_is(writer: Store) -> None:
    assert writer.find_content(b"x" * 20) == []
    add(writer, [picture(b"a", 1), picture(b"b", 2), picture(b"c", 1)])
    found = writer.find_content(picture(b"", 1).content_hash)
    assert [path for _, path in found] == [b"a", b"c"]


# -- one folder of many --------------------------------------------------------------------------

NEIGHBOURS = [
    *(b"a", b"a/1", b"a/b/2", b"a/\xff", b"a/0"),
    *(b"ab", b"ab/3", b"a0", b"a0/4", b"a.png", b"a!/5", b"a-b/6", b"A/7", b"b/a/8"),
]


@pytest.mark.parametrize("under", [b"a", b"a/b", b"ab", b"a0", b"b/a", b"b", b"A", b"none", b"a/1"])
@pytest.mark.parametrize("in_file", [False, True])
def test_under_means_the_folder_and_none_of_its_namesakes(
    writer: Store, under: bytes, in_file: bool
) -> None:
    images = [picture(path, n) for n, path in enumerate(NEIGHBOURS)]
    add(writer, images)
    if in_file:
        writer.update_vector_index()
    expected = {path for path in NEIGHBOURS if path == under or path.startswith(under + b"/")}
    assert set(writer.known(under)) == expected
    assert {hit.path for hit in writer.search(QUERY, 99, Filter(under))} == expected
    assert set(writer.known()) == set(NEIGHBOURS)


# -- searching at every stage of life ------------------------------------------------------------


def check(store: Store, vectors: dict[bytes, Vectors]) -> None:
    """Every search that this store answers is exact."""
    for seed in range(2):
        query = unit(2_000_000 + seed)
        for k in (1, 10, len(vectors) + 5):
            assert_exact(store.search(query, k), vectors, query, k)
        for under in (b"sub", b"sub/deep", b"none"):
            assert_exact(store.search(query, 7, Filter(under)), vectors, query, 7, under)


def forest(count: int, start: int = 0) -> list[EmbeddedImage]:
    folders = (b"", b"sub/", b"sub/deep/", b"subway/")
    return [picture(folders[n % 4] + b"%d.png" % n, n) for n in range(start, start + count)]


def test_search_is_exact_at_every_stage_of_a_collections_life(
    writer: Store, directory: Path
) -> None:
    vectors = add(writer, forest(120))
    check(writer, vectors)
    assert not (directory / VECTORS).exists()

    writer.update_vector_index()
    check(writer, vectors)
    with Store.open(directory) as reader:
        check(reader, vectors)
        assert reader.damage == ""

        vectors |= add(writer, forest(5, start=120))  # rows newer than the file
        check(writer, vectors)
        check(reader, vectors)

        best = [hit.path for hit in writer.search(QUERY, 60)]
        with writer.batch():
            writer.remove(best)  # and most of the file's rows are gone
        vectors = {path: vector for path, vector in vectors.items() if path not in best}
        assert_exact(writer.search(QUERY, 5), vectors, QUERY, 5)
        check(writer, vectors)
        check(reader, vectors)

        changed = [picture(path, 5000 + n) for n, path in enumerate(list(vectors)[:20])]
        vectors |= add(writer, changed)
        check(writer, vectors)
        check(reader, vectors)

        before = (directory / VECTORS).read_bytes()
        writer.update_vector_index()
        assert (directory / VECTORS).read_bytes() != before
        check(writer, vectors)
        check(reader, vectors)  # which still has the old file mapped
    with Store.open(directory) as reader:
        check(reader, vectors)
        assert reader.damage == ""


def test_search_among_equals_goes_by_id(writer: Store) -> None:
    """Identical files have equal scores: they come in the same order on every run."""
    vector = np.zeros(DIM, np.float32)
    vector[0] = 1
    first = EmbeddedImage(ImageFile(b"z", 1, 1), b"h" * 20, 1, 1, None, vector)
    add(writer, [first])
    source = writer.known()[b"z"].id
    with writer.batch():
        for name in (b"y", b"x", b"w"):
            writer.add_copy(ImageFile(name, 1, 1), source)
    for _ in range(2):
        assert [hit.path for hit in writer.search(vector, 9)] == [b"z", b"y", b"x", b"w"]
        writer.update_vector_index()


def test_nothing_is_left_when_all_is_removed(writer: Store, directory: Path) -> None:
    add(writer, forest(30))
    writer.update_vector_index()
    with writer.batch():
        writer.remove(list(writer.known()))
    assert writer.search(QUERY, 5) == []
    writer.update_vector_index()
    assert writer.search(QUERY, 5) == []
    vectors = add(writer, forest(3, start=50))
    check(writer, vectors)


def damaged(path: Path, how: str) -> None:
    whole = path.read_bytes()
    match how:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "garbage":
            path.write_bytes(random.Random(1).randbytes(5000))
        case "swapped bytes":
            path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        case "a folder":
            path.unlink()
            path.mkdir()


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "garbage", "swapped bytes", "a folder"])
def test_a_damaged_faiss_file_costs_no_result_and_is_mended(
    writer: Store, directory: Path, how: str
) -> None:
    vectors = add(writer, forest(60))
    writer.update_vector_index()
    vectors |= add(writer, forest(2, start=60))
    damaged(directory / VECTORS, how)
    with Store.open(directory) as reader:
        check(reader, vectors)
        assert reader.damage
        assert reader.status().pending == 62
    if how == "a folder":
        with pytest.raises(StoreError, match="cannot write"):
            writer.update_vector_index()
        check(writer, vectors)
        return
    writer.update_vector_index()
    with Store.open(directory) as reader:
        check(reader, vectors)
        assert not reader.damage
        assert reader.status().pending == 0


def test_the_faiss_file_of_another_collection_is_not_believed(
    writer: Store, directory: Path, tmp_path: Path
) -> None:
    vectors = add(writer, forest(60))
    with Store.create(tmp_path / "other", tmp_path, fake_spec()) as other:
        add(other, [picture(b"%d" % n, 900 + n) for n in range(60)])
        other.update_vector_index()
    shutil.copy(tmp_path / "other" / VECTORS, directory / VECTORS)
    with Store.open(directory) as reader:
        check(reader, vectors)
        assert reader.damage


def test_a_catalogue_out_of_a_backup_does_not_believe_the_faiss_file_from_after_it(
    directory: Path, writer: Store
) -> None:
    """The ids it mints anew are in that file already, with other pictures' vectors."""
    vectors = add(writer, forest(60))
    writer.update_vector_index()
    backup = (directory / CATALOG).read_bytes()
    add(writer, forest(60, start=60))
    with writer.batch():
        writer.remove([forest(1)[0].file.path])
    writer.update_vector_index()
    writer.close()

    (directory / CATALOG).write_bytes(backup)
    with Store.open(directory) as reader:
        check(reader, vectors)
    with Store.open_for_writing(directory) as again:
        for batch in range(6):
            vectors |= add(
                again, [picture(b"%d/%d" % (batch, n), 7000 + 10 * batch + n) for n in range(10)]
            )
            check(again, vectors)
        again.update_vector_index()
        check(again, vectors)
        assert not again.damage


def test_a_copy_made_between_the_two_files_is_searched_exactly(
    directory: Path, writer: Store, tmp_path: Path
) -> None:
    vectors = add(writer, forest(60))
    writer.update_vector_index()
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(directory / VECTORS, copy)
    vectors |= add(writer, forest(60, start=60))
    writer.update_vector_index()
    shutil.copy(directory / CATALOG, copy)
    with Store.open(copy) as reader:
        check(reader, vectors)
        assert reader.damage


# -- when the FAISS file is written --------------------------------------------------------------


def test_the_faiss_file_is_written_only_when_much_has_changed(
    writer: Store, directory: Path
) -> None:
    add(writer, pictures(100))
    writer.update_vector_index()
    first = snapshot(directory)[VECTORS]
    writer.update_vector_index()
    assert snapshot(directory)[VECTORS] == first

    add(writer, pictures(3, start=100))
    writer.update_vector_index()
    assert snapshot(directory)[VECTORS] == first
    assert writer.status().pending == 3

    with writer.batch():
        writer.remove([b"0000.png", b"0001.png"])
    writer.update_vector_index()  # 3 newer and 2 gone of 101
    assert snapshot(directory)[VECTORS] == first

    with writer.batch():
        writer.remove([b"0002.png"])
    writer.update_vector_index()  # 6 of 100
    assert snapshot(directory)[VECTORS] != first
    assert writer.status().pending == 0


def test_a_small_collections_first_pictures_are_written_at_once(
    writer: Store, directory: Path
) -> None:
    add(writer, pictures(1))
    writer.update_vector_index()
    assert (directory / VECTORS).is_file()
    assert writer.status().pending == 0


def test_a_faiss_file_that_cannot_be_written_loses_nothing(
    writer: Store, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = add(writer, forest(60))
    writer.update_vector_index()
    before = snapshot(directory)[VECTORS]
    vectors |= add(writer, forest(60, start=60))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, step, fail)
            with pytest.raises(StoreError, match="No space left") as caught:
                writer.update_vector_index()
        assert "No picture is lost" in caught.value.hint
        assert snapshot(directory)[VECTORS] == before
        check(writer, vectors)
        with Store.open(directory) as reader:
            check(reader, vectors)
            assert not reader.damage
    writer.update_vector_index()
    assert writer.status().pending == 0


# -- clusters ------------------------------------------------------------------------------------


def kinds_of_pictures(count: int, seed: int = 0, name: bytes = b"") -> list[EmbeddedImage]:
    """Pictures that fall into clusters."""
    return [
        replace(picture(name + b"%d.png" % n, n), vector=vector)
        for n, vector in enumerate(clustered(count, seed=seed))
    ]


def no_texts() -> Vectors:
    raise AssertionError("there is nothing to measure")


def texts() -> Vectors:
    return texts_for(100)


def recall(store: Store, vectors: dict[bytes, Vectors]) -> float:
    paths, rows = list(vectors), half(np.stack(list(vectors.values())))
    shares = []
    for query in texts()[1::2]:
        best, _ = top_k(query, np.arange(len(paths)), rows, 10)
        found = {hit.path for hit in store.search(query, 10)}
        shares.append(len(found & {paths[n] for n in best}) / 10)
    return float(np.mean(shares))


@pytest.mark.parametrize(
    ("cluster_from", "clustered_at"), [(1999, True), (2000, True), (2001, False)]
)
def test_a_collection_is_ordered_by_cluster_from_a_certain_size_on(
    writer: Store, directory: Path, cluster_from: int, clustered_at: bool
) -> None:
    vectors = add(writer, kinds_of_pictures(2000))
    queries = texts if clustered_at else no_texts
    told: list[tuple[str, int, int]] = []
    writer.update_vector_index(
        queries, cluster_from=cluster_from, progress=lambda *what: told.append(what)
    )
    assert told[0][0] == "writing vectors"
    assert (("finding clusters", 2000, 2000) in told) == clustered_at
    assert all(0 <= done <= total == 2000 for _, done, total in told)
    assert told == sorted(told, key=lambda what: (what[0] != "writing vectors", what[1]))
    with Store.open(directory) as reader:
        clusters = reader.status().clusters
        if clustered_at:
            assert clusters is not None
            assert clusters.lists > clusters.probed > 0
            assert clusters.recall >= 0.99
            assert recall(reader, vectors) == pytest.approx(clusters.recall)
        else:
            assert clusters is None
            assert_exact(reader.search(texts()[0], 10), vectors, texts()[0], 10)
        assert_exact(reader.search(QUERY, 10, exact=True), vectors, QUERY, 10)


def test_texts_are_asked_for_only_where_a_file_is_to_be_written(writer: Store) -> None:
    add(writer, kinds_of_pictures(2000))
    writer.update_vector_index(texts, cluster_from=1000)
    clusters = writer.status().clusters
    writer.update_vector_index(no_texts, cluster_from=1000)
    add(writer, kinds_of_pictures(50, seed=3, name=b"few"))
    writer.update_vector_index(no_texts, cluster_from=1000)
    status = writer.status()
    assert (status.clusters, status.pending) == (clusters, 50)


def test_a_file_that_was_mended_without_texts_is_ordered_by_the_next_update_that_has_them(
    writer: Store, directory: Path
) -> None:
    vectors = add(writer, kinds_of_pictures(2000))
    writer.update_vector_index(texts, cluster_from=1000)
    (directory / VECTORS).unlink()
    writer.update_vector_index()
    assert writer.status().clusters is None
    assert_exact(writer.search(texts()[0], 10), vectors, texts()[0], 10)
    writer.update_vector_index(texts, cluster_from=1000)
    assert writer.status().clusters is not None


def test_clusters_that_are_not_worth_it_are_not_tried_at_every_update(writer: Store) -> None:
    vectors = add(writer, pictures(60))
    writer.update_vector_index(lambda: np.stack([unit(n) for n in range(40)]), cluster_from=50)
    clusters = writer.status().clusters
    assert clusters is not None
    assert clusters.lists == 0
    check(writer, vectors)
    writer.update_vector_index(no_texts, cluster_from=50)


def test_with_clusters_what_is_newer_is_found_and_what_is_gone_is_not(writer: Store) -> None:
    vectors = add(writer, kinds_of_pictures(2000))
    writer.update_vector_index(texts, cluster_from=1000)
    assert writer.status().clusters is not None
    newer = add(writer, kinds_of_pictures(60, seed=2, name=b"newer"))
    vectors |= newer
    gone = [hit.path for query in texts()[:6] for hit in writer.search(query, 12)]
    with writer.batch():
        writer.remove(gone)
    for path in gone:
        vectors.pop(path, None)
    assert recall(writer, vectors) >= 0.98
    for path, vector in newer.items():
        if path in vectors:
            assert writer.search(vector, 1)[0].path.startswith(b"newer")
    for query in texts()[:6]:
        assert len(writer.search(query, 10)) == 10
        assert_exact(writer.search(query, 10, exact=True), vectors, query, 10)


def test_a_model_that_fails_before_the_clusters_are_made_costs_nothing(
    writer: Store, directory: Path
) -> None:
    vectors = add(writer, forest(60))
    writer.update_vector_index()
    before = snapshot(directory)

    def fail() -> Vectors:
        raise ModelMismatch("other weights")

    with pytest.raises(ModelMismatch):
        writer.update_vector_index(fail, cluster_from=50)
    assert snapshot(directory) == before
    check(writer, vectors)


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
    assert "Make room" in caught.value.hint
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


# -- one writer, many readers --------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from fakes import picture
from clipsearch.storage.catalog import Store
store = Store.open_for_writing(Path(sys.argv[1]))
if sys.argv[3] == "spilling":  # a transaction so large that it has begun to write
    store._db.execute("PRAGMA cache_spill = 5")
    store._db.execute("PRAGMA cache_size = 5")
store._db.execute("BEGIN IMMEDIATE")
store.add(picture(b"uncommitted/%d" % n, 100_000 + n) for n in range(500))
store.remove([b"0.png"])
print("ready", flush=True)
time.sleep(60)
"""


@contextmanager
def holder(directory: Path, mode: str = "") -> Iterator["subprocess.Popen[bytes]"]:
    """Another process, in the middle of a batch."""
    here = os.fspath(ROOT / "tests")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, directory, here, mode], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


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
    monkeypatch.setattr(store_module, "_BUSY_SECONDS", 0.1)
    writer._db.execute("PRAGMA cache_size = 10")  # pages; the batch below needs many more
    with writer.batch():
        writer.add(forest(3000, start=40))
        with Store.open(directory) as reader:
            check(reader, vectors)
    assert len(writer.known()) == 3040


def test_readers_never_fail_and_never_see_half_a_batch(writer: Store, directory: Path) -> None:
    """Batches of three pictures in one direction, while a reader searches without a pause."""
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
    monkeypatch.setattr(store_module, "_BUSY_SECONDS", 0.05)
    with Store.open(directory) as reader:
        writer._db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(IndexLocked, match="busy"):
            reader.search(QUERY, 1)
        writer._db.execute("ROLLBACK")
        assert reader.search(QUERY, 1) == []


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


# -- indexes that cannot be used -----------------------------------------------------------------


@pytest.mark.parametrize("opener", [Store.open, Store.open_for_writing])
def test_an_index_of_a_newer_clipsearch_is_left_as_it_is(
    writer: Store, directory: Path, opener: Callable[[Path], Store]
) -> None:
    add(writer, pictures(3))
    writer.close()
    connection = sqlite3.connect(directory / CATALOG)
    connection.execute(f"PRAGMA user_version = {store_module.SCHEMA_VERSION + 1}")
    connection.close()
    before = snapshot(directory)
    with pytest.raises(IndexUnreadable, match="newer clipsearch") as caught:
        opener(directory)
    assert "Upgrade" in caught.value.hint
    assert snapshot(directory) == before


@pytest.mark.parametrize("opener", [Store.open, Store.open_for_writing])
@pytest.mark.parametrize("content", [b"\0" * 5000, b"not a database " * 500])
def test_what_is_no_catalogue_is_unreadable(
    tmp_path: Path, opener: Callable[[Path], Store], content: bytes
) -> None:
    (tmp_path / CATALOG).write_bytes(content)
    with pytest.raises(IndexUnreadable) as caught:
        opener(tmp_path)
    assert caught.value.hint
    assert (tmp_path / CATALOG).read_bytes() == content


@pytest.mark.parametrize("begun", [b"", b"SQLite"])
def test_an_index_whose_writer_was_killed_before_its_first_commit_is_made_anew(
    tmp_path: Path, begun: bytes
) -> None:
    if begun:  # an empty database of one page, as a rolled-back journal leaves it
        connection = sqlite3.connect(tmp_path / CATALOG)
        connection.execute("VACUUM")
        connection.close()
    else:
        (tmp_path / CATALOG).touch()
    with pytest.raises(IndexNotFound):
        Store.open_for_writing(tmp_path)
    with Store.create(tmp_path, tmp_path, fake_spec()) as store:
        assert store.known() == {}


@pytest.mark.parametrize("version", [0, store_module.SCHEMA_VERSION])
def test_another_programs_database_is_unreadable(tmp_path: Path, version: int) -> None:
    connection = sqlite3.connect(tmp_path / CATALOG)
    connection.execute("CREATE TABLE notes (text)")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.commit()
    connection.close()
    with pytest.raises(IndexUnreadable):
        Store.open(tmp_path)


MODELS = [
    *(None, "", "{", "[]", "{}", 5, b"\xff", '"text"', "null"),
    fake_spec().to_json().replace('"name": "fake"', '"name": 5'),
    fake_spec().to_json().replace("[8, 8]", '["8", 8]'),
    fake_spec().to_json().replace('"embed_dim": 16', '"embed_dim": "16"'),
    fake_spec().to_json().replace('"embed_dim": 16', '"embed_dim": 0'),
    fake_spec().to_json().replace('{"embed_dim": 16}', "16"),
]


@pytest.mark.parametrize("model", MODELS)
def test_a_catalogue_that_does_not_tell_its_model_is_unreadable(
    writer: Store, directory: Path, model: object
) -> None:
    with writer.batch():
        writer._db.execute("UPDATE meta SET value = ? WHERE key = 'model'", (model,))
    with pytest.raises(IndexUnreadable, match="which model"):
        Store.open(directory)


@pytest.mark.parametrize("key", ["root", "vector_file", "created_at", "updated_at"])
def test_a_catalogue_that_lacks_something_else_is_unreadable(
    writer: Store, directory: Path, key: str
) -> None:
    for change in ("UPDATE meta SET value = 5 WHERE key = ?", "DELETE FROM meta WHERE key = ?"):
        writer._db.execute(change, (key,))
        with pytest.raises(IndexUnreadable, match=f"does not tell its {key}") as caught:
            Store.open(directory)
        assert os.fspath(directory) in caught.value.hint


def test_a_catalogue_that_is_cut_short_is_unreadable(writer: Store, directory: Path) -> None:
    add(writer, forest(400))
    writer.close()
    whole = (directory / CATALOG).read_bytes()
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        (directory / CATALOG).write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(IndexUnreadable) as caught, Store.open(directory) as reader:
            reader.search(QUERY, 3)
        assert os.fspath(directory) in caught.value.hint


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


def test_an_index_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot make the index folder") as caught:
        Store.create(tmp_path / "file" / "index", tmp_path, fake_spec())
    assert "--index" in caught.value.hint
    with pytest.raises(StoreError, match="cannot make the index folder"):
        Store.create(tmp_path / "index", tmp_path / "no such root", fake_spec())


# -- the model -----------------------------------------------------------------------------------


def test_another_model_is_refused_and_nothing_changes(writer: Store, directory: Path) -> None:
    vectors = add(writer, forest(10))
    before = (directory / CATALOG).read_bytes()
    with pytest.raises(ModelMismatch) as caught, writer.batch():
        writer.set_spec(fake_spec(fingerprint="a" * 64, name="other"))
    assert "--rebuild" in caught.value.hint
    assert "fake" in str(caught.value)
    assert "other" in str(caught.value)
    assert writer.spec == fake_spec()
    assert (directory / CATALOG).read_bytes() == before
    check(writer, vectors)


def test_the_same_model_under_another_name_is_noted(writer: Store, directory: Path) -> None:
    vectors = add(writer, forest(10))
    with writer.batch():
        writer.set_spec(fake_spec(name="/new/place"))
    assert writer.spec.name == "/new/place"
    with Store.open(directory) as reader:
        assert reader.spec == fake_spec(name="/new/place")
        check(reader, vectors)


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
        else:  # the new catalogue beside the old FAISS file
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
    """A journal left beside the new catalogue would be rolled back into it, and ruin it."""
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
    with Store.open(travelled) as store:  # it moved together with its pictures
        store.require_root()
        assert store.root == tmp_path / "travelled"
