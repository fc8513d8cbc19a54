"""What the README shows is what the program prints.

A ``console`` block is a session: lines that start with ``$`` are run by a shell beside a fresh
copy of the sample pictures, all blocks in one place and in order, and what follows is what they
print on a pipe, both streams together. Blocks marked ``<!-- help: COMMAND -->`` hold its help text.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SESSIONS = re.findall(r"^```console\n(.*?)^```$", README, flags=re.M | re.S)
HELP = re.findall(r"^<!-- help: ?(.*?) -->\n```text\n(.*?)^```$", README, flags=re.M | re.S)

COMMANDS = {
    *("", "index", "search", "status", "evaluate", "classify", "verify", "models"),
    *("probe", "probe train", "domain", "domain init", "domain show", "domain check"),
}
VARYING = [
    (r"in \d+\.\d s", "in N s"),
    (r"\d+\.\d [kMG]?B", "N MB"),
    (r"\d{4}-\d\d-\d\d(T[\d:+]+)?", "TIME"),
    (r"\d+\.\d (to \d+\.\d|%)", "N"),
    (r"0\.\d{3,}", "SCORE"),
    (r'"id": \d+', '"id": N'),
    (r'/[^ "]*/sample_data', ".../sample_data"),
]
"""Times, sizes, the last digits of scores, the order of decoding and places differ."""


def steady(text: str) -> str:
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def environment() -> dict[str, str]:
    programs = os.path.dirname(sys.executable)
    return {**os.environ, "PATH": programs + os.pathsep + os.environ["PATH"], "COLUMNS": "100"}


def test_there_are_sessions_and_help_texts() -> None:
    assert len(SESSIONS) >= 5
    assert {command for command, _ in HELP} >= COMMANDS


def test_every_session_prints_what_is_written(tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "sample_data", tmp_path / "sample_data", ignore=shutil.ignore_patterns(".*")
    )
    for session in SESSIONS:
        for command, expected in re.findall(
            r"^\$ (.*(?:\\\n.*)*)\n((?:(?!\$ ).*\n)*)", session, flags=re.M
        ):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=tmp_path,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=300,
                check=False,
            )
            assert steady(done.stdout) == steady(expected), command


@pytest.mark.parametrize(("command", "expected"), HELP, ids=[c or "(top)" for c, _ in HELP])
def test_help_texts_are_the_programs_own(command: str, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "clipsearch", *command.split(), "--help"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert steady(done.stdout) == steady(expected)
