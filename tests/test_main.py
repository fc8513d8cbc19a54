"""Before the program has begun: Ctrl-C is an end without a traceback; closed streams are no bug."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clipsearch.models import load

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there"),
]

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


@pytest.mark.parametrize(
    "streams", ["<&- >&- 2>&-", "2>&-", "2>/dev/full"], ids=["all-closed", "closed", "full"]
)
def test_messages_that_nobody_can_read_change_no_exit_code(tmp_path: Path, streams: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m clipsearch status --index nowhere {streams}', sys.executable],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:])},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


@pytest.mark.parametrize("arguments", ["help scores", "--help"])
def test_a_full_standard_output_is_called_that(tmp_path: Path, arguments: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m clipsearch {arguments} >/dev/full', sys.executable],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:])},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        [
            b"clipsearch: error: cannot write to standard output: No space left on device",
            b"  Free some disk space, or redirect the output elsewhere.",
        ],
    )


def test_standard_input_that_is_closed_is_an_empty_one(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m clipsearch search - <&-', sys.executable],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:])},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"the query is empty" in done.stderr


def test_an_interrupt_while_torch_is_loaded_comes_when_it_is() -> None:
    loaded = False
    with pytest.raises(KeyboardInterrupt), load._uninterrupted():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        loaded = True
    assert loaded
