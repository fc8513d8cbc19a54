"""Filters: exact, on what the catalogue knows, and clear about what is no filter."""

import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from conftest import ASK, UNTESTED, Run, make_picture, run_here
from fakes import DIM, fake_spec, unit
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.cli import filters
from clipsearch.errors import UsageError
from clipsearch.records import EmbeddedImage, Filter, ImageFile
from clipsearch.store import FOLDER, Store

NOW = datetime(2024, 3, 1, 15, 30)


# -- dates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024", "2024-01-01T00:00:00"),
        ("2024-05", "2024-05-01T00:00:00"),
        ("2024-05-31", "2024-05-31T00:00:00"),
        ("2024-05-31T12:30", "2024-05-31T12:30:00"),
        ("2024-05-31 12:30:45", "2024-05-31T12:30:45"),
        ("today", "2024-03-01T00:00:00"),
        ("yesterday", "2024-02-29T00:00:00"),
        ("1d", "2024-02-29T15:30:00"),
        (" 2024 ", "2024-01-01T00:00:00"),
    ],
)
def test_dates_are_read_as_people_write_them(text: str, expected: str) -> None:
    assert filters.moment(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "24", "2024-13", "2024-02-30", "31.5.2024", "tomorrow", "d"])
def test_what_is_no_date_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="is no date"):
        filters.moment(text, NOW)


@given(st.text(max_size=12))
def test_any_text_is_a_date_or_a_usage_error(text: str) -> None:
    try:
        moment = filters.moment(text, NOW)
    except UsageError:
        return
    assert datetime.fromisoformat(moment).strftime("%Y-%m-%dT%H:%M:%S") == moment


# -- types ---------------------------------------------------------------------------------------


def test_a_type_stands_for_all_its_spellings() -> None:
    assert filters.suffixes(["jpeg"]) == filters.suffixes([".JPG"]) >= {b".jpg", b".jpeg"}
    assert filters.suffixes(["webp", "tif"]) == {b".webp", b".tif", b".tiff"}
    with pytest.raises(UsageError, match="'docx' is no type of picture"):
        filters.suffixes(["docx"])


# -- in the catalogue ----------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Pictures of several sizes and times; every third does not tell when it was taken."""
    with Store.create(tmp_path / FOLDER, tmp_path, fake_spec()) as opened:
        with opened.batch():
            for n in range(120):
                suffix = (b".jpg", b".PNG", b".jpeg", b".webp")[n % 4]
                path = b"%s/%03d%s" % ((b"a", b"b/c")[n % 2], n, suffix)
                day = datetime(2024, 1 + n % 12, 1 + n % 28, 12)
                taken = None if n % 3 == 0 else day.isoformat()
                file = ImageFile(path, 1, int(day.timestamp() * 1e9))
                width, height = 100 * (n % 7), 50 * (n % 5)
                opened.add(
                    [EmbeddedImage(file, n.to_bytes(20, "big"), width, height, taken, unit(n))]
                )
        opened.update_vector_index()
        yield opened


CASES = {
    "everything": (Filter(), lambda n: True),
    "a folder": (Filter(under=b"b/c"), lambda n: n % 2 == 1),
    "a name": (Filter(name="0?1*"), lambda n: n < 100 and n % 10 == 1),
    "a path": (Filter(name="b/*5.*"), lambda n: n % 2 == 1 and n % 10 == 5),
    "after": (Filter(after="2024-06-01T00:00:00"), lambda n: n % 12 >= 5),
    "before": (Filter(before="2024-06-01T00:00:00"), lambda n: n % 12 < 5),
    "a month": (
        Filter(after="2024-03-01T00:00:00", before="2024-04-01T00:00:00"),
        lambda n: n % 12 == 2,
    ),
    "size": (Filter(min_width=300, min_height=100), lambda n: n % 7 >= 3 and n % 5 >= 2),
    "type": (Filter(suffixes=frozenset({b".png"})), lambda n: n % 4 == 1),
    "all of it": (
        Filter(b"a", "*", "2024-02-01T00:00:00", "2024-12-01T00:00:00", 100, 50),
        lambda n: n % 2 == 0 and 1 <= n % 12 < 11 and n % 7 >= 1 and n % 5 >= 1,
    ),
    "nothing": (Filter(name="no such"), lambda n: False),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("k", [1, 5, 200])
def test_a_filtered_search_is_that_of_the_pictures_that_pass(
    store: Store, case: str, k: int
) -> None:
    only, passes = CASES[case]
    named = [n for n in range(120) if passes(n)]
    scores = sorted(
        (float(unit(n).astype(np.float16).astype(np.float32) @ unit(7)) for n in named),
        reverse=True,
    )
    hits = store.search(unit(7), k, only)
    assert [hit.score for hit in hits] == pytest.approx(scores[:k], abs=1e-6)
    assert {int(os.path.basename(hit.path)[:3]) for hit in hits} <= set(named)
    assert store.count(only) == len(named)


def test_listed_files_are_looked_at_and_no_others(store: Store, tmp_path: Path) -> None:
    paths = {os.fsencode(tmp_path) + name for name in (b"/a/000.jpg", b"/b/c/001.PNG", b"/no.jpg")}
    hits = store.search(unit(7), 9, Filter(paths=frozenset(paths)))
    assert {hit.path for hit in hits} == {b"a/000.jpg", b"b/c/001.PNG"}
    assert store.search(unit(7), 9, Filter(paths=frozenset())) == []
    assert len(unit(7)) == DIM


# -- on the command line -------------------------------------------------------------------------


@pytest.fixture
def collection(tmp_path: Path, tiny_model: Path) -> Path:
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    for n, name in enumerate(["a.png", "b.jpg", "sub/c.png", "sub/new\nline.png"]):
        make_picture(root / name, n, size=(40 + 20 * n, 40))
        moment = time.mktime((2020 + n, 6, 1, 12, 0, 0, 0, 0, -1))
        os.utime(root / name, (moment, moment))
    assert run_here("index", root, "--model", tiny_model) == 0
    return root


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--name", "*.png"], {b"a.png", b"sub/c.png", b"sub/new\nline.png"}),
        (["--name", "sub/*"], {b"sub/c.png", b"sub/new\nline.png"}),
        (["--after", "2022"], {b"sub/c.png", b"sub/new\nline.png"}),
        (["--before", "2022-06-01", "--after", "2021-01"], {b"b.jpg"}),
        (["--min-width", "60", "--type", "png"], {b"sub/c.png", b"sub/new\nline.png"}),
        (["--type", "jpeg", "--type", "webp"], {b"b.jpg"}),
        (["--under", "sub", "--before", "2023"], {b"sub/c.png"}),
    ],
)
def test_options_restrict_a_search(
    run: Run, collection: Path, options: list[str], expected: set[bytes]
) -> None:
    done = run(*ASK, "snow", "-0", *options, cwd=collection)
    assert (done.code, done.err) == (0, UNTESTED)
    assert set(done.out.split(b"\0")[:-1]) == expected


def test_a_filter_that_leaves_nothing_says_so(run: Run, collection: Path) -> None:
    done = run("search", "a cat", "--name", "*.tiff", "--all", cwd=collection)
    assert (done.code, done.out) == (1, b"")
    assert "no match: no indexed picture passes the filters" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--after", "someday"], "'someday' is no date"),
        (["--before", "2024-02-30"], "'2024-02-30' is no date"),
        (["--type", "docx"], "'docx' is no type of picture"),
        (["--min-width", "-1"], "--min-width"),
        (["--from0", "missing.txt"], "cannot read missing.txt"),
        (["--from0", "."], "cannot read ."),
    ],
)
def test_what_is_no_filter_is_an_error(
    run: Run, collection: Path, options: list[str], said: str
) -> None:
    done = run(*ASK, "snow", *options, cwd=collection)
    assert (done.code, done.out) == (2, b"")
    assert said in done.err


def test_candidates_may_come_from_find(run: Run, collection: Path) -> None:
    listing = b"./sub/new\nline.png\0a.png\0" + os.fsencode(collection / "b.jpg") + b"\0"
    done = run(*ASK, "snow", "-0", "--from0", "-", cwd=collection, stdin=listing)
    assert (done.code, done.err) == (0, UNTESTED)
    assert set(done.out.split(b"\0")[:-1]) == {b"sub/new\nline.png", b"a.png", b"b.jpg"}
    (collection / "list").write_bytes(b"new\nline.png\0c.png\0nowhere.png\0")
    done = run(*ASK, "snow", "-0", "--from0", "../list", cwd=collection / "sub")
    assert set(done.out.split(b"\0")[:-1]) == {b"new\nline.png", b"c.png"}
    assert "1 of 3 listed files are not in the index" in done.err
    around = b"sub/../a.png\0../%s/b.jpg\0" % os.fsencode(collection.name)
    outside = b"../../../../../../../../etc/passwd\0"
    done = run(*ASK, "snow", "-0", "--from0", "-", cwd=collection, stdin=around + outside)
    assert set(done.out.split(b"\0")[:-1]) == {b"a.png", b"b.jpg"}
    assert "1 of 3 listed files are not in the index" in done.err
    done = run(*ASK, "snow", "--from0", "-", cwd=collection, stdin=b"")
    assert done.code == 1
    assert "passes the filters" in done.err
    done = run(*ASK, "snow", "--from0", "-", cwd=collection, stdin=b"a.png\nb.jpg\n")
    assert (done.code, done.out) == (2, b"")
    assert "not ended by NUL" in done.err


def test_one_stream_is_not_read_twice(run: Run, collection: Path) -> None:
    done = run("search", "-", "--from0", "-", cwd=collection, stdin=b"a.png\0")
    assert (done.code, done.out) == (2, b"")
    assert "cannot both be read from standard input" in done.err
