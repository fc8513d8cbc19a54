"""Filters: exact, on what the catalog knows, and clear about what is no filter."""

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from conftest import ASK, Run, make_picture, places_beside, run_here
from fakes import DIM, fake_spec, forget_origins, unit
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipsearch.cli.options import filters
from clipsearch.errors import UsageError
from clipsearch.records import EmbeddedImage, Filter, ImageFile, Near
from clipsearch.storage.catalog import CATALOG, FOLDER, Store
from clipsearch.storage.filters import distance_km

NOW = datetime(2024, 3, 1, 15, 30)

Place = tuple[float, float]
places = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


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
        ("0800", "0800-01-01T00:00:00"),
    ],
)
def test_dates_are_read_as_people_write_them(text: str, expected: str) -> None:
    assert filters.moment(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "24", "2024-13", "2024-02-30", "31.5.2024", "tomorrow", "d"])
def test_what_is_no_date_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="is not a date"):
        filters.moment(text, NOW)


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="no time zones to be set")
def test_the_last_day_of_all_is_no_date_further_east(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        with pytest.raises(UsageError, match="is not a date"):
            filters.moment("9999-12-31T23:59+00:00", NOW)
    time.tzset()


@pytest.mark.parametrize("name", ["after", "before", "from0"])
def test_a_filter_that_says_nothing_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError):
        filters.FilterOptions(**{name: ""}).filter(b"")


@given(st.text(max_size=12))
def test_any_text_is_a_date_or_a_usage_error(text: str) -> None:
    try:
        moment = filters.moment(text, NOW)
    except UsageError:
        return
    assert datetime.fromisoformat(moment).isoformat() == moment


# -- types ---------------------------------------------------------------------------------------


def test_a_type_stands_for_all_its_spellings() -> None:
    assert filters.suffixes(["jpeg"]) == filters.suffixes([".JPG"]) >= {b".jpg", b".jpeg"}
    assert filters.suffixes(["webp", "tif"]) == {b".webp", b".tif", b".tiff"}
    with pytest.raises(UsageError, match="'docx' is not an image type"):
        filters.suffixes(["docx"])


# -- in the catalog ----------------------------------------------------------------------------


CAMERAS = ["Canon EOS 5D", "NIKON D90", "Ä[1]", None, "Apple iPhone 13"]


def place_of(n: int) -> tuple[float, float] | tuple[None, None]:
    """Places all over the globe, the poles and the date line among them; some tell none."""
    if n % 11 == 0:
        return None, None
    return -90.0 + 37 * n % 181, -180.0 + 53 * n % 361


def is_near(n: int, latitude: float, longitude: float, km: float) -> bool:
    """By the angle between two vectors from the Earth's centre."""
    here, there = place_of(n), (latitude, longitude)
    if here[0] is None:
        return False
    one, two = (
        np.array([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)])
        for north, east in (np.radians(here), np.radians(there))
    )
    angle = np.arctan2(np.linalg.norm(np.cross(one, two)), one @ two)
    return bool(6371.0088 * angle <= km)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Images of several sizes and times; every third does not tell when it was taken."""
    with Store.create(tmp_path / FOLDER, tmp_path, fake_spec()) as opened:
        with opened.batch():
            for n in range(120):
                suffix = (b".jpg", b".PNG", b".jpeg", b".webp")[n % 4]
                path = b"%s/%03d%s" % ((b"a", b"b/c")[n % 2], n, suffix)
                day = datetime(2024, 1 + n % 12, 1 + n % 28, 12)
                taken = None if n % 3 == 0 else day.isoformat()
                file = ImageFile(path, 1, int(day.timestamp() * 1e9))
                width, height = 100 * (n % 7), 50 * (n % 5)
                facts = (file, n.to_bytes(20, "big"), width, height, taken, unit(n))
                opened.add([EmbeddedImage(*facts, CAMERAS[n % 5], *place_of(n))])
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
    "more-than-any": (Filter(min_width=10**30), lambda n: False),
    "size": (Filter(min_width=300, min_height=100), lambda n: n % 7 >= 3 and n % 5 >= 2),
    "type": (Filter(suffixes=frozenset({b".png"})), lambda n: n % 4 == 1),
    "all of it": (
        Filter(b"a", "*", "2024-02-01T00:00:00", "2024-12-01T00:00:00", 100, 50),
        lambda n: n % 2 == 0 and 1 <= n % 12 < 11 and n % 7 >= 1 and n % 5 >= 1,
    ),
    "nothing": (Filter(name="no such"), lambda n: False),
    "a part of a camera's name": (Filter(camera="CANON"), lambda n: n % 5 == 0),
    "a camera's whole name": (Filter(camera="*d?0"), lambda n: n % 5 == 1),
    "any camera": (Filter(camera="*"), lambda n: n % 5 != 3),
    "a camera of a kind": (Filter(camera="[!a-m]*[0-9]?"), lambda n: n % 5 in (1, 2)),
    "a camera that is no glob": (Filter(camera="ä"), lambda n: n % 5 == 2),
    **{
        f"within {circle[2]} km of {circle[:2]}": (
            Filter(near=Near(*circle)),
            lambda n, circle=circle: is_near(n, *circle),
        )
        for circle in [
            *((48.0, 2.0, 0.0), (48.0, 2.0, 2500.0), (-33.9, 18.4, 4000.0)),
            *((10.0, 179.5, 3000.0), (10.0, -179.5, 3000.0), (89.0, 10.0, 2000.0)),
            *((-90.0, 0.0, 1500.0), (0.0, 0.0, 20_016.0), (0.0, 0.0, 10_000.0)),
            (*place_of(7), 0.0),
        ]
    },
    "a camera and a place": (
        Filter(camera="canon", near=Near(0.0, 0.0, 10_000.0)),
        lambda n: n % 5 == 0 and is_near(n, 0.0, 0.0, 10_000.0),
    ),
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


@given(places, places)
def test_a_distance_is_that_of_the_vectors(one: Place, two: Place) -> None:
    # The law of cosines: as exact as its cosine, which is enough for a kilometre at most.
    (north, east), (north2, east2) = np.radians(one), np.radians(two)
    cosine = np.sin(north) * np.sin(north2)
    cosine += np.cos(north) * np.cos(north2) * np.cos(east - east2)
    expected = 6371.0088 * np.arccos(np.clip(cosine, -1, 1))
    assert distance_km(*one, *two) == pytest.approx(expected, abs=0.2)
    assert distance_km(*one, *one) == 0


def test_distances_that_are_known() -> None:
    assert distance_km(52.5200, 13.4050, 48.8566, 2.3522) == pytest.approx(877.5, abs=1)
    assert distance_km(0, 179.9, 0, -179.9) == pytest.approx(22.2, abs=0.1)
    assert distance_km(90, 10, 90, -120) == pytest.approx(0, abs=1e-9)
    assert distance_km(0, 0, 0, 180) == distance_km(-90, 0, 90, 77) == pytest.approx(20015.1, abs=1)


def test_a_place_is_three_numbers() -> None:
    assert filters.place(" -33.9, 18.4 ,10") == Near(-33.9, 18.4, 10)


@pytest.mark.parametrize(
    "text",
    [
        *("", "48.8", "48.8,2.3", "48.8,2.3,5,6", "48,8,2,3,5", "Paris", "48.8;2.3;5"),
        *("91,0,5", "-90.1,0,5", "0,181,5", "0,0,-1", "nan,0,5", "0,nan,5", "0,0,nan", "0,0,inf"),
    ],
)
def test_what_is_no_place_is_a_usage_error_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        filters.place(text)
    assert "--near 48.858,2.294,5" in caught.value.hint


# -- on the command line -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An indexed folder. Not to be changed: ``collection`` is a copy."""
    root = tmp_path_factory.mktemp("made") / "photos"
    (root / "sub").mkdir(parents=True)
    for n, name in enumerate(["a.png", "b.jpg", "sub/c.png", "sub/new\nline.png"]):
        make_picture(root / name, n, size=(40 + 20 * n, 40))
        if n < 2:
            exif = Image.Exif()
            exif[0x010F], exif[0x0110] = "Canon", f"Canon EOS {n}D"
            gps = {1: "S", 2: (33.0, 54.0, 0.0), 3: "E", 4: (18.0, 24.0 * n, 0.0)}
            exif.get_ifd(0x8825).update(gps)
            Image.open(root / name).save(root / name, exif=exif)
        moment = time.mktime((2020 + n, 6, 1, 12, 0, 0, 0, 0, -1))
        os.utime(root / name, (moment, moment))
    with places_beside(root):
        assert run_here("index", root, "--model", tiny_model) == 0
    return root


@pytest.fixture
def collection(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "photos"))


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
        (["--camera", "eos"], {b"a.png", b"b.jpg"}),
        (["--camera", "*1d"], {b"b.jpg"}),
        (["--near", "-33.9,18.4,1"], {b"b.jpg"}),
        (["--near=-33.9,18.4,40", "--camera", "canon"], {b"a.png", b"b.jpg"}),
    ],
)
def test_options_restrict_a_search(
    run: Run, made: Path, options: list[str], expected: set[bytes]
) -> None:
    done = run(*ASK, "snow", "-0", *options, cwd=made)
    assert (done.code, done.err) == (0, "")
    assert set(done.out.split(b"\0")[:-1]) == expected


def test_a_filter_that_leaves_nothing_says_so(run: Run, made: Path) -> None:
    done = run("search", "a cat", "--name", "*.tiff", "--all", cwd=made)
    assert (done.code, done.out) == (1, b"")
    assert "no match: no indexed image passes the filters" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--after", "someday"], "'someday' is not a date"),
        (["--before", "2024-02-30"], "'2024-02-30' is not a date"),
        (["--type", "docx"], "'docx' is not an image type"),
        (["--min-width", "-1"], "--min-width"),
        (["--camera", " "], "--camera is empty"),
        (["--near", "-33.9,18.4"], "'-33.9,18.4' is not a place and a distance"),
        (["--near", "95,0,5"], "95 is not a latitude"),
        (["--from0", "missing.txt"], "cannot read missing.txt"),
        (["--from0", "."], "cannot read ."),
    ],
)
def test_what_is_no_filter_is_an_error(run: Run, made: Path, options: list[str], said: str) -> None:
    done = run(*ASK, "snow", *options, cwd=made)
    assert (done.code, done.out) == (2, b"")
    assert said in done.err


def test_json_tells_camera_and_place(run: Run, made: Path) -> None:
    done = run(*ASK, "snow", "--json", cwd=made)
    told = {
        hit["path"]: (hit["camera"], hit["latitude"], hit["longitude"])
        for hit in map(json.loads, done.out.splitlines())
    }
    assert told["b.jpg"] == ("Canon EOS 1D", pytest.approx(-33.9), pytest.approx(18.4))
    assert told["sub/c.png"] == (None, None, None)


def test_an_index_from_before_says_what_it_does_not_know(run: Run, collection: Path) -> None:
    with closing(sqlite3.connect(collection / FOLDER / CATALOG)) as catalog, catalog:
        forget_origins(catalog)
    done = run(*ASK, "snow", "--camera", "eos", cwd=collection)
    assert (done.code, done.out) == (1, b"")
    assert f"left out 4 images of {collection}, indexed before cameras and places" in done.err
    assert run_here("index", collection) == 0
    done = run(*ASK, "snow", "--camera", "eos", "-0", cwd=collection)
    assert set(done.out.split(b"\0")[:-1]) == {b"a.png", b"b.jpg"}
    assert done.err == ""


def test_candidates_may_come_from_find(run: Run, collection: Path) -> None:
    listing = b"./sub/new\nline.png\0a.png\0" + os.fsencode(collection / "b.jpg") + b"\0"
    done = run(*ASK, "snow", "-0", "--from0", "-", cwd=collection, stdin=listing)
    assert (done.code, done.err) == (0, "")
    assert set(done.out.split(b"\0")[:-1]) == {b"sub/new\nline.png", b"a.png", b"b.jpg"}
    (collection / "list").write_bytes(b"new\nline.png\0c.png\0nowhere.png\0")
    done = run(*ASK, "snow", "-0", "--from0", "../list", cwd=collection / "sub")
    assert set(done.out.split(b"\0")[:-1]) == {b"new\nline.png", b"c.png"}
    assert "not in the index: 1 of 3 listed files" in done.err
    around = b"sub/../a.png\0../%s/b.jpg\0" % os.fsencode(collection.name)
    outside = b"../../../../../../../../etc/passwd\0"
    done = run(*ASK, "snow", "-0", "--from0", "-", cwd=collection, stdin=around + outside)
    assert set(done.out.split(b"\0")[:-1]) == {b"a.png", b"b.jpg"}
    assert "not in the index: 1 of 3 listed files" in done.err
    done = run(*ASK, "snow", "--from0", "-", cwd=collection, stdin=b"")
    assert done.code == 1
    assert "passes the filters" in done.err
    done = run(*ASK, "snow", "--from0", "-", cwd=collection, stdin=b"a.png\nb.jpg\n")
    assert (done.code, done.out) == (2, b"")
    assert "not ended by NUL" in done.err


def test_one_stream_is_not_read_twice(run: Run, made: Path) -> None:
    done = run("search", "-", "--from0", "-", cwd=made, stdin=b"a.png\0")
    assert (done.code, done.out) == (2, b"")
    assert "cannot both be read from standard input" in done.err
