"""Ctrl-C before the program has begun: an end without a traceback, and none if it is ignored."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")

INTERRUPTED_IMPORT = "raise KeyboardInterrupt"
INTERRUPT = "import os, signal, sys\nos.kill(os.getpid(), signal.SIGINT)\nsys.exit(7)"


def begin(folder: Path, module: str, text: str, **options: object) -> "tuple[int, bytes]":
    """Run the program with another module in the place of one that it imports."""
    (folder / f"{module}.py").write_text(text)
    paths = os.pathsep.join([os.fspath(folder), *sys.path[1:]])
    done = subprocess.run(
        [sys.executable, "-m", "clipsearch", "--version"],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        check=False,
        **options,
    )
    assert done.stdout == b""
    return done.returncode, done.stderr


def test_an_interrupt_of_the_very_first_import_is_quiet(tmp_path: Path) -> None:
    assert begin(tmp_path, "signal", INTERRUPTED_IMPORT) == (-signal.SIGINT, b"")


def test_any_other_error_there_is_shown(tmp_path: Path) -> None:
    code, said = begin(tmp_path, "signal", "1 / 0")
    assert code == 1
    assert b"ZeroDivisionError" in said


def test_an_interrupt_while_modules_are_loaded_is_quiet(tmp_path: Path) -> None:
    assert begin(tmp_path, "typer", INTERRUPT) == (-signal.SIGINT, b"")


def test_what_a_shell_has_told_to_ignore_interrupts_ignores_them_from_the_start(
    tmp_path: Path,
) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    assert begin(tmp_path, "typer", INTERRUPT, preexec_fn=ignore) == (7, b"")
