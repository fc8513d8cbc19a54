"""Help texts are what is kept under tests/golden/help, and a change of them is meant.

Written again by ``python tests/help_texts.py``.
"""

import re
from pathlib import Path

import pytest
from conftest import Run
from help_texts import GOLDEN, WIDTH, help_texts

from clipsearch.cli.help import pages


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def test_every_help_text_is_the_one_that_is_kept() -> None:
    kept = {path.name: path.read_text(encoding="utf-8") for path in GOLDEN.iterdir()}
    assert dict(help_texts()) == kept


@pytest.mark.parametrize("command", [(), ("search",), ("probe", "train")], ids=" ".join)
def test_what_is_kept_is_what_the_program_prints(run: Run, command: tuple[str, ...]) -> None:
    kept = GOLDEN / f"{'-'.join(['clipsearch', *command])}.txt"
    done = run(*command, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.decode() == kept.read_text(encoding="utf-8")


def test_every_page_that_is_named_is_there() -> None:
    named = set()
    for path in Path(pages.__code__.co_filename).parents[2].rglob("*"):
        if path.suffix in (".py", ".md"):
            text = path.read_text(encoding="utf-8")
            named |= set(re.findall(r"clipsearch help ([a-z]+(?:-[a-z]+)*)", text))
    assert "scores" in named
    assert named <= set(pages())
