"""What counts as added, changed, missing or the same, before any file is opened."""

import pytest

from clipsearch.errors import FailureKind
from clipsearch.images.limits import Limits
from clipsearch.indexing.changes import any_below, diff, is_below, is_worth_a_try
from clipsearch.records import Failure, ImageFile, KnownImage


def file(path: bytes, size: int = 10, mtime_ns: int = 1_000) -> ImageFile:
    return ImageFile(path, size, mtime_ns)


def known(
    *paths: bytes, size: int = 10, mtime_ns: int = 1_000, failed: bool = False
) -> dict[bytes, KnownImage]:
    return {path: KnownImage(n, size, mtime_ns, failed) for n, path in enumerate(paths, start=1)}


def test_a_new_collection_is_all_added() -> None:
    changes = diff([file(b"a.jpg"), file(b"b.jpg")], {})
    assert changes.added == [file(b"a.jpg"), file(b"b.jpg")]
    assert (changes.changed, changes.missing) == ([], [])
    assert (changes.unchanged, changes.still_failed) == (0, 0)


def test_every_kind_is_told_apart_in_one_go() -> None:
    catalog = {
        **known(b"same.jpg", b"edited.jpg", b"gone.jpg"),
        **known(b"bad.jpg", b"mended.jpg", failed=True),
    }
    found = [
        file(b"same.jpg"),
        file(b"edited.jpg", mtime_ns=2_000),
        file(b"new.jpg"),
        file(b"bad.jpg"),
        file(b"mended.jpg", size=11),
    ]
    changes = diff(found, catalog)
    assert [f.path for f in changes.added] == [b"new.jpg"]
    assert [f.path for f in changes.changed] == [b"edited.jpg", b"mended.jpg"]
    assert changes.missing == [b"gone.jpg"]
    assert (changes.unchanged, changes.still_failed) == (1, 1)


@pytest.mark.parametrize(
    "now", [file(b"a.jpg", size=11), file(b"a.jpg", mtime_ns=1_001), file(b"a.jpg", mtime_ns=999)]
)
def test_another_size_or_time_even_an_older_one_is_a_change(now: ImageFile) -> None:
    changes = diff([now], known(b"a.jpg"))
    assert changes.changed == [now]
    assert (changes.added, changes.missing, changes.unchanged) == ([], [], 0)


def test_a_renamed_file_is_missing_and_added() -> None:
    changes = diff([file(b"new.jpg")], known(b"old.jpg"))
    assert [f.path for f in changes.added] == [b"new.jpg"]
    assert changes.missing == [b"old.jpg"]


def test_a_failed_file_that_is_gone_is_missing() -> None:
    assert diff([], known(b"bad.jpg", failed=True)).missing == [b"bad.jpg"]


def test_what_lies_below_an_unreadable_folder_is_not_missing() -> None:
    catalog = known(b"a/x.jpg", b"a/deep/y.jpg", b"b/z.jpg", b"w.jpg")
    assert diff([], catalog, [b"a"]).missing == [b"b/z.jpg", b"w.jpg"]
    assert diff([], catalog, [b"a/deep", b"b"]).missing == [b"a/x.jpg", b"w.jpg"]
    assert diff([], catalog, [b""]).missing == []
    assert diff([], catalog, []).missing == list(catalog)


def test_only_whole_names_make_a_folder() -> None:
    catalog = known(b"ab/x.jpg", b"a.jpg", b"a b/y.jpg", b"a-/z.jpg", b"A/w.jpg", b"c/a/v.jpg")
    assert diff([], catalog, [b"a"]).missing == list(catalog)


def test_a_file_that_could_not_be_asked_about_is_not_missing() -> None:
    assert diff([], known(b"a.jpg", b"b.jpg"), [b"a.jpg"]).missing == [b"b.jpg"]


@pytest.mark.parametrize(
    ("path", "folder", "below"),
    [
        (b"a/b.jpg", b"a", True),
        (b"a/b/c.jpg", b"a/b", True),
        (b"a", b"a", True),
        (b"a.jpg", b"", True),
        (b"ab/c.jpg", b"a", False),
        (b"a/bc.jpg", b"a/b", False),
        (b"a", b"a/b", False),
        (b"x/a/b.jpg", b"a", False),
    ],
)
def test_a_path_is_below_its_folders_and_itself(path: bytes, folder: bytes, below: bool) -> None:
    assert is_below(path, folder) is below
    assert any_below(path, [b"elsewhere", folder]) is below


def test_nothing_is_below_no_folder_at_all() -> None:
    assert not any_below(b"a.jpg", [])


# -- what failed ---------------------------------------------------------------------------------

NOW = Limits(max_pixels=1000, decoders="pillow 12")


@pytest.mark.parametrize("kind", ["time", "crash", "memory"])
def test_what_may_be_chance_is_tried_three_times_and_again_by_other_decoders(
    kind: FailureKind,
) -> None:
    assert is_worth_a_try(Failure(kind, "pillow 12", tries=2), NOW)
    assert not is_worth_a_try(Failure(kind, "pillow 12", tries=3), NOW)
    assert is_worth_a_try(Failure(kind, "pillow 11", tries=3), NOW)


def test_content_that_cannot_be_read_is_left_to_other_decoders() -> None:
    assert not is_worth_a_try(Failure("content", "pillow 12"), NOW)
    assert is_worth_a_try(Failure("content", "pillow 11"), NOW)


@pytest.mark.parametrize("decoders", ["pillow 12", "pillow 11"])
def test_too_many_pixels_are_tried_when_the_limit_allows_them(decoders: str) -> None:
    assert is_worth_a_try(Failure("pixels", decoders, pixels=1000), NOW)
    assert not is_worth_a_try(Failure("pixels", decoders, pixels=1001), NOW)


def test_a_failure_of_unknown_kind_is_tried() -> None:
    assert is_worth_a_try(None, NOW)


def test_failed_files_are_sorted_by_whether_they_are_worth_a_try() -> None:
    catalog = {
        b"a.jpg": KnownImage(1, 10, 1_000, True, failure=Failure("crash", "pillow 12")),
        b"b.jpg": KnownImage(2, 10, 1_000, True, failure=Failure("content", "pillow 12")),
    }
    found = [file(b"a.jpg"), file(b"b.jpg")]
    changes = diff(found, catalog, limits=NOW)
    assert (changes.again, changes.still_failed) == ([file(b"a.jpg")], 1)
    assert (diff(found, catalog).again, diff(found, catalog).still_failed) == ([], 2)
