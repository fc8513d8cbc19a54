"""Documents that show what the program prints, run and compared, or written with what is printed.

A ``console`` block is a session: lines that start with ``$`` are run by a shell, all blocks of a
document in one place and in order, and what follows is what they print on a pipe, both streams
together. Scores and shares may differ a little, as processors round differently; nothing else may.

    python tests/sessions.py README.md clipsearch/cli/help/*.md     # writes what is printed now
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
STEP = re.compile(r"^\$ (.*(?:\\\n.*)*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)

VARYING = [
    (r"in \d+\.\d s", "in N s"),
    (r"\d+\.\d [kMG]?B", "N MB"),
    (r"\d{4}-\d\d-\d\d(T[\d:+]+)?", "TIME"),
    (r'"id": \d+', '"id": N'),
    (r'/[^ "]*/sample_data', ".../sample_data"),
]
"""Durations, sizes, dates, the order of decoding and places differ from run to run."""

NUMBER = re.compile(r"\d+\.\d+")
SCORES_WITHIN = 0.02
PERCENT_WITHIN = 2.5
"""A little more than two of the 98 sample images."""


def alike(printed: str, expected: str) -> bool:
    """Whether two outputs are the same but for what varies and for the rounding of scores."""
    ours, theirs = steady(printed), steady(expected)
    if NUMBER.sub("N", ours) != NUMBER.sub("N", theirs):
        return False
    pairs = zip(NUMBER.findall(ours), NUMBER.findall(theirs), strict=True)
    return all(_near(one, other) for one, other in pairs)


def _near(one: str, other: str) -> bool:
    """Scores are written with two decimals and more, percentages with one."""
    percent = len(other.split(".")[1]) == 1
    return abs(float(one) - float(other)) <= (PERCENT_WITHIN if percent else SCORES_WITHIN)


def steady(text: str) -> str:
    """The text without what differs from run to run, and with single spaces."""
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text)
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def environment(programs: Path | None = None) -> dict[str, str]:
    """Our programs first, then those that stand in for others, then the system's."""
    first = [os.path.dirname(sys.executable), *([os.fspath(programs)] if programs else [])]
    path = os.pathsep.join([*first, os.environ["PATH"]])
    return {**os.environ, "PATH": path, "COLUMNS": "100"}


def beside_the_samples(place: Path) -> Path:
    """A folder that has a fresh copy of the sample images in it."""
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


def rewritten(document: str, place: Path, programs: Path | None) -> str:
    """The document with what is printed now, where more than what varies has changed."""

    def step(found: re.Match[str]) -> str:
        command, expected = found.groups()
        printed = run(command, place, programs).replace(f"{place}/", "/home/you/")
        if alike(printed, expected):
            return found[0]
        return f"$ {command}\n{printed}" + ("" if not printed or printed.endswith("\n") else "\n")

    return SESSION.sub(lambda session: f"```console\n{STEP.sub(step, session[1])}```", document)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write documents with what is printed now.")
    parser.add_argument("documents", type=Path, nargs="+")
    for document in parser.parse_args().documents:
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
