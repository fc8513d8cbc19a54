"""Hits: byte for byte where programs read them, harmless where people do."""

import base64
import io
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import ESCAPES
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from clipsearch.cli.render.hits import (
    answer_lines,
    footer,
    hits_table,
    write_json_lines,
    write_paths,
    write_table,
    write_template,
)
from clipsearch.cli.render.table import draw, fit
from clipsearch.errors import UsageError
from clipsearch.paths import absolute_path, relative_path, shown_path
from clipsearch.records import Hit, Span
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
    with pytest.raises(UsageError, match="is not a valid template") as caught:
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


def drawn(width: int, *hits: Hit, classes: Sequence[str | None] = ()) -> list[str]:
    """The lines of a table of hits on a console of that width, without its footer."""
    screen = Console(width=width, file=io.StringIO(), markup=False, highlight=False)
    draw(hits_table(hits, shown_path, classes), screen)
    lines: list[str] = screen.file.getvalue().splitlines()
    return lines


def test_a_table_has_a_row_for_each_hit_and_a_footer_of_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    hits = [
        hit(b"[bold]a:smile:.png", here, score=0.3456, precision=0.9, collapsed=2, taken_at=MAY),
        hit(os.fsencode(ESCAPES.replace("\0", "")), here),
    ]
    last = footer(Answer(hits, Judgment("weak", 0.3), matching=48))
    write_table(shown_path, ["dog", None], last)(hits, f"pocket{ESCAPES}", io.BytesIO())
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    first, second, third, model = shown.splitlines()
    assert first.split() == ["#", "score", "right", "similar", "path", "class", "date"]
    assert second.split() == [
        *("1", "0.346", "90.0%", "+2", "[bold]a:smile:.png", "dog"),
        "2024-05-01",
    ]
    assert third.split()[:3] == ["2", "0.250", "-"]
    assert model.startswith("weak match · 2 of 48 (-k shows more) · untested on")
    assert len(model) <= 100


LONG = b"copy/mountain/" + b"mountain_seen_from_the_harbour_of_" + b"pico.jpg"


def test_columns_give_way_before_a_path_does(here: Path) -> None:
    found = hit(LONG, here, taken_at=MAY)
    path = LONG.decode()
    whole = [f"1  0.250  {path}", "kitchen knife", "2024-05-01"]
    for width, kept in ((40, 0), (60, 0), (66, 1), (80, 1), (120, 3), (200, 3)):
        heading, row = drawn(width, found, classes=["kitchen knife"])
        assert cell_len(row) <= width
        if kept:
            assert row.split("  ", 3)[2].rstrip() == path
        assert [text in row for text in whole[:kept]] == [True] * kept, width
        assert ("class" in heading, "date" in heading) == (kept == 3, kept == 3)
    assert drawn(82, found, classes=["kitchen knife"])[0].split()[-1] == "class"
    assert drawn(40, found)[1] == "1  0.250  cop...ain/mountain..._pico.jpg"


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_hit_takes_one_line_whatever_its_name_is_written_in(here: Path, width: int) -> None:
    names = [
        "写真/" + "山の写真" * 20 + ".jpeg",
        "😀" * 70 + ".png",
        "e\u0301" * 150 + ".webp",
        "a.gif",
    ]
    hits = [hit(name.encode(), here, taken_at=MAY) for name in names]
    lines = drawn(width, *hits, classes=["dog"] * 4)
    assert len(lines) == 1 + len(hits)
    for line, name in zip(lines[1:], names, strict=True):
        assert cell_len(line) <= width
        assert name.rpartition(".")[2] in line
        assert "\u0301" not in line or "\u0301" not in re.split(r"\.\.\.", line)[-1][:1]


def test_a_column_of_which_nothing_is_known_is_left_out(here: Path) -> None:
    assert drawn(80, hit(b"a.png", here)) == ["#  score  path", "1  0.250  a.png"]


def test_a_terminal_gets_links_to_the_files_and_dimmed_folders(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = hit("sub/two wörds;\x07.png".encode(), here)
    for name, linked in (("xterm-256color", True), ("linux", False)):
        monkeypatch.setenv("TERM", name)
        screen = Console(width=80, file=io.StringIO(), force_terminal=True, color_system="standard")
        draw(hits_table([found], shown_path), screen)
        text = screen.file.getvalue()
        address = f"file://{os.uname().nodename}{here}/sub/two%20w%C3%B6rds%3B%07.png"
        assert (f";{address}\x1b\\" in text) == linked
        assert "\x1b[2msub/\x1b[0m" in text
        assert "\x07" not in text


def test_a_picture_in_an_archive_has_no_link(here: Path) -> None:
    inside = hit(b"shard.tar/a.jpg", here, span=Span(b"shard.tar", 0, 1))
    assert hits_table([inside], shown_path).links == [""]


def test_the_footer_says_what_the_answer_is_worth(here: Path) -> None:
    ours, theirs = hit(b"a.png", here, domain="toys"), hit(b"b.png", here, domain="parts")
    tested, failed = replace(ours, tested="tested"), replace(theirs, tested="failed")

    def last(*hits: Hit, width: int = 100, **known: Any) -> str:
        all = known.pop("all", False)
        return fit(footer(Answer(list(hits), Judgment(**known), matching=2), all=all), width)

    assert last(tested, tested, verdict="strong") == "strong match · tested on toys"
    assert last(ours, verdict="weak") == (
        "weak match · 1 of 2 (-k shows more) · untested on toys (clipsearch evaluate)"
    )
    assert last(ours, verdict="weak", width=50) == (
        "weak match · 1 of 2 (-k shows more) · untested"
    )
    assert last(ours, verdict="weak", width=62).endswith("(-k shows more) · untested on toys")
    assert last(ours, verdict="weak", width=34) == "weak match · 1 of 2 · untested"
    assert last(tested, failed) == "failed the tests of parts (clipsearch status)"
    assert last(ours, ours, all=True) == (
        "best 2, regardless of the verdict · untested on toys (clipsearch evaluate)"
    )


def test_no_match_tells_how_near_the_best_picture_came(here: Path) -> None:
    nearest = hit(b"a.png", here)
    assert list(answer_lines(Answer([]))) == ["no match"]
    assert list(answer_lines(Answer([], nearest=[nearest]))) == ["no match"]
    assert list(answer_lines(Answer([], nothing_passes=True))) == [
        "no match: no indexed image passes the filters"
    ]
    said = "unrelated queries score as high here; the nearest image is a.png (--all prints it)"
    found = Answer([], Judgment("none", 0.634), nearest=[nearest])
    assert list(answer_lines(found)) == [f"no match: 63.4% of {said}"]
    found = Answer([], Judgment("weak", 0.234), nearest=[nearest])
    assert list(answer_lines(found, strict=True)) == [f"no strong match: 23.4% of {said}"]


def test_a_weak_match_says_so_and_a_strong_one_says_nothing(here: Path) -> None:
    hits = [hit(b"a.png", here)]
    assert list(answer_lines(Answer(hits, Judgment("strong", 0.02)))) == []
    assert list(answer_lines(Answer(hits, Judgment("weak", 0.31)))) == [
        "weak match: 31.0% of unrelated queries score as high here"
    ]
