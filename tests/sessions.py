"""Documents that show what the program prints, run and compared, or written anew.

A ``console`` block is a session: lines that start with ``$`` are run by a shell, all blocks of a
document in one place and in order, and what follows is what they print on a pipe, both streams
together. A block marked ``<!-- help: COMMAND -->`` holds that command's help text.

    python tests/sessions.py README.md     # writes the document with what is printed now
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SESSION = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HELP = re.compile(r"(^<!-- help: ?(.*?) -->\n```text\n)(.*?)(^```$)", re.MULTILINE | re.DOTALL)
STEP = re.compile(r"^\$ (.*(?:\\\n.*)*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)

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
    """The text without what differs from run to run."""
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def environment(programs: Path | None = None) -> dict[str, str]:
    """Our programs first, then those that stand in for others, then the system's."""
    first = [os.path.dirname(sys.executable), *([os.fspath(programs)] if programs else [])]
    path = os.pathsep.join([*first, os.environ["PATH"]])
    return {**os.environ, "PATH": path, "COLUMNS": "100"}


def beside_the_samples(place: Path) -> Path:
    """A folder that has a fresh copy of the sample pictures in it."""
    shutil.copytree(
        ROOT / "sample_data", place / "sample_data", ignore=shutil.ignore_patterns(".*")
    )
    return place


def run(command: str, place: Path, programs: Path | None = None) -> str:
    """What a command line prints on a pipe."""
    return subprocess.run(
        ["bash", "-c", command],
        cwd=place,
        env=environment(programs),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    ).stdout


def steps(document: str) -> Iterator[tuple[str, str]]:
    """Command lines and what they are said to print."""
    for session in SESSION.findall(document):
        yield from STEP.findall(session)


def help_text(command: str) -> str:
    """What ``--help`` prints."""
    return subprocess.run(
        [sys.executable, "-m", "clipsearch", *command.split(), "--help"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def rewritten(document: str, place: Path, programs: Path | None) -> str:
    """The document with what is printed now, where more than what varies has changed."""

    def step(found: re.Match[str]) -> str:
        command, expected = found.groups()
        printed = run(command, place, programs).replace(f"{place}/", "/home/you/")
        if steady(printed) == steady(expected):
            return found[0]
        return f"$ {command}\n{printed}" + ("" if not printed or printed.endswith("\n") else "\n")

    document = SESSION.sub(lambda session: f"```console\n{STEP.sub(step, session[1])}```", document)
    return HELP.sub(lambda found: f"{found[1]}{help_text(found[2]).strip()}\n{found[4]}", document)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a document with what is printed now.")
    parser.add_argument("document", type=Path)
    document = parser.parse_args().document
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for name in ("data", "cache", "hub"):
            os.environ[f"CLIPSEARCH_{name.upper()}_DIR"] = str(place / f".{name}")
        os.environ["HF_HUB_OFFLINE"] = "1"
        text = document.read_text(encoding="utf-8")
        written = rewritten(text, beside_the_samples(place), ROOT / "tests" / "programs")
        document.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    main()
