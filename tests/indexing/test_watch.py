"""What has settled between two looks, and of what happens in folders one is told."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import make_picture

from clipsearch.indexing.changes import diff
from clipsearch.indexing.watch import happenings, settled
from clipsearch.records import Found, ImageFile, KnownImage

A, B, C = (ImageFile(name, 10, 1) for name in (b"a.png", b"b.png", b"c.png"))


def known(*files: ImageFile) -> dict[bytes, KnownImage]:
    return {file.path: KnownImage(n, *file[1:3], False) for n, file in enumerate(files)}


def test_what_both_looks_saw_is_taken_as_it_is() -> None:
    found, moving = settled(Found([A, B]), Found([A, B]), known(A))
    assert (found.files, moving) == ([A, B], set())


@pytest.mark.parametrize(
    ("before", "now", "catalogue"),
    [
        ([A], [A, B], [A]),  # it has just come
        ([A, B._replace(size=5)], [A, B], [A]),  # it is growing
        ([A, B._replace(mtime_ns=2)], [A, B], [A]),
        ([A, B], [A, B._replace(size=99)], [A, B]),  # it is being written again
        ([A, B], [A], [A, B]),  # it has just gone,
        ([A, B], [A, C], [A, B]),  # or is being renamed, which is told from its content
    ],
)
def test_what_has_not_settled_is_left_as_the_catalogue_knows_it(
    before: list[ImageFile], now: list[ImageFile], catalogue: list[ImageFile]
) -> None:
    found, moving = settled(Found(before), Found(now), known(*catalogue))
    changes = diff(found.files, known(*catalogue))
    assert (changes.added, changes.changed, changes.missing) == ([], [], [])
    assert changes.unchanged == len(catalogue)
    assert moving == {file.path for file in set(before) ^ set(now)}


def test_folders_that_cannot_be_read_and_links_are_passed_on() -> None:
    seen = Found([A], [(b"locked", "Permission denied")], links=3)
    assert settled(seen, seen, {})[0] == seen


def next_of(told: Iterator[set[Path]], folder: Path) -> None:
    """Wait until ``folder`` and no other is told of."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        happened = next(told)
        if happened:
            assert happened == {folder}
            while next(told):  # the system may tell of one thing several times
                pass
            return
    raise AssertionError(f"nothing was told of {folder}")


@pytest.mark.process
@pytest.mark.parametrize("poll", [None, 0.2])
def test_what_happens_to_pictures_is_told_and_nothing_else(
    tmp_path: Path, poll: float | None
) -> None:
    pytest.importorskip("watchfiles")
    one, two, index = tmp_path / "one", tmp_path / "two", tmp_path / "one" / "index"
    for folder in (one, two, index, one / ".clipsearch"):
        folder.mkdir()
    told = happenings([one, two], [index], poll)
    assert next(told) == {one, two}  # for what was before
    make_picture(one / "a.png")
    next_of(told, one)
    for name in ("one/text.txt", "one/.clipsearch/b.png", "one/index/c.png", "one/.hidden.png"):
        (tmp_path / name).write_bytes(b"no picture of ours")
    make_picture(two / "d.PNG")
    next_of(told, two)
    (two / "d.PNG").unlink()
    next_of(told, two)


@pytest.mark.process
def test_a_folder_that_was_away_is_told_of_when_it_is_back(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    root = tmp_path / "photos"
    root.mkdir()
    told = happenings([root], [], None)
    assert next(told) == {root}
    root.rename(tmp_path / "away")
    next_of(told, root)
    (tmp_path / "away").rename(root)
    next_of(told, root)
    make_picture(root / "a.png")
    next_of(told, root)
