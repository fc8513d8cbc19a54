"""What is printed: byte for byte where programs read it, harmless where people do."""

import base64
import io
import json
import os
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import fake_spec
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.cli.render import output
from clipsearch.cli.render.json_lines import json_line, json_path
from clipsearch.domain.calibration import FalseAlarms
from clipsearch.domain.gate import GateErrors
from clipsearch.domain.intervals import proportion
from clipsearch.domain.taxonomy import Domain, DomainClass
from clipsearch.errors import UsageError
from clipsearch.evaluation.metrics import RetrievalReport, Shortfall
from clipsearch.paths import absolute_path, relative_path, shown_path
from clipsearch.records import ClusterSearch, CollectionStatus, Hit, IndexSummary, Tested
from clipsearch.storage.collection import Evaluation, tested_line
from clipsearch.text import printable, size_text

ESCAPES = "\x1b[2Jred\x07\x9b1m\r\n\u202etxt.exe\u2066\u200f\u2028\ufeff\udce9\x7f\0"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which the hits below lie."""
    (tmp_path / "here" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def hit(path: bytes, root: Path, *, score: float = 0.25, **known: Any) -> Hit:
    return Hit(7, path, root, score, 640, 480, known.pop("taken_at", None), **known)


@dataclass
class Known:
    """What an index knows of its answers, as `Collection` tells it."""

    domain: Domain
    evaluation: Evaluation | None = None
    tested: Tested = "untested"

    def false_alarms(self, kind: str) -> FalseAlarms | None:
        return FalseAlarms.of([0.1]) if kind == "text" else None


def known(name: str = "toys", *shortfalls: Shortfall, evaluated: bool = True) -> Any:
    """An index whose domain has one class, and whose evaluation missed these pass marks."""
    ball = DomainClass("ball", (), ())
    domain = Domain(name, "", "en", ("{}",), (ball,), (), (), {"top1": 0.6})
    if not evaluated:
        return Known(domain)
    report = RetrievalReport(80, 90, {}, {})
    found = Evaluation(
        *("f" * 64, domain.fingerprint, "t" * 64, "labelled", "2024-05-03T12:30:00+00:00"),
        *(report, {"top1": 0.5}, shortfalls, None),
    )
    return Known(domain, found, "failed" if shortfalls else "tested")


MAY = "2024-05-01T12:30:00"
NAMES = [b"a.png", b"sub/two words.jpg", b"caf\xe9.png", b"new\nline.png", "写真.png".encode()]


def test_lines_are_paths_and_newlines(here: Path) -> None:
    stream = io.BytesIO()
    output.write_paths(shown_path, b"\n")(
        [hit(name, here / "photos") for name in NAMES], "model", stream
    )
    assert stream.getvalue() == b"".join(b"photos/" + name + b"\n" for name in NAMES)


def test_null_ends_every_path(here: Path) -> None:
    stream = io.BytesIO()
    output.write_paths(shown_path, b"\0")(
        [hit(name, here / "photos") for name in NAMES], "model", stream
    )
    assert stream.getvalue() == b"".join(b"photos/" + name + b"\0" for name in NAMES)


def test_nothing_is_written_of_no_hits() -> None:
    show = shown_path
    writers = [
        output.write_paths(show, b"\n"),
        output.write_json_lines(show),
        output.write_template("{path}", show, b"\n"),
    ]
    for write in writers:
        stream = io.BytesIO()
        write([], "model", stream)
        assert stream.getvalue() == b""


def test_json_lines_byte_for_byte(here: Path) -> None:
    stream = io.BytesIO()
    judged = {"false_alarm": 0.0123456, "precision": 0.9, "domain": "toys", "tested": "failed"}
    origin = {"camera": "Leica M10", "latitude": -33.9, "longitude": 18.4}
    facts = {"taken_at": "2024-05-01T12:30:00", **judged, **origin}
    hits = [
        hit('写 "1".png'.encode(), here, score=0.123456789, **facts),
        hit(b"caf\xe9.png", Path("/other"), score=-0.5),
    ]
    output.write_json_lines(shown_path)(hits, "ViT-B-16/x", stream)
    first, second, end = stream.getvalue().split(b"\n")
    assert first.decode() == (
        '{"rank": 1, "score": 0.123457, "path": "写 \\"1\\".png", '
        f'"root": {json.dumps(os.fspath(here))}, "id": 7, "width": 640, "height": 480, '
        '"taken_at": "2024-05-01T12:30:00", "model": "ViT-B-16/x", '
        '"false_alarm": 0.01235, "precision": 0.9, "domain": "toys", "tested": "failed", '
        '"collapsed": 0, "camera": "Leica M10", "latitude": -33.9, "longitude": 18.4}'
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
        "collapsed": 0,
        "camera": None,
        "latitude": None,
        "longitude": None,
    }
    assert end == b""


def formatted(template: str, *hits: Hit, end: bytes = b"\n") -> bytes:
    stream = io.BytesIO()
    output.write_template(template, shown_path, end)(hits, "pocket", stream)
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
        *("{", "}", "{path", "{score:.3f", "{:}", "{path:.2f}", "{taken_at:.1f}"),
    ],
)
def test_what_is_no_template_is_said_before_anything_is_searched(template: str) -> None:
    with pytest.raises(UsageError, match="is no template") as caught:
        output.write_template(template, shown_path, b"\n")
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


@given(st.binary())
def test_a_path_survives_json_whatever_its_bytes(path: bytes) -> None:
    told = json.loads(json_line({"path": json_path(path)}))["path"]
    assert path == (told.encode() if isinstance(told, str) else base64.b64decode(told["bytes"]))


def test_a_record_is_one_line_of_utf8_even_with_half_a_surrogate_pair() -> None:
    line = json_line({"model": "caf\udce9\n"})
    assert line.count(b"\n") == 1
    assert json.loads(line.decode("utf-8")) == {"model": "caf\udce9\n"}


@pytest.mark.parametrize(
    ("root", "shown"),
    [
        ("here", b"x.png"),
        ("here/photos", b"photos/x.png"),
        ("here and there", b"{}/here and there/x.png"),
        ("elsewhere", b"{}/elsewhere/x.png"),
        ("", b"{}/x.png"),
    ],
)
def test_a_path_is_shown_as_the_user_would_type_it(
    here: Path, tmp_path: Path, root: str, shown: bytes
) -> None:
    expected = shown.replace(b"{}", os.fsencode(tmp_path))
    assert shown_path(hit(b"x.png", tmp_path / root)) == expected


def test_every_shown_path_opens_the_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "photos" / "x.png").write_bytes(b"content")
    for folder in (here, here / "photos", here.parent, Path(here.anchor)):
        monkeypatch.chdir(folder)
        with open(shown_path(hit(b"x.png", here / "photos")), "rb") as file:
            assert file.read() == b"content"


# -- for people ----------------------------------------------------------------------------------


def test_printable_leaves_text_of_all_languages_as_it_is() -> None:
    text = "Ærø 写真 שלום مرحبا 🏔 e\u0301 [bold] \\ :smile: a b"
    assert printable(text) == text


def test_printable_takes_out_what_a_terminal_would_obey() -> None:
    shown = printable(ESCAPES)
    assert len(shown) == len(ESCAPES)
    assert shown == "�[2Jred��1m���txt.exe������" + "�"


@given(st.text(st.characters()))
def test_printable_text_is_one_line_and_obeys_nobody(text: str) -> None:
    shown = printable(text)
    categories = {unicodedata.category(character) for character in shown}
    assert not categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    shown.encode()


def test_a_table_has_a_row_a_hit_and_names_the_model(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    hits = [
        hit(b"[bold]a:smile:.png", here, score=0.3456, false_alarm=0.0123, precision=0.9),
        hit(os.fsencode(ESCAPES.replace("\0", "")), here, false_alarm=0.0001),
    ]
    output.write_table(shown_path)(hits, f"pocket{ESCAPES}", io.BytesIO())
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    first, second, third, model = [line for line in shown.splitlines() if line.strip()]
    assert first.split() == ["#", "score", "false", "alarm", "right", "size", "path"]
    assert second.split() == [
        *("1", "0.346", "1.2", "%", "90.0", "%", "640", "x", "480", "[bold]a:smile:.png")
    ]
    assert third.split()[:7] == ["2", "0.250", "<", "0.1", "%", "640", "x"]
    assert model.startswith("ranked by pocket�[2Jred")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (1449, "1.4 kB"),
        (999_900, "999.9 kB"),
        (999_960, "1.0 MB"),
        (1_400_000, "1.4 MB"),
        (350_000_000_000, "350.0 GB"),
        (2_500_000_000_000, "2.5 TB"),
        (2_500_000_000_000_000, "2500.0 TB"),
    ],
)
def test_sizes_are_said_as_people_say_them(count: int, text: str) -> None:
    assert size_text(count) == text


def test_a_summary_tells_failures_first_and_then_the_counts() -> None:
    summary = IndexSummary(
        added=3,
        changed=2,
        moved=1,
        removed=4,
        unchanged=50,
        failed=[(b"caf\xe9.png", "the file is empty")],
        still_failed=6,
        unreadable=[(b"private", "Permission denied")],
        links=7,
        embedded=5,
        seconds=1.26,
    )
    assert output.summary_lines("photos", summary) == [
        "skipping caf�.png: the file is empty",
        "cannot read private: Permission denied",
        "photos: 3 added, 2 changed, 1 moved, 4 removed, 50 unchanged, 1 failed "
        "(6 failed before and have not changed), 7 links not followed; 5 embedded in 1.3 s",
    ]


def test_a_summary_is_short_when_there_is_little_to_tell() -> None:
    assert output.summary_lines("photos", IndexSummary(unchanged=9, looked_at=7)) == [
        "photos: 0 added, 0 changed, 0 moved, 0 removed, 9 unchanged, 0 failed; "
        "camera and place read of 7"
    ]
    assert output.summary_lines("photos", IndexSummary(unchanged=9)) == [
        "photos: 0 added, 0 changed, 0 moved, 0 removed, 9 unchanged, 0 failed"
    ]


def status(
    root: Path,
    *,
    reason: str = "the file is empty",
    name: str = "fake",
    clusters: ClusterSearch | None = None,
) -> CollectionStatus:
    return CollectionStatus(
        root=root,
        directory=root / ".clipsearch",
        spec=fake_spec(name=name),
        images=1234,
        failed=[(b"caf\xe9.png", reason)],
        catalog_bytes=5_000_000,
        vector_bytes=1500,
        created_at="2024-05-01T12:30:00+00:00",
        updated_at="2024-05-02T12:30:00+00:00",
        pending=3,
        clusters=clusters,
    )


def test_status_for_people() -> None:
    text = output.status_text(status(Path("/photos")), known(), "on this machine")
    assert text.splitlines() == [
        "/photos",
        "  images   1234",
        "  failed   1",
        "           caf�.png: the file is empty",
        "  model    fake (16 dimensions, on this machine)",
        "  domain   toys (1 classes)",
        "  answers  tested on the domain toys with 80 pictures on 2024-05-03",
        "  index    /photos/.clipsearch",
        "  sizes    catalogue 5.0 MB, vectors 1.5 kB",
        "  search   exact",
        "  created  2024-05-01T12:30:00+00:00",
        "  updated  2024-05-02T12:30:00+00:00",
    ]


CLUSTERS = ClusterSearch(lists=5800, probed=181, queries=170, recall=0.9934, scanned=0.034)
NOT_WORTH_IT = ClusterSearch(lists=0, probed=4000, queries=170, recall=0.9971, scanned=0.613)


@pytest.mark.parametrize(
    ("clusters", "text", "search"),
    [
        (
            CLUSTERS,
            "clusters: 181 of 5,800 read per query, recall@10 0.993 measured with 170 text queries",
            "clusters",
        ),
        (
            NOT_WORTH_IT,
            "exact; clusters would read 61% of the vectors, recall@10 0.997 measured with "
            "170 text queries",
            "exact",
        ),
    ],
)
def test_status_says_how_a_large_collection_is_searched(
    clusters: ClusterSearch, text: str, search: str
) -> None:
    told = status(Path("/photos"), clusters=clusters)
    assert f"  search   {text}" in output.status_text(told, known(), "here").splitlines()
    record = output.status_record(told, known())
    assert record["search"] == search
    assert record["clusters"] == clusters._asdict()


def test_status_for_programs() -> None:
    collection = known("toys", Shortfall("top1", 0.5, 0.6))
    record = output.status_record(status(Path(os.fsdecode(b"/caf\xe9"))), collection)
    assert json.loads(json_line(record)) == {
        "root": {"bytes": base64.b64encode(b"/caf\xe9").decode()},
        "index": {"bytes": base64.b64encode(b"/caf\xe9/.clipsearch").decode()},
        "images": 1234,
        "failed": [
            {
                "path": {"bytes": base64.b64encode(b"caf\xe9.png").decode()},
                "reason": "the file is empty",
            }
        ],
        "model": "fake",
        "fingerprint": "f" * 64,
        "dimensions": 16,
        "catalog_bytes": 5_000_000,
        "vector_bytes": 1500,
        "not_in_vector_file": 3,
        "search": "exact",
        "clusters": None,
        "domain": "toys",
        "domain_fingerprint": collection.domain.fingerprint,
        "tested": "failed",
        "evaluated_at": "2024-05-03T12:30:00+00:00",
        "measures": {"top1": 0.5},
        "calibrated": True,
        "created_at": "2024-05-01T12:30:00+00:00",
        "updated_at": "2024-05-02T12:30:00+00:00",
    }


def test_no_text_from_an_index_or_a_file_reaches_a_terminal_as_it_is() -> None:
    """An index travels with a disk, and its maker may not be its reader."""
    evil = ESCAPES.replace("\0", "")
    path = os.fsencode(evil)
    summary = IndexSummary(failed=[(path, evil)], unreadable=[(path, evil)])
    texts = [
        *output.summary_lines(evil, summary),
        *output.status_text(status(Path(evil), reason=evil, name=evil), known(evil), "here").split(
            "\n"
        ),
        *output.domain_text(known(evil).domain).split("\n"),
        tested_line(known(evil, evaluated=False)),
        output.no_match_line(hit(path, Path("/"), false_alarm=0.5)),
        output.models_text([("fake", "what it is", Path(evil))]),
    ]
    for text in texts:
        assert text.replace("\n", "") == printable(text.replace("\n", ""))
    assert len(texts) == 3 + 12 + 7 + 1 + 1 + 1


def test_what_was_tested_is_told_in_a_line() -> None:
    assert tested_line(known(evaluated=False)) == (
        "untested on the domain toys; test it with: clipsearch evaluate LABELLED"
    )
    failed = known("toys", Shortfall("top1", 0.5, 0.6), Shortfall("images", None, 50))
    assert tested_line(failed) == (
        "failed the tests of the domain toys with 80 pictures on 2024-05-03: "
        "top1 0.5 is below the mark 0.6; images was not measured (the mark is 50)"
    )


def test_no_match_tells_how_near_the_best_picture_came(here: Path) -> None:
    assert output.no_match_line(None) == "no match"
    assert output.no_match_line(hit(b"a.png", here)) == "no match"
    assert output.no_match_line(hit(b"a.png", here, false_alarm=0.234)) == (
        "no match: 23.4 % of unrelated queries reach the score of the best picture, a.png "
        "(--all prints it)"
    )


def test_the_errors_of_a_gate_for_people_and_for_programs() -> None:
    errors = GateErrors(200, 100, 80, proportion(3, 200), proportion(3, 120), None)
    text = output.gate_text(known().domain, "pocket", errors)
    assert "refused   1.5 % (0.5 to 4.3) of the in-domain examples (80 of 200 name a class)" in text
    assert "let in    nothing of the out-of-domain examples" in text
    record = json.loads(json_line(output.gate_record(known().domain, "pocket", errors)))
    assert record["refused"]["value"] == 0.015
    assert record["admitted"] is None
    assert (record["domain"], record["model"], record["classes"]) == ("toys", "pocket", 1)


def test_progress_is_silent_unless_stderr_is_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bar = output.ProgressBar()
    bar("embedding", 3, 10)
    bar.close()
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_tells_what_and_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    bar = output.ProgressBar()
    bar("loading the model", 0, 10)
    bar("embedding", 0, 10)
    bar("embedding", 7, 10)
    bar.close()
    bar.close()
    shown = terminal.getvalue()
    assert "embedding" in shown
    assert "7/10" in shown
    assert "left" not in shown  # which nobody can know so soon


def test_a_pace_is_that_of_the_last_half_minute() -> None:
    pace = output.Pace()
    assert pace.rate() is None
    pace.add(100.0, 0)
    pace.add(101.0, 5)
    assert pace.rate() is None  # too soon to tell
    pace.add(110.0, 10)
    assert pace.rate() == pytest.approx(1.0)
    for second in range(111, 171):
        pace.add(second, 10 + 20 * (second - 110))
    assert pace.rate() == pytest.approx(20.0)
    pace.add(300.0, 10 + 20 * 60)  # nothing came of it since
    assert pace.rate() is None
    pace = output.Pace()
    for second in range(0, 500, 100):  # a batch takes longer than half a minute
        pace.add(second, second)
    assert pace.rate() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (None, ""),
        (0.044, "2.6/min"),
        (0.44, "0.4/s"),
        (9.94, "9.9/s"),
        (17.6, "18/s"),
        (4321, "4,321/s"),
    ],
)
def test_a_rate_is_no_more_precise_than_it_can_be(rate: float | None, text: str) -> None:
    assert output.rate_text(rate) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "a few seconds left"),
        (9.9, "a few seconds left"),
        (14, "about 10 s left"),
        (54, "about 50 s left"),
        (56, "about 1 min left"),
        (89, "about 1 min left"),
        (3540, "about 59 min left"),
        (3590, "about 1 h left"),
        (4300, "about 1 h 10 min left"),
        (3600 * 2 - 60, "about 2 h left"),
        (3600 * 14.4, "about 14 h left"),
    ],
)
def test_a_time_left_is_no_more_precise_than_it_can_be(seconds: float, text: str) -> None:
    assert output.time_left_text(seconds) == text


def test_progress_tells_how_fast_and_how_long_of_what_is_being_done_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 100.0, 110.0])  # the model takes its time to load, and that does not count
    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: True))
    said: list[str] = []
    shown = SimpleNamespace(
        add_task=lambda doing, total, counted: doing,
        remove_task=lambda task: None,
        update=lambda task, completed, counted: said.append(counted),
        stop=lambda: None,
    )
    bar = output.ProgressBar()
    bar._bar = shown
    bar("loading the model", 0, 1)
    bar("embedding", 0, 1200)
    bar("embedding", 200, 1200)
    assert said == ["", "0/1,200", "200/1,200, 20/s, about 50 s left"]
