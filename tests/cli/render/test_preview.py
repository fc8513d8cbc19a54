"""``search --preview``: thumbnails in a terminal, in half blocks where it can draw nothing else."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from conftest import Run

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from clipsearch.images.decode import jpeg
from clipsearch.errors import UsageError
from clipsearch.paths import absolute_path
from clipsearch.cli.render.preview import preview, require_terminal
from clipsearch.records import Hit

names = [b"red.png", b"blue.png", b"gone.png", b"\\x1b[2J\\xff.png"]
hits = [Hit(n, name, Path("/root"), 0.9 - n / 10, 48, 40, None) for n, name in enumerate(names)]
red, blue = (jpeg(np.full((224, 224, 3), c, np.uint8)) for c in [(254, 0, 0), (0, 0, 254)])
try:
    require_terminal()
except UsageError as error:
    sys.exit(f"{error} / {error.hint}")
preview(hits, dict(zip(map(absolute_path, hits), [red, blue])))
"""


def in_a_terminal(
    program: str, columns: int = 100, answers: str = "", **env: str
) -> tuple[int, str]:
    """Run a program in a terminal that gives these answers, whatever it is asked, and no others."""
    ours, theirs = pty.openpty()
    pixels = (10 * columns, 1000) if answers else (0, 0)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, *pixels))
    os.write(ours, answers.encode())  # long before it is asked: there is a tenth of a second
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", **env},
    )
    os.close(theirs)
    data, until = b"", time.monotonic() + 60
    while time.monotonic() < until:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                data += os.read(ours, 65536)
            except OSError:  # nobody has the other end any more
                break
    os.close(ours)
    return process.wait(10), data.decode()


@pytest.mark.process
def test_half_blocks_in_the_pictures_colours_with_rank_score_and_name() -> None:
    code, text = in_a_terminal(PROGRAM, COLORTERM="truecolor")
    assert code == 0, text
    words = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text)
    assert words.count("▀") == 2 * 18 * 9
    assert "38;2;254;0;0" in text
    assert "38;2;0;0;254" in text
    for shown in ("1 0.900 red.png", "2 0.800 blue.png", "(cannot be shown)", "3 0.700 gone.png"):
        assert shown in words
    assert "4 0.600 \N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}.png" in words
    assert "Traceback" not in words
    assert "VT340" not in words  # what the library tells its developers


@pytest.mark.process
@pytest.mark.parametrize(
    ("answers", "begins", "count"),
    [
        ("\x1b[?62;4c", "\x1bP", 2),  # a VT240 with sixels
        ("\x1b[?62c\x1b_Gi=1;OK\x1b\\", "\x1b_Ga=p,", 2),  # kitty
    ],
    ids=["sixel", "kitty"],
)
def test_pictures_where_the_terminal_has_them(answers: str, begins: str, count: int) -> None:
    code, text = in_a_terminal(PROGRAM, answers=answers, COLORTERM="truecolor")
    assert code == 0, text
    assert text.count(begins) == count
    assert "\N{UPPER HALF BLOCK}" not in text
    for shown in ("red.png", "blue.png", "(cannot be shown)", "gone.png"):
        assert shown in text


@pytest.mark.process
def test_a_terminal_without_colours_is_told_so() -> None:
    code, text = in_a_terminal(PROGRAM, NO_COLOR="1")
    assert code == 1
    assert "--preview needs colors" in text


@pytest.mark.process
def test_a_terminal_that_does_not_tell_its_width_is_no_place_for_pictures() -> None:
    code, text = in_a_terminal(PROGRAM, columns=0, COLORTERM="truecolor")
    assert code == 1
    assert "the width of the terminal" in text
    assert "stty columns 80" in text


@pytest.mark.process
def test_the_extra_is_named_where_it_is_missing() -> None:
    without = "import sys; sys.modules['textual_image'] = None\n"
    code, text = in_a_terminal(without + PROGRAM, COLORTERM="truecolor")
    assert code == 1
    assert "textual-image, which is not installed" in text
    assert "pip install 'clipsearch[preview]'" in text


@pytest.mark.parametrize("option", ["--preview", "--montage"])
def test_what_cannot_be_shown_is_refused_before_any_work(
    run: Run, tmp_path: Path, option: str
) -> None:
    """There is not even an index here, and nobody gets to look for one."""
    wrong = {
        "--preview": ([], "standard output is not one", "--html FILE"),
        "--montage": (
            [tmp_path / "a.webp"],
            "a.webp is neither a PNG nor a JPEG",
            "End it in .png",
        ),
    }
    arguments, message, hint = wrong[option]
    done = run("search", "a cat", option, *arguments)
    assert (done.code, done.out) == (2, b"")
    assert message in done.err
    assert hint in done.err


def test_a_montage_in_no_folder_is_refused(run: Run, tmp_path: Path) -> None:
    done = run("search", "a cat", "--montage", tmp_path / "none" / "a.png")
    assert (done.code, done.out) == (2, b"")
    assert "--montage takes a file in a folder that exists" in done.err
