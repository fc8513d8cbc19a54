"""The man page: whole, and as man and mandoc want it."""

import shutil
import subprocess
from pathlib import Path

import pytest
from typer.core import TyperGroup

from clipsearch.cli.app import every_command
from clipsearch.cli.manual import page


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "clipsearch.1"
    path.write_text(page())
    return path


def test_it_has_every_command_every_option_and_the_usual_sections() -> None:
    text = page()
    plain = text.replace("\\-", "-").replace("\\(ti", "~")
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS", "EXIT STATUS"):
        assert f"\n.SH {section}\n" in text
    for path, command in every_command():
        if isinstance(command, TyperGroup):
            continue
        assert f"\n.SS clipsearch {path}\n" in plain
        part = plain.split(f"\n.SS clipsearch {path}\n")[1].split("\n.S")[0]
        assert "\nExamples:\n" in part
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[-1] in part, (path, parameter.opts)
            if getattr(parameter, "envvar", None):
                assert f"\n\\fB{parameter.envvar}\\fR\n" in plain.split("\n.SH ENVIRONMENT")[1]
    for code in ("0", "1", "2", "3", "130"):
        assert f"\n\\fB{code}\\fR\n" in text.split("\n.SH EXIT STATUS")[1]


def test_no_line_is_taken_for_a_request_that_is_none() -> None:
    known = {".TH", ".SH", ".SS", ".PP", ".TP", ".nf", ".fi", ".RS", ".RE"}
    for line in page().splitlines():
        assert not line.startswith("'")
        if line.startswith("."):
            assert line.split()[0] in known


@pytest.mark.process
def test_mandoc_finds_nothing_wrong_with_it(file: Path) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    done = subprocess.run(
        ["mandoc", "-Tlint", "-Wwarning", file], capture_output=True, text=True, check=False
    )
    # It wants a date, which would make every build another page.
    found = [line for line in done.stdout.splitlines() if "missing date" not in line]
    assert found == []


@pytest.mark.process
def test_man_finds_nothing_wrong_with_it_and_shows_it(file: Path) -> None:
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    done = subprocess.run(
        ["man", "--warnings", "-l", file],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "90", "LC_ALL": "C.UTF-8"},
    )
    if "--warnings" in done.stderr or "not a known" in done.stderr:
        pytest.skip("this man knows no --warnings")
    assert (done.returncode, done.stderr) == (0, "")
    assert 'clipsearch search "a red bicycle"' in done.stdout
    assert "clipsearch search --help" in done.stdout
