"""Progress as a terminal gets it, and that nothing but a terminal does."""

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from conftest import Run, make_picture
from rich.console import Console
from rich.progress import Task

from clipsearch.cli.app import progress
from clipsearch.cli.render.progress import Line

pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="there are no pseudo-terminals"),
]

DOWNLOAD = (
    "import sys; from clipsearch import cli; "
    "from clipsearch.models.open_clip import download_published; "
    "print(download_published({'url': sys.argv[1]}, offline=False))"
)
"""Through open_clip's own downloader, as weights come that are not on the hub."""


def on_a_terminal(*command: str | Path, **variables: str) -> tuple[str, str]:
    """Standard output, and what a terminal would get of standard error."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", **variables}
    env.pop("TQDM_DISABLE", None)
    shown = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=env) as process:
        os.close(theirs)
        while True:
            try:
                part = os.read(ours, 10_000)
            except OSError:  # Linux says so of a terminal that all have closed
                break
            if not part:
                break
            shown += part
        assert process.stdout is not None
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0, shown
    return out.decode(), shown.decode()


def plain(shown: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


@pytest.mark.process
def test_index_tells_what_it_is_doing_and_takes_that_away_again(
    tmp_path: Path, tiny_model: Path
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for seed in range(12):
        make_picture(root / f"{seed}.png", seed)
    out, shown = on_a_terminal(
        sys.executable, "-m", "clipsearch", "index", root, "--model", tiny_model
    )
    assert out == ""
    text = plain(shown)
    for doing in ("looking for images", "loading the model", "embedding", "calibrating scores"):
        assert doing in text
    assert "0/12" in text
    assert text.index("looking for images") < text.index("loading the model")
    summary, untested = text.strip().splitlines()[-2:]
    assert "12 added" in summary
    assert "untested" in untested
    assert "\x1b[2K" in shown  # rich's way of clearing the bar's line


def test_a_download_shows_a_bar_on_a_terminal_and_on_nothing_else(
    run_process: Run, tmp_path: Path
) -> None:
    weights = tmp_path / "served" / "tiny.pt"
    weights.parent.mkdir()
    weights.write_bytes(b"w" * 300_000)
    home = {"HOME": str(tmp_path / "one"), "TQDM_MININTERVAL": "0"}
    (tmp_path / "one").mkdir()
    out, shown = on_a_terminal(sys.executable, "-c", DOWNLOAD, weights.as_uri(), **home)
    assert Path(out.strip()).read_bytes() == weights.read_bytes()
    assert "100%" in shown
    assert "300k/300k" in shown

    (tmp_path / "two").mkdir()
    done = run_process(
        "-c",
        DOWNLOAD,
        weights.as_uri(),
        env={"HOME": str(tmp_path / "two")},
        command=[sys.executable],
    )
    assert (done.code, done.err) == (0, "")
    assert Path(done.out.decode().strip()).is_relative_to(tmp_path / "two")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_shown_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as bar:
        bar("embedding", 3, 10)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_is_told_what_how_many_and_how_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with progress() as bar:
        bar("loading the model", 0, 1)
        bar("embedding", 0, 1200)
        time.sleep(0.01)
        bar("embedding", 700, 1200)
        time.sleep(0.01)
        bar("embedding", 900, 1200)
    shown = plain(terminal.getvalue())
    assert "loading the model" in shown
    assert "0/1 " not in shown
    assert re.search(r"embedding  ━+─+  900/1,200  \d+s left  [\d,.]+/s", shown)
    assert "\x1b[2K" in terminal.getvalue()  # and the line is cleared again


def line(cells: int, **known: object) -> str:
    known = {"total": 1200, "completed": 600, "speed": 20.0, "time_remaining": 30.2} | known
    task = SimpleNamespace(**{"description": "changing images a little"} | known)
    return Line(Console(width=cells + 2)).render(cast(Task, task)).plain


@pytest.mark.parametrize(
    ("speed", "text"),
    [(None, ""), (0.044, "  2.6/min"), (0.44, "  0.4/s"), (4321.0, "  4,321.0/s")],
)
def test_a_rate_is_told_by_the_minute_where_it_is_slow(speed: float | None, text: str) -> None:
    assert line(118, speed=speed).endswith(f"600/1,200  30s left{text}")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (65, "1m 05s"), (3599.6, "1h 00m"), (90_061, "25h 01m")]
)
def test_the_time_that_is_left(seconds: float, text: str) -> None:
    assert f"  {text} left  " in line(118, time_remaining=seconds)


def test_a_narrow_terminal_gets_the_same_line_with_less_in_it() -> None:
    assert line(118) == (
        f"changing images a little  {'━' * 11}{'─' * 12}  600/1,200  30s left  20.0/s"
    )
    assert line(56) == "changing images a little  ━━━━━──────  600/1,200"
    assert line(58, description="embedding") == (
        "embedding  ━━━━━──────  600/1,200  30s left  20.0/s"
    )
    assert line(38) == "changing images a little  600/1,200"
    assert line(28) == "changing imag...  600/1,200"


@pytest.mark.parametrize("total", [None, 1])
def test_what_has_no_steps_has_no_bar(total: int | None) -> None:
    assert line(78, total=total, completed=0) == "changing images a little"
