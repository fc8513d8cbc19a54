"""The walk: which files it finds, which it passes over, and what it says of the rest."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipsearch.errors import CollectionGone
from clipsearch.images import scan
from clipsearch.paths import absolute
from clipsearch.records import Found, ImageFile

posix_only = pytest.mark.skipif(os.name == "nt", reason="needs what only POSIX has")


def touch(root: Path, *names: str | bytes) -> None:
    """Empty files; the walk never opens one, so that is all it needs."""
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass


def find(root: Path, **options: object) -> Found:
    return scan.find(os.fsencode(root), **options)  # type: ignore[arg-type]


def names(root: Path, **options: object) -> list[bytes]:
    return [file.path for file in find(root, **options).files]


def test_files_of_nested_folders_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a/z.png", "a/y/x.jpg", "a.jpg", "a-b/c.jpg", "B.jpg")
    found = [b"B.jpg", b"a-b/c.jpg", b"a.jpg", b"a/y/x.jpg", b"a/z.png", b"b.jpg"]
    assert names(tmp_path) == found


def test_the_order_does_not_depend_on_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.jpg", "b/c.jpg", "b/d.jpg", "e/f.jpg", "g.jpg")
    forwards = find(tmp_path)
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: list(scandir(path))[::-1])
    assert find(tmp_path) == forwards
    assert len(forwards.files) == 5


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert find(tmp_path) == Found([], [], 0)


@pytest.mark.parametrize("suffix", sorted(scan.SUFFIXES))
def test_every_suffix_counts_in_any_case(tmp_path: Path, suffix: bytes) -> None:
    (tmp_path / "upper").mkdir()
    lower, upper = b"x" + suffix, b"upper/X" + suffix.upper()
    mixed = b"upper/m" + suffix.title()
    touch(tmp_path, lower, upper, mixed)
    assert names(tmp_path) == sorted([lower, upper, mixed])


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt", "b.mp4", "jpg", "c.jpg.part", "d", "e.jpg~", "photo.jpg", "f.pdf")
    assert names(tmp_path) == [b"photo.jpg"]


def test_other_files_are_counted_by_ending_and_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.cr3", "b.CR3", "sub/c.cr3", "d.pdf", "README", "e.jpg", ".hidden.mov", "f.x")
    (tmp_path / "sub.mov").mkdir()
    looked_at: list[bytes] = []

    class Entry:
        def __init__(self, entry: "os.DirEntry[bytes]") -> None:
            self._entry = entry

        def __getattr__(self, name: str) -> object:
            return getattr(self._entry, name)

        def stat(self, **options: bool) -> os.stat_result:
            looked_at.append(self._entry.name)
            return self._entry.stat(**options)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: map(Entry, list(scandir(path))))
    found = find(tmp_path, exclude=["*.x"])
    assert found.ignored == {b".cr3": 3, b".pdf": 1, b"": 1}
    assert looked_at == [b"e.jpg"]


def test_a_folder_whose_name_looks_like_a_picture_is_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "album.jpg/inside.png")
    assert names(tmp_path) == [b"album.jpg/inside.png"]


def test_hidden_files_package_trees_and_thumbnails_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", ".hidden.jpg", "._a.jpg", ".trash/b.jpg", "sub/.c/d.jpg")
    touch(tmp_path, "node_modules/e.png", "sub/node_modules/p/f.png", "sub/@eaDir/a.jpg")
    touch(tmp_path, "sub/my_node_modules/kept.png", "...jpg")
    assert names(tmp_path) == [b"a.jpg", b"sub/my_node_modules/kept.png"]


def test_a_glob_without_a_slash_is_matched_against_every_name(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "old-b.jpg", "sub/old-c.jpg", "old-d/e.jpg", "sub/old-f/g.jpg")
    assert names(tmp_path, exclude=["old-*"]) == [b"a.jpg"]


def test_a_glob_with_a_slash_is_matched_against_the_path(tmp_path: Path) -> None:
    touch(tmp_path, "raw/a.jpg", "sub/raw/b.jpg", "raw.jpg", "sub/c.png", "sub/d.jpg")
    assert names(tmp_path, exclude=["raw/"]) == [
        *(b"raw.jpg", b"sub/c.png", b"sub/d.jpg", b"sub/raw/b.jpg"),
    ]
    assert names(tmp_path, exclude=["/raw"]) == names(tmp_path, exclude=["raw/"])
    assert names(tmp_path, exclude=["sub/*.jpg"]) == [b"raw.jpg", b"raw/a.jpg", b"sub/c.png"]


def test_several_globs_all_count_beside_the_built_in_ones(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.png", "c.gif", ".d.webp", "e/f.webp")
    assert names(tmp_path, exclude=["*.png", "e/*"]) == [b"a.jpg", b"c.gif"]


def test_globs_tell_case_apart(tmp_path: Path) -> None:
    touch(tmp_path, "Raw1.jpg", "raw2.jpg")
    assert names(tmp_path, exclude=["raw*"]) == [b"Raw1.jpg"]


def test_under_looks_at_one_part_and_keeps_paths_relative_to_the_root(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "sub/b.jpg", "sub/deep/c.jpg", "subway/d.jpg")
    assert names(tmp_path, under=b"sub") == [b"sub/b.jpg", b"sub/deep/c.jpg"]
    assert names(tmp_path, under=b"sub/deep") == [b"sub/deep/c.jpg"]
    assert names(tmp_path, under=b"sub", exclude=["sub/deep"]) == [b"sub/b.jpg"]


@posix_only
@pytest.mark.parametrize(
    "globs", [["sub/"], ["sub"], ["*.png"], ["sub/deep"], ["/sub/*"], ["d*p", "*.gif"], ["x/sub"]]
)
def test_what_is_excluded_is_what_is_not_found(tmp_path: Path, globs: list[str]) -> None:
    for name in ("a.jpg", "b.png", "sub/c.jpg", "sub/deep/d.jpg", "subway/e.gif", "deep/sub/f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = names(tmp_path, exclude=globs)
    assert found == [path for path in names(tmp_path) if not scan.is_excluded(path, globs)]
    assert (len(found) < 6) is (globs != ["x/sub"])


def test_links_are_counted_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    touch(outside, "secret.jpg")
    root = tmp_path / "root"
    touch(root, "a.jpg", "sub/b.jpg")
    (root / "file.jpg").symlink_to(outside / "secret.jpg")
    (root / "folder").symlink_to(outside)
    (root / "sub" / "up").symlink_to(root)  # a walk that followed it would never end
    (root / "dangling.jpg").symlink_to(outside / "gone.jpg")
    (root / "notes.txt").symlink_to(outside / "secret.jpg")  # neither an image nor a folder
    found = find(root)
    assert [file.path for file in found.files] == [b"a.jpg", b"sub/b.jpg"]
    assert found.links == 4
    assert found.unreadable == []


@posix_only
def test_a_link_that_leads_nowhere_is_no_unreadable_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "through-a-file").symlink_to("a.jpg/x")
    (tmp_path / "gone").symlink_to("no-such-folder")
    found = find(tmp_path)
    assert (len(found.files), found.unreadable, found.links) == (1, [], 0)


@posix_only
def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    touch(tmp_path / "real", "a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert names(tmp_path / "link") == [b"a.jpg"]


@posix_only
def test_a_pipe_or_a_socket_is_no_picture_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "real.jpg")
    os.mkfifo(tmp_path / "x.jpg")
    monkeypatch.chdir(tmp_path)  # a socket's path may only have some 100 bytes
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("y.jpg")
        found = find(tmp_path)
    assert [file.path for file in found.files] == [b"real.jpg"]
    assert (found.unreadable, found.links) == ([], 0)


@posix_only
@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems refuse such names")
def test_names_are_kept_byte_for_byte(tmp_path: Path) -> None:
    odd = [
        b"line\nbreak.jpg",
        b"tab\tand space .jpg",
        "\N{WAVING HAND SIGN}\u200d.png".encode(),
        b"latin-\xe9\xff.jpg",
        b"dir\xff\n/in side.jpg",
        b"'quote\" $HOME *?[a].jpg",
        b"-rf.jpg",
        "e\u0301 decomposed.jpg".encode(),
        "\u00e9 composed.jpg".encode(),
    ]
    touch(tmp_path, *odd)
    assert names(tmp_path) == sorted(odd)


@posix_only
@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems refuse such names")
def test_globs_work_on_names_that_are_no_text(tmp_path: Path) -> None:
    touch(tmp_path, b"caf\xe9-1.jpg", "caf\u00e9-2.jpg", "other.jpg")
    assert names(tmp_path, exclude=["caf*"]) == [b"other.jpg"]
    assert names(tmp_path, exclude=["caf\u00e9-*"]) == [b"caf\xe9-1.jpg", b"other.jpg"]


def refuse(monkeypatch: pytest.MonkeyPatch, name: bytes, error: OSError) -> None:
    """Make the folder called ``name`` one that cannot be listed."""
    scandir = os.scandir

    def fake(path: bytes) -> Iterator[os.DirEntry[bytes]]:
        if os.path.basename(os.path.normpath(path)) == name:
            raise error
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fake)


def test_an_unreadable_folder_is_reported_and_the_rest_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.jpg", "private/b.jpg", "sub/c.jpg", "sub/private/d.jpg")
    refuse(monkeypatch, b"private", PermissionError(13, "Permission denied"))
    found = find(tmp_path)
    assert [file.path for file in found.files] == [b"a.jpg", b"sub/c.jpg"]
    assert found.unreadable == [
        (b"private", "Permission denied"),
        (b"sub/private", "Permission denied"),
    ]


@posix_only
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_reported(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "private/b.jpg")
    (tmp_path / "private").chmod(0)
    try:
        found = find(tmp_path)
    finally:
        (tmp_path / "private").chmod(0o700)
    assert [file.path for file in found.files] == [b"a.jpg"]
    assert [path for path, _ in found.unreadable] == [b"private"]


def test_a_missing_root_is_an_error_and_not_an_empty_collection(tmp_path: Path) -> None:
    with pytest.raises(CollectionGone, match="gone") as raised:
        find(tmp_path / "gone")
    assert raised.value.hint


def test_a_root_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    with pytest.raises(CollectionGone):
        find(tmp_path / "a.jpg")


def test_a_missing_part_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    with pytest.raises(CollectionGone, match="sub"):
        find(tmp_path, under=b"sub")


def test_a_root_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "disk", "a.jpg")
    refuse(monkeypatch, b"disk", OSError(5, "Input/output error"))
    with pytest.raises(CollectionGone, match="Input/output error"):
        find(tmp_path / "disk")


def test_sizes_and_times_are_those_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"x" * 12_345)
    (tmp_path / "sub" / "b.jpg").write_bytes(b"")
    os.utime(tmp_path / "a.jpg", ns=(1, 1_600_000_000_123_456_700))
    os.utime(tmp_path / "sub" / "b.jpg", ns=(1, 2_000_000_000))
    a, b = find(tmp_path).files
    assert (a.path, a.size, a.mtime_ns) == (b"a.jpg", 12_345, 1_600_000_000_123_456_700)
    assert (b.path, b.size, b.mtime_ns) == (b"sub/b.jpg", 0, 2_000_000_000)


def test_a_folder_with_the_same_listing_is_named_and_its_files_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "same/b.jpg", "same/c.jpg", "same/below/d.jpg", "other/e.jpg", "f/x")
    listed = {
        folder: scan.listing([(name, *facts[1:3]) for name, facts in entries.items()])
        for folder, entries in by_folder(find(tmp_path)).items()
    }
    assert find(tmp_path, listed=listed).same == {b"": 1, b"same": 2, b"same/below": 1, b"other": 1}
    touch(tmp_path, "other/new.jpg")
    listed |= {b"same/below": bytes(20), b"f": bytes(20), b"gone": bytes(20)}
    found = find(tmp_path, listed=listed)
    paths = [file.path for file in found.files]
    assert paths == [b"other/e.jpg", b"other/new.jpg", b"same/below/d.jpg"]
    assert found.same == {b"": 1, b"same": 2}
    assert found.ignored == {b"": 1}
    (tmp_path / "same/b.jpg").write_bytes(b"larger")
    assert find(tmp_path, listed=listed).same == {b"": 1}
    os.utime(tmp_path / "a.jpg", ns=(0, 0))
    assert find(tmp_path, listed=listed).same == {}
    assert find(tmp_path, listed=listed, exclude=["*.jpg"]).same == {}


def by_folder(found: Found) -> dict[bytes, dict[bytes, ImageFile]]:
    folders: dict[bytes, dict[bytes, ImageFile]] = {}
    for file in found.files:
        folder, _, name = file.path.rpartition(b"/")
        folders.setdefault(folder, {})[name] = file
    return folders


def test_no_file_is_opened(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_to_open(*_: object, **__: object) -> None:
        raise AssertionError("the walk opened a file")

    monkeypatch.setattr("builtins.open", refuse_to_open)
    monkeypatch.setattr(os, "open", refuse_to_open)
    assert len(find(photos).files) == 6


def test_a_stored_path_leads_back_to_its_file(photos: Path) -> None:
    root = os.fsencode(photos)
    for file in find(photos).files:
        assert os.stat(absolute(root, file.path)).st_size == file.size
