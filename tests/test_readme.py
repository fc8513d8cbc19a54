"""What the README and the help pages show is what the program prints, whatever the arithmetic."""

import re
import shutil
from pathlib import Path

import pytest
from sessions import ROOT, alike, beside_the_samples, run, steps

from clipsearch.cli.help import pages

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = {"README": README, **pages()}
PROGRAMS = Path(__file__).parent / "programs"
"""What stands in for programs that a test must not run: a crontab that is nobody's."""

OTHERS = ("jq", "fzf", "feh", "rsync")


def missing(command: str) -> list[str]:
    """The programs that a command line needs and that are not installed here."""
    named = [name for name in OTHERS if re.search(rf"\b{name}\b", command)]
    return [name for name in named if shutil.which(name) is None]


@pytest.mark.process
@pytest.mark.parametrize("name", [name for name in DOCUMENTS if list(steps(DOCUMENTS[name]))])
def test_every_session_prints_what_is_written(tmp_path: Path, name: str) -> None:
    beside_the_samples(tmp_path)
    left_out: set[str] = set()
    for command, expected in steps(DOCUMENTS[name]):
        if absent := missing(command):
            left_out.update(absent)
            continue
        if "rsync" in left_out and command.startswith("find backup"):
            continue  # which rsync would have made
        printed = run(command, tmp_path, PROGRAMS)
        assert alike(printed, expected), f"$ {command}\n{printed}"
    if left_out:
        pytest.skip(f"steps with {', '.join(sorted(left_out))} were left out: not installed here")


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("top-1  71.4%  61.8 to 79.4", "top-1 71.4%   61.8 to 79.4", True),
        ("top-1 70.4%", "top-1 71.4%", True),
        ("top-1 12.0%", "top-1 71.4%", False),
        ("0.94 a.png", "0.93 a.png", True),
        ("0.84 a.png", "0.93 a.png", False),
        ('"score": 0.932261', '"score": 0.940001', True),
        ('"score": 0.932261', '"score": 0.990001', False),
        ("98 pictures", "97 pictures", False),
        ("a.png", "b.png", False),
        ("8 embedded in 7.4 s", "8 embedded in 17.1 s", True),
        ("", "no match", False),
    ],
)
def test_only_rounding_is_forgiven(printed: str, expected: str, same: bool) -> None:
    assert alike(printed, expected) is same


def test_the_readme_is_short_and_links_to_every_page() -> None:
    assert len(README.splitlines()) <= 220
    linked = set(re.findall(r"\(clipsearch/cli/help/([a-z-]+)\.md\)", README))
    assert linked == pages().keys()


def test_every_test_that_is_promised_is_there() -> None:
    security = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z_]+/)*test_[a-z_]+\.py)`", security))
    assert len(named) > 20
    tests = [path.as_posix() for path in (ROOT / "tests").rglob("test_*.py")]
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in tests)] == []
