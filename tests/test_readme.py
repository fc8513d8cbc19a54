"""What the README and the recipes show is what the program prints."""

import re
import shutil
from pathlib import Path

import pytest
from sessions import HELP, ROOT, beside_the_samples, help_text, run, steady, steps

from clipsearch.cli.app import every_command

README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = (ROOT / "clipsearch" / "cli" / "commands" / "recipes.md").read_text(encoding="utf-8")
PROGRAMS = Path(__file__).parent / "programs"
"""What stands in for programs that a test must not run: a crontab that is nobody's."""

OTHERS = ("jq", "fzf", "feh", "rsync")
HELP_TEXTS = [(command, text) for _, command, text, _ in HELP.findall(README)]


def test_every_command_has_its_help_text_in_the_readme() -> None:
    assert sorted(command for command, _ in HELP_TEXTS) == sorted(
        path for path, _ in every_command()
    )
    assert len(list(steps(README))) >= 20


@pytest.mark.parametrize(
    ("command", "expected"), HELP_TEXTS, ids=[command or "(top)" for command, _ in HELP_TEXTS]
)
def test_help_texts_are_the_programs_own(command: str, expected: str) -> None:
    assert steady(help_text(command)) == steady(expected)


def test_every_session_prints_what_is_written(tmp_path: Path) -> None:
    beside_the_samples(tmp_path)
    for command, expected in steps(README):
        assert steady(run(command, tmp_path)) == steady(expected), command


def test_every_recipe_prints_what_is_written(tmp_path: Path) -> None:
    missing = [name for name in OTHERS if shutil.which(name) is None]
    beside_the_samples(tmp_path)
    for command, expected in steps(RECIPES):
        if any(re.search(rf"\b{name}\b", command) for name in missing):
            continue
        assert steady(run(command, tmp_path, PROGRAMS)) == steady(expected), command
    if missing:
        pytest.skip(f"recipes with {', '.join(missing)} were not run: not installed here")
