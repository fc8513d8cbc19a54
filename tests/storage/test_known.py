"""An index is found without being named, and forgotten ones do no harm."""

import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
from fakes import fake_spec, other_stat
from small_index import QUERY, add, pictures, snapshot

from clipsearch import paths
from clipsearch.errors import IndexNotFound, UsageError
from clipsearch.records import Filter
from clipsearch.storage import below, known
from clipsearch.storage.catalog import CATALOG, FOLDER, Store
from clipsearch.storage.vectors.embeddings import VECTORS


def made(root: Path, directory: Path | None = None) -> Path:
    """An empty index for `root`, remembered as the program remembers it."""
    root.mkdir(parents=True, exist_ok=True)
    directory = known.directory_for(root, directory)
    Store.create(directory, root, fake_spec()).close()
    known.remember(directory, root)
    return directory


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """The list's file, which is not there yet."""
    return tmp_path / "data" / "collections.json"


def test_an_index_lies_in_its_folder_unless_another_place_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert known.directory_for(tmp_path / "a", None) == tmp_path / "a" / FOLDER
    assert known.directory_for(tmp_path / "a", Path("b")) == tmp_path / "b"
    assert known.directory_for(tmp_path / "a", tmp_path / "c") == tmp_path / "c"


@pytest.mark.parametrize("start", ["photos", "photos/sub", "photos/sub/deep"])
def test_the_collection_that_holds_a_folder_is_found_from_it(tmp_path: Path, start: str) -> None:
    directory = made(tmp_path / "photos")
    (tmp_path / "photos" / "sub" / "deep").mkdir(parents=True)
    assert known.find(tmp_path / start, None) == [directory]
    assert known.holding(tmp_path / start) == directory


def test_a_collection_is_found_by_its_place_even_if_no_list_knows_it(
    tmp_path: Path, listed: Path
) -> None:
    made(tmp_path / "photos")
    listed.unlink()
    os.rename(tmp_path / "photos", tmp_path / "disk")
    (tmp_path / "disk" / "sub").mkdir()
    assert known.find(tmp_path / "disk" / "sub", None) == [tmp_path / "disk" / FOLDER]


def test_the_nearest_holder_wins(tmp_path: Path) -> None:
    outer = made(tmp_path / "photos")
    inner = made(tmp_path / "photos" / "inner")
    elsewhere = made(tmp_path / "photos" / "other", tmp_path / "index of other")
    for folder in ("inner/x", "other/x", "rest"):
        (tmp_path / "photos" / folder).mkdir(parents=True, exist_ok=True)
    assert known.find(tmp_path / "photos" / "inner" / "x", None) == [inner]
    assert known.find(tmp_path / "photos" / "other" / "x", None) == [elsewhere]
    assert known.find(tmp_path / "photos" / "rest", None) == [outer]
    assert known.find(tmp_path / "photos", None) == [outer]


def test_all_collections_below_a_folder_are_found_from_it(tmp_path: Path) -> None:
    below = [made(tmp_path / "all" / name) for name in ("b", "a", "deep/er")]
    below.append(made(tmp_path / "all" / "c", tmp_path / "index of c"))
    made(tmp_path / "allotment")
    made(tmp_path / "beside")
    assert known.find(tmp_path / "all", None) == sorted(below)


def test_a_collection_with_its_index_elsewhere_is_found_from_its_folder(tmp_path: Path) -> None:
    directory = made(tmp_path / "photos", tmp_path / "index")
    (tmp_path / "photos" / "sub").mkdir()
    assert known.find(tmp_path / "photos" / "sub", None) == [directory]
    assert not (tmp_path / "photos" / FOLDER).exists()


def test_a_place_that_is_named_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "here")
    there = made(tmp_path / "there")
    elsewhere = made(tmp_path / "x", tmp_path / "index")
    start = tmp_path / "here"
    assert known.find(start, there) == [there]
    assert known.find(start, tmp_path / "there") == [there]
    assert known.find(start, elsewhere) == [elsewhere]
    monkeypatch.chdir(tmp_path)
    assert known.find(start, Path("index")) == [elsewhere]


def test_no_index_at_the_place_that_is_named_says_so_and_what_there_is(tmp_path: Path) -> None:
    made(tmp_path / "photos")
    with pytest.raises(IndexNotFound, match="there is no index at") as caught:
        known.find(tmp_path / "photos", tmp_path / "nowhere")
    assert os.fspath(tmp_path / "photos") in caught.value.hint


def test_no_index_at_all_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFound, match="no indexed folder contains") as caught:
        known.find(tmp_path, None)
    assert "clipsearch index FOLDER" in caught.value.hint
    assert known.holding(tmp_path) is None


def test_no_index_here_lists_what_is_known(tmp_path: Path) -> None:
    for name in ("b", "a"):
        made(tmp_path / name)
    made(tmp_path / "elsewhere", tmp_path / "index")
    (tmp_path / "c").mkdir()
    with pytest.raises(IndexNotFound) as caught:
        known.find(tmp_path / "c", None)
    roots = ", ".join(os.fspath(tmp_path / name) for name in ("a", "b", "elsewhere"))
    assert roots in caught.value.hint
    assert os.fspath(tmp_path / "c") in str(caught.value)


def test_of_many_indexed_folders_a_hint_names_a_few_and_how_to_see_all(tmp_path: Path) -> None:
    for number in range(5):
        made(tmp_path / f"folder{number}")
    (tmp_path / "c").mkdir()
    with pytest.raises(IndexNotFound) as caught:
        known.find(tmp_path / "c", None)
    assert f"folder2 and 2 more, see clipsearch status {tmp_path.anchor})" in caught.value.hint
    assert "folder3" not in caught.value.hint
    assert len(known.find(Path(tmp_path.anchor), None)) == 5


def test_a_mistyped_folder_may_have_meant_the_one_beside_it(tmp_path: Path) -> None:
    for name in ("photos", ".phots"):
        (tmp_path / name).mkdir()
    (tmp_path / "phtos.txt").touch()
    for typed, meant in (("phtos", r" \(did you mean photos\?\)$"), ("xyz", "$")):
        with (
            pytest.raises(UsageError, match=f"{typed} does not exist{meant}"),
            known.opened(tmp_path / typed, None, print),
        ):
            pass
    with (
        pytest.raises(UsageError, match=r"pics does not exist$"),
        known.opened(tmp_path / "none" / "pics", None, print),
    ):
        pass


def test_what_is_gone_is_neither_found_nor_listed(tmp_path: Path) -> None:
    made(tmp_path / "gone")
    made(tmp_path / "kept")
    os.rename(tmp_path / "gone", tmp_path / "out of reach")
    assert known.find(tmp_path, None) == [tmp_path / "kept" / FOLDER]
    (tmp_path / "gone").mkdir()
    with pytest.raises(IndexNotFound) as caught:
        known.find(tmp_path / "gone", None)
    assert os.fspath(tmp_path / "gone") not in caught.value.hint
    made(tmp_path / "new")
    assert set(known.remembered().values()) == {tmp_path / "kept", tmp_path / "new"}


def test_a_folder_that_may_not_be_entered_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut, kept = made(tmp_path / "shut"), made(tmp_path / "kept")
    exists = Store.exists

    def may_not(directory: Path) -> bool:
        if directory == shut:
            raise PermissionError(13, "Permission denied", str(directory))
        return exists(directory)

    monkeypatch.setattr(Store, "exists", may_not)
    assert known.find(tmp_path, None) == [kept]
    made(tmp_path / "new")
    assert tmp_path / "new" in known.remembered().values()


def test_indexed_folders_below_a_moved_one_are_found_and_remembered(tmp_path: Path) -> None:
    for name in ("a", "deep/er/b", "deep/er/b/inner"):
        made(tmp_path / "old" / name)
    (tmp_path / "old" / "a" / "sub").mkdir()
    (tmp_path / "old").rename(tmp_path / "new")
    said: list[str] = []
    expected = [tmp_path / "new" / name / FOLDER for name in ("a", "deep/er/b")]
    with known.opened(tmp_path / "new", None, said.append) as (stores, under):
        assert ([store.directory for store in stores], under) == (expected, b"")
    (line,) = said
    assert line.startswith("found indexed folders that were on no list: ")
    assert known.find(tmp_path / "new", None, said.append) == expected
    assert len(said) == 1  # they are on it now
    assert known.remembered().keys() == set(expected)


def test_what_was_not_looked_at_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("1/2/3/4/5/too deep", "1/near", ".hidden/a", "node_modules/a"):
        made(tmp_path / "old" / name)
    (tmp_path / "old").rename(tmp_path / "new")
    said: list[str] = []
    near = tmp_path / "new" / "1" / "near" / FOLDER
    assert known.find(tmp_path / "new", None, said.append) == [near]
    assert said[0].endswith("; folders more than 4 deep were not searched")
    known._list().unlink()
    shutil.rmtree(near)
    with pytest.raises(IndexNotFound, match="below it; folders more than 4 deep were not"):
        known.find(tmp_path / "new", None)
    monkeypatch.setattr(below, "_FOLDERS", 2)
    with pytest.raises(IndexNotFound, match="folders after the nearest 2 were not searched"):
        known.find(tmp_path / "new", None)
    with pytest.raises(IndexNotFound, match="the folders below the root of the file system were"):
        known.find(Path(tmp_path.anchor), None)


def test_remembering_twice_writes_once(tmp_path: Path, listed: Path) -> None:
    directory = made(tmp_path / "photos")
    before = listed.stat().st_mtime_ns, listed.stat().st_ino
    known.remember(directory, tmp_path / "photos")
    assert (listed.stat().st_mtime_ns, listed.stat().st_ino) == before


def test_a_collection_that_has_moved_is_remembered_where_it_is_now(tmp_path: Path) -> None:
    directory = made(tmp_path / "old", tmp_path / "index")
    known.remember(directory, tmp_path / "new")
    assert known.remembered() == {directory: tmp_path / "new"}


@pytest.mark.skipif(sys.platform != "linux", reason="names there are text")
def test_names_that_are_not_utf8_are_remembered(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \n"))
    directory = made(root)
    assert known.remembered() == {directory: root}
    assert known.find(tmp_path, None) == [directory]


@pytest.mark.skipif(sys.platform == "win32", reason="no permissions of that kind there")
def test_the_list_is_for_its_owner_alone(tmp_path: Path, listed: Path) -> None:
    made(tmp_path / "photos")
    for path in (listed.parent, *listed.parent.iterdir()):
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\xff\xfe\x00", b"null", b"5", b'"text"', b"[]", b'["a"]'),
        *(b'{"a": 1}', b'{"a": null}', b'{"a": ["b"]}', b'{"\\u0000": "x"}', b'{"": ""}'),
    ],
)
def test_a_damaged_list_is_an_empty_one_and_is_mended(
    tmp_path: Path, listed: Path, content: bytes
) -> None:
    listed.parent.mkdir()
    listed.write_bytes(content)
    with pytest.raises(IndexNotFound):
        known.find(tmp_path, None)
    directory = made(tmp_path / "photos")
    assert known.find(tmp_path, None) == [directory]
    assert json.loads(listed.read_text()) == {os.fspath(directory): os.fspath(tmp_path / "photos")}


def test_a_list_that_cannot_be_read_is_named_where_nothing_is_found(
    tmp_path: Path, listed: Path
) -> None:
    (tmp_path / "photos").mkdir()
    listed.parent.mkdir()
    for content in ('{"x', "[]"):
        listed.write_text(content)
        with pytest.raises(IndexNotFound) as caught:
            known.find(tmp_path / "photos", None)
        assert f"The list of indexed folders, {listed}, cannot be read" in caught.value.hint
        assert "clipsearch index FOLDER" in caught.value.hint


@pytest.mark.parametrize("what", ["a file", "an empty catalog"])
def test_an_index_folder_without_an_index_is_named(tmp_path: Path, what: str) -> None:
    if what == "a file":
        (tmp_path / FOLDER).write_text("x")
    else:
        (tmp_path / FOLDER).mkdir()
        (tmp_path / FOLDER / CATALOG).touch()
    with pytest.raises(IndexNotFound, match=r"there is no index in .*: its first run") as caught:
        known.find(tmp_path, None)
    assert caught.value.hint == f"Create one with: clipsearch index {tmp_path}"


def test_a_list_that_cannot_be_written_costs_only_the_convenience(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    directory = made(tmp_path / "photos")
    assert known.remembered() == {}
    assert known.find(tmp_path / "photos", None) == [directory]
    assert known.find(tmp_path, None) == [directory]  # by looking, each time
    assert known.remembered() == {}


def test_a_write_that_fails_leaves_the_list_as_it_was(
    tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = made(tmp_path / "photos")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    made(tmp_path / "more")
    assert known.remembered() == {directory: tmp_path / "photos"}


def test_two_first_runs_at_once_are_both_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "before")
    writing = threading.Event()
    write_whole = known.write_whole

    def slowly(path: Path, data: bytes) -> None:
        writing.set()
        time.sleep(0.3)  # long enough for the other to have read the list as it was
        write_whole(path, data)

    monkeypatch.setattr(known, "write_whole", slowly)
    first = threading.Thread(target=made, args=(tmp_path / "first",))
    first.start()
    assert writing.wait(10)
    made(tmp_path / "second")
    first.join()
    roots = {tmp_path / name for name in ("before", "first", "second")}
    assert set(known.remembered().values()) == roots


def test_a_list_that_somebody_else_holds_is_waited_for_and_then_left(
    tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "_PATIENCE", 0.1)
    with paths.held(listed, 0):
        directory = made(tmp_path / "photos")
    assert known.remembered() == {}
    known.remember(directory, tmp_path / "photos")
    assert known.remembered() == {directory: tmp_path / "photos"}


# -- somebody else's -----------------------------------------------------------------------------


@pytest.fixture
def strangers(tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index in a folder above, as anybody could put one into /tmp; it is another user's."""
    directory = made(tmp_path / "above")
    listed.unlink()
    (tmp_path / "above" / "mine").mkdir()
    owned_by(monkeypatch, directory, 4242)
    return directory


def owned_by(monkeypatch: pytest.MonkeyPatch, directory: Path, uid: int) -> None:
    lstat = os.lstat

    def with_owner(path: Path) -> os.stat_result:
        found = lstat(path)
        return other_stat(found, uid=uid) if os.fspath(path) == os.fspath(directory) else found

    monkeypatch.setattr(os, "lstat", with_owner)


needs_users = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users of that kind there")


@needs_users
def test_somebody_elses_index_is_not_used_by_itself(tmp_path: Path, strangers: Path) -> None:
    above, mine = strangers.parent, strangers.parent / "mine"
    for start in (above, mine):
        assert known.holding(start) is None
        with pytest.raises(IndexNotFound, match="belongs to another user") as caught:
            known.find(start, None)
        assert f"--index {strangers}" in caught.value.hint
    assert known.holding(mine, named=True) is None  # the folder above was not named
    assert known.find(made(mine).parent, None) == [mine / FOLDER]


@needs_users
def test_somebody_elses_index_is_used_when_it_is_named(tmp_path: Path, strangers: Path) -> None:
    above, mine = strangers.parent, strangers.parent / "mine"
    assert known.find(mine, strangers) == known.find(mine, above) == [strangers]
    assert known.holding(above, named=True) == strangers
    assert known.find(above, None, named=True) == [strangers]
    with known.opened(above, None, print) as (stores, _):
        assert stores[0].root == above
    known.remember(strangers, above)  # as an index run does
    assert known.find(mine, None) == [strangers]


@needs_users
def test_somebody_elses_damaged_index_is_read_and_not_mended(strangers: Path) -> None:
    with Store.open_for_writing(strangers) as store:
        add(store, pictures(3))
        store.update_vector_index(force=True)
    os.truncate(strangers / VECTORS, 100)
    before = snapshot(strangers)
    told: list[str] = []
    with known.opened(strangers.parent, None, told.append) as (stores, _):
        assert len(stores[0].search(QUERY, 5)) == 3
    assert [line.rpartition("; ")[2] for line in told] == ["the catalog was searched instead"]
    assert snapshot(strangers) == before
    known.remember(strangers, strangers.parent)
    with known.opened(strangers.parent, None, told.append) as (stores, _):
        stores[0].search(QUERY, 5)
    assert "rewritten" in told[-1]


@needs_users
def test_an_index_of_root_and_under_sudo_that_of_the_caller_are_used(
    tmp_path: Path, strangers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = strangers.parent / "mine"
    for user, sudo, owner, used in (
        *((0, "", 4242, False), (0, "4242", 4242, True), (0, "no number", 4242, False)),
        *((1000, "4242", 4242, False), (1000, "", 0, True), (4242, "", 4242, True)),
    ):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        monkeypatch.setenv("SUDO_UID", sudo)
        with monkeypatch.context() as patch:
            owned_by(patch, strangers, owner)
            assert (known.holding(mine) == strangers) == used
    monkeypatch.delattr(os, "geteuid")  # Windows
    assert known.holding(mine) == strangers


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away"
)
def test_a_link_to_an_index_of_ours_is_whose_who_made_it(tmp_path: Path, listed: Path) -> None:
    directory = made(tmp_path / "photos")
    listed.unlink()
    (tmp_path / "above" / "mine").mkdir(parents=True)
    link = tmp_path / "above" / FOLDER
    link.symlink_to(directory)
    assert known.holding(tmp_path / "above" / "mine") == link
    os.chown(link, 4242, -1, follow_symlinks=False)
    assert known.holding(tmp_path / "above" / "mine") is None
    os.chown(directory, 4242, -1)
    assert known.holding(tmp_path / "photos") is None


@needs_users
def test_a_folder_of_somebody_else_that_may_not_be_entered_is_passed_over(
    strangers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exists = Store.exists

    def may_not(directory: Path) -> bool:
        if directory == strangers:
            raise PermissionError(13, "Permission denied", str(directory))
        return exists(directory)

    monkeypatch.setattr(Store, "exists", may_not)
    assert known.holding(strangers.parent / "mine") is None
    owned_by(monkeypatch, strangers, os.geteuid())
    with pytest.raises(PermissionError):  # ours: it is not to be passed over in silence
        known.holding(strangers.parent / "mine")


# -- a folder of its own -------------------------------------------------------------------------


def test_an_index_is_made_in_an_empty_folder_or_goes_on_where_a_run_was_killed(
    tmp_path: Path,
) -> None:
    place = tmp_path / "index"
    known.require_own_folder(place)
    place.mkdir()
    known.require_own_folder(place)
    for name in (CATALOG, f"{CATALOG}-journal", "writer.lock", "writer.txt"):
        (place / name).touch()
    known.require_own_folder(place)
    for name in ("letter.txt", "rebuild", VECTORS):  # the last two would be overwritten
        (place / name).touch()
        with pytest.raises(UsageError, match=f"has other files in it, such as {name}"):
            known.require_own_folder(place)
        (place / name).unlink()
    made(tmp_path / "photos", place)
    known.require_own_folder(place)  # it is an index by now


# -- opened --------------------------------------------------------------------------------------


def test_what_is_meant_is_opened_with_the_folder_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "a")
    made(tmp_path / "b")
    (tmp_path / "a" / "sub").mkdir()
    for under, roots, folder in (
        ("a/sub", ["a"], b"sub"),
        ("a", ["a"], b""),
        (".", ["a", "b"], b""),
    ):
        monkeypatch.chdir(tmp_path)
        with known.opened(Path(under), None, print) as (stores, prefix):
            assert [store.root.name for store in stores] == roots
            assert prefix == folder
        monkeypatch.chdir(tmp_path / under)
        with known.opened(None, None, print) as (stores, prefix):
            assert [store.root.name for store in stores] == roots
            assert prefix == folder


def test_a_folder_of_no_collection_is_an_error(tmp_path: Path) -> None:
    made(tmp_path / "a")
    (tmp_path / "other").mkdir()
    for under, index, said in (
        ("none", None, "none does not exist"),
        ("other", "a", r"other is not in .*a, the folder of the index at"),
    ):
        at = None if index is None else tmp_path / index
        with (
            pytest.raises(UsageError, match=said),
            known.opened(tmp_path / under, at, print),
        ):
            pass


def test_collections_of_different_models_have_no_shared_one(tmp_path: Path) -> None:
    made(tmp_path / "a")
    (tmp_path / "b").mkdir()
    other = fake_spec(fingerprint="e" * 64, name="other")
    Store.create(tmp_path / "b" / FOLDER, tmp_path / "b", other).close()
    with Store.open(tmp_path / "a" / FOLDER) as one, Store.open(tmp_path / "b" / FOLDER) as two:
        assert known.shared_model([one]) == one.spec
        with pytest.raises(UsageError, match="different models") as caught:
            known.shared_model([one, two])
        assert "fake" in str(caught.value)
        assert "other" in str(caught.value)


def test_listed_files_that_are_not_indexed_are_counted(tmp_path: Path) -> None:
    made(tmp_path / "a")
    with known.opened(tmp_path / "a", None, print) as (stores, _):
        files = frozenset({b"/x.png", b"/y.png"})
        (line,) = known.left_out(stores, Filter(paths=files))
        assert line == "not in the index: 2 of 2 listed files"
        assert known.left_out(stores, Filter(b"sub")) == []
