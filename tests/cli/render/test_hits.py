"""Hits: byte for byte where programs read them, harmless where people do."""

import base64
import io
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes import ESCAPES
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.cli.render.hits import (
    answer_lines,
    write_json_lines,
    write_paths,
    write_table,
    write_template,
)
from clipsearch.errors import UsageError
from clipsearch.paths import absolute_path, relative_path, shown_path
from clipsearch.records import Hit
from clipsearch.search.answer import Answer
from clipsearch.search.judge import Judgment


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which the hits below lie."""
    (tmp_path / "here" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def hit(path: bytes, root: Path, *, score: float = 0.25, **known: Any) -> Hit:
    return Hit(7, path, root, score, 640, 480, known.pop("taken_at", None), **known)


MAY = "2024-05-01T12:30:00"


NAMES = [b"a.png", b"sub/two words.jpg", b"caf\xe9.png", b"new\nline.png", "写真.png".encode()]


def test_lines_are_paths_and_newlines(here: Path) -> None:
    stream = io.BytesIO()
    write_paths(shown_path, b"\n")([hit(name, here / "photos") for name in NAMES], "model", stream)
    assert stream.getvalue() == b"".join(b"photos/" + name + b"\n" for name in NAMES)


def test_null_ends_every_path(here: Path) -> None:
    stream = io.BytesIO()
    write_paths(shown_path, b"\0")([hit(name, here / "photos") for name in NAMES], "model", stream)
    assert stream.getvalue() == b"".join(b"photos/" + name + b"\0" for name in NAMES)


def test_nothing_is_written_of_no_hits() -> None:
    show = shown_path
    writers = [
        write_paths(show, b"\n"),
        write_json_lines(show),
        write_template("{path}", show, b"\n"),
    ]
    for write in writers:
        stream = io.BytesIO()
        write([], "model", stream)
        assert stream.getvalue() == b""


def test_json_lines_byte_for_byte(here: Path) -> None:
    stream = io.BytesIO()
    judged = {"false_alarm": 0.0123456, "precision": 0.9, "domain": "toys", "tested": "failed"}
    judged |= {"verdict": "weak", "rate": 0.31}
    origin = {"camera": "Leica M10", "latitude": -33.9, "longitude": 18.4}
    facts = {"taken_at": "2024-05-01T12:30:00", **judged, **origin}
    hits = [
        hit('写 "1".png'.encode(), here, score=0.123456789, **facts),
        hit(b"caf\xe9.png", Path("/other"), score=-0.5),
    ]
    write_json_lines(shown_path)(hits, "ViT-B-16/x", stream)
    first, second, end = stream.getvalue().split(b"\n")
    assert first.decode() == (
        '{"rank": 1, "score": 0.123457, "path": "写 \\"1\\".png", '
        f'"root": {json.dumps(os.fspath(here))}, "id": 7, "width": 640, "height": 480, '
        '"taken_at": "2024-05-01T12:30:00", "model": "ViT-B-16/x", '
        '"false_alarm": 0.01235, "precision": 0.9, "domain": "toys", "tested": "failed", '
        '"calibrated": true, "verdict": "weak", "rate": 0.31, '
        '"collapsed": 0, "camera": "Leica M10", "latitude": -33.9, "longitude": 18.4, '
        '"caption": null, "url": null}'
    )
    assert json.loads(second) == {
        "rank": 2,
        "score": -0.5,
        "path": {"bytes": base64.b64encode(b"/other/caf\xe9.png").decode()},
        "root": "/other",
        "id": 7,
        "width": 640,
        "height": 480,
        "taken_at": None,
        "model": "ViT-B-16/x",
        "false_alarm": None,
        "precision": None,
        "domain": "",
        "tested": "untested",
        "calibrated": True,
        "verdict": None,
        "rate": None,
        "collapsed": 0,
        "camera": None,
        "latitude": None,
        "longitude": None,
        "caption": None,
        "url": None,
    }
    assert end == b""


def formatted(template: str, *hits: Hit, end: bytes = b"\n") -> bytes:
    stream = io.BytesIO()
    write_template(template, shown_path, end)(hits, "pocket", stream)
    return stream.getvalue()


def test_a_template_has_the_fields_of_the_json_lines(here: Path) -> None:
    known = hit(b"caf\xe9.png", here, score=0.123456, false_alarm=0.01, tested="tested")
    line = formatted(r"{rank}\t{score:.3f}\t{path}\t{width}x{height}\t{tested}{taken_at}|", known)
    assert line == b"1\t0.123\tcaf\xe9.png\t640x480\ttested|\n"
    assert formatted("{false_alarm:.1%} {precision:.2f}", known) == b"1.0% \n"
    assert formatted("{{{rank:>3}}}", known, known, end=b"\0") == b"{  1}\0{  2}\0"
    assert formatted("", known) == b"\n"


@pytest.mark.parametrize(
    "template",
    [
        *("{nothing}", "{}", "{0}", "{path.__class__}", "{path[0]}", "{score!r:d}", "{score:d}"),
        *("{score:9999999999}", "{score:.99999f}", "{path:x>1000}", "{path:{id}000}"),
        *("{", "}", "{path", "{score:.3f", "{:}", "{path:.2f}", "{taken_at:.1f}"),
    ],
)
def test_what_is_no_template_is_said_before_anything_is_searched(template: str) -> None:
    with pytest.raises(UsageError, match="is no template") as caught:
        write_template(template, shown_path, b"\n")
    assert "{score:.3f} {path}" in caught.value.hint


@given(st.text(st.sampled_from("{}:.!%[]dfs0 pathscore"), max_size=14))
def test_any_template_is_one_or_is_refused(template: str) -> None:
    with suppress(UsageError):
        formatted(template, hit(b"a.png", Path("/photos")))


def test_paths_from_the_root_and_from_here(here: Path) -> None:
    inside, outside = hit(b"a.png", here / "photos"), hit(b"b.png", here.parent / "other")
    above = os.fsencode(here.parent)
    assert [absolute_path(inside), absolute_path(outside)] == [
        above + b"/here/photos/a.png",
        above + b"/other/b.png",
    ]
    assert relative_path(inside) == shown_path(inside) == b"photos/a.png"
    assert relative_path(outside) == b"../other/b.png"
    assert shown_path(outside) == above + b"/other/b.png"


def test_a_table_has_a_row_a_hit_and_names_the_model(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    hits = [
        hit(b"[bold]a:smile:.png", here, score=0.3456, false_alarm=0.0123, precision=0.9),
        hit(os.fsencode(ESCAPES.replace("\0", "")), here, false_alarm=0.0001),
    ]
    write_table(shown_path)(hits, f"pocket{ESCAPES}", io.BytesIO())
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    first, second, third, model = [line for line in shown.splitlines() if line.strip()]
    assert first.split() == ["#", "score", "false", "alarm", "right", "size", "path"]
    assert second.split() == [
        *("1", "0.346", "1.2", "%", "90.0", "%", "640", "x", "480", "[bold]a:smile:.png")
    ]
    assert third.split()[:8] == ["2", "0.250", "<", "0.1", "%", "-", "640", "x"]
    assert model.startswith("ranked by pocket�[2Jred")


def test_no_match_tells_how_near_the_best_picture_came(here: Path) -> None:
    nearest = hit(b"a.png", here)
    assert list(answer_lines(Answer([]))) == ["no match"]
    assert list(answer_lines(Answer([], nearest=[nearest]))) == ["no match"]
    assert list(answer_lines(Answer([], nothing_passes=True))) == [
        "no match: no indexed picture passes the filters"
    ]
    said = "unrelated queries score as high here; the nearest picture is a.png (--all prints it)"
    found = Answer([], Judgment("none", 0.634), nearest=[nearest])
    assert list(answer_lines(found)) == [f"no match: 63.4 % of {said}"]
    found = Answer([], Judgment("weak", 0.234), nearest=[nearest])
    assert list(answer_lines(found, strict=True)) == [f"no strong match: 23.4 % of {said}"]


def test_a_weak_match_says_so_and_a_strong_one_says_nothing(here: Path) -> None:
    hits = [hit(b"a.png", here)]
    assert list(answer_lines(Answer(hits, Judgment("strong", 0.02)))) == []
    assert list(answer_lines(Answer(hits, Judgment("weak", 0.31)))) == [
        "weak match: 31.0 % of unrelated queries score as high here"
    ]
