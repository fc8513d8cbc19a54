"""A mistyped command line is answered with what may have been meant."""

import os
import re
import shlex
import signal
from pathlib import Path

import pytest
from conftest import make_picture, places_beside, run_here
from typer.core import TyperGroup
from typer.main import get_command

from clipsearch import cli
from clipsearch.cli.app import app, every_command
from clipsearch.cli.examples import examples


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """An indexed folder with a probe. Not to be changed."""
    root = tmp_path_factory.mktemp("made") / "photos"
    for seed, name in enumerate(["cat", "cat", "cat", "dog", "dog", "dog"]):
        (root / name).mkdir(parents=True, exist_ok=True)
        # Each class is of one image, and so can be learned in any arithmetic.
        make_picture(root / name / f"{seed}.png", seed // 3, (48 + seed, 40))
    with places_beside(root):
        assert run_here("index", root, "--model", tiny_model) == 0
        assert run_here("probe", "train", root, "--name", "pets", "--under", root) == 0
    return root


@pytest.fixture(autouse=True)
def no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process the signal handlers belong to pytest."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)


def test_a_folder_that_may_not_be_read_is_not_sent_to_the_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    assert cli.run(["search", "x", "--under", str(tmp_path)]) == 2
    said, hint = capsys.readouterr().err.splitlines()
    assert said.endswith("is not readable")
    assert hint == "  Check its permissions; it may belong to another user."


MISTAKES = [
    # Commands.
    (["serach", "x"], "there is no command 'serach' (did you mean search?)", "clipsearch --help"),
    (["find", "x"], "there is no command 'find' (did you mean search?)", "clipsearch --help"),
    ([""], "there is no command ''", "See: clipsearch --help"),
    (["xyz"], "there is no command 'xyz'", "See: clipsearch --help"),
    (["red bicycle"], "there is no command 'red bicycle'", 'clipsearch search "red bicycle"'),
    (["probe", "trian"], "there is no command 'trian' (did you mean train?)", "probe --help"),
    # Options.
    (["--versoin"], "there is no option --versoin (did you mean --version?)", "clipsearch --help"),
    (
        ["search", "--cuont", "3", "x"],
        "there is no option --cuont (did you mean --count",
        "See: clipsearch search --help",
    ),
    (
        ["search", "x", "--min"],
        "there is no option --min (did you mean --min-width or --min-height?)",
        "See: clipsearch search --help",
    ),
    (
        ["search", "-count", "3", "x"],
        "there is no option -count (did you mean --count, with two hyphens?)",
        "See: clipsearch search --help",
    ),
    (["search", "-z", "x"], "there is no option -z", "See: clipsearch search --help"),
    (["search", "--helpp"], "there is no option --helpp (did you mean --help", "search --help"),
    (["probe", "train", "--nmae", "x"], "(did you mean --name?)", "clipsearch probe train --help"),
    # What options and commands take.
    (["search", "x", "--count"], "--count needs a value: N", "See: clipsearch search --help"),
    (["search", "x", "--json=1"], "--json takes no value", "See: clipsearch search --help"),
    (["search", "x", "-k", "many"], "-k/--count takes a whole number, not 'many'", "search --help"),
    (["search", "x", "-k", "-1"], "-k/--count must be at least 1, not -1", "search --help"),
    (
        ["search", "x", "--max-false-alarm", "low"],
        "--max-false-alarm takes a number, not 'low'",
        "search --help",
    ),
    (["index"], "index needs PATH: Folders of images.", "For example: clipsearch index ~/Pictures"),
    (
        ["probe", "train", "x"],
        "train needs --name NAME: The name of the new probe.",
        "For example: clipsearch probe train defects/ --name defects",
    ),
    (["status", "a", "b"], "unexpected argument 'b' for status", "See: clipsearch status --help"),
]


@pytest.mark.parametrize(("arguments", "message", "hint"), MISTAKES, ids=lambda a: str(a)[:40])
def test_a_mistake_is_named_with_what_may_have_been_meant(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, hint: str
) -> None:
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert (out, first[:19]) == ("", "clipsearch: error: ")
    assert message in first
    assert hint in second


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["index", ".", "--model", "pokcet"], "'pokcet' (did you mean pocket?)"),
        (["index", ".", "--model", "vit-b16"], "(did you mean ViT-B-16"),
        (["index", ".", "--model", "ViT-B-16", "--pretrained", "opnai"], "did you mean openai"),
        (["index", ".", "--domain", "everday"], "everday (did you mean everyday?)"),
        (["domain", "show", "everday"], "everday (did you mean everyday?)"),
        (["domain", "init", "new.toml", "--copy", "everday"], "(did you mean everyday?)"),
        (["search", "x", "--type", "jpgg"], "'jpgg' is not an image type (did you mean jp"),
        (["search", "--class", "bycicle"], "no class 'bycicle' (did you mean bicycle?)"),
        (["search", "@pest"], "has no probe 'pest' (did you mean pets?)"),
        (["search", "@pets/dgo"], "has no class 'dgo' (did you mean dog?)"),
        (["classify", "--probe", "pest"], "has no probe 'pest' (did you mean pets?)"),
        (["probe", "show", "pest"], "has no probe 'pest' (did you mean pets?)"),
        (["search", "--image", "new.png", "--device", "cdua"], "'cdua' cannot be used (did you"),
    ],
    ids=lambda a: " ".join(a) if isinstance(a, list) else "",
)
def test_a_mistyped_name_is_answered_with_those_that_are_there(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    asked: str,
) -> None:
    make_picture(tmp_path / "new.png", seed=99)
    monkeypatch.chdir(made)
    arguments = [str(tmp_path / a) if a == "new.png" else a for a in arguments]
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert asked in err.splitlines()[0]


@pytest.mark.parametrize("group", ["probe", "domain"])
def test_a_group_of_commands_alone_prints_its_help(
    capsys: pytest.CaptureFixture[str], group: str
) -> None:
    assert cli.run([group]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"Usage: clipsearch {group}")
    assert len(err.splitlines()) > 8


PATHS = [path.split() for path, _ in every_command()]
"""Every command and group of commands, as one calls it."""


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_help_has_examples_before_its_options_that_can_be_understood(
    capsys: pytest.CaptureFixture[str], path: list[str]
) -> None:
    assert cli.run([*path, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.index("Examples:") < text.index("Options:")
    command = get_command(app)
    for name in path:
        command = command.get_command(None, name)
    shown = examples(command.help)
    assert shown
    for line in shown:
        for call in re.findall(r"clipsearch ([^|&>]*)", line):
            words = shlex.split(call)
            below = get_command(app)
            while words and isinstance(below, TyperGroup):
                below = below.get_command(None, words.pop(0))
            assert below.name, call
            if "--help" not in words:
                below.make_context(below.name, words, resilient_parsing=False)
