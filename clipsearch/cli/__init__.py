"""The command line: options in, exit code out, and the one place where errors are caught.

Only this top floor prints, and only it chooses the store, model and encoder. Slow modules (torch
above all) are imported by the command that needs them, when it needs them.
"""

import errno
import gc
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from typing import NoReturn

import typer

from clipsearch.cli import completion
from clipsearch.cli.app import Interrupted, ReaderGone, app, error_lines, silence, tell
from clipsearch.errors import ClipsearchError, ExitCode, Refused

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) if os.name == "posix" else (errno.ENOSPC,)


def main() -> NoReturn:
    """Run the program and leave with its exit code."""
    if isinstance(sys.stdout, TextIOWrapper):
        # A file name may contain characters that the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    code = run(sys.argv[1:])
    # At exit Python collects garbage once more, which costs a query 40 ms. Frozen objects are
    # skipped, and the process frees its memory anyway.
    gc.freeze()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line: the boundary where every error becomes a message and a code."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    signal.signal(signal.SIGTERM, _interrupt)
    if completion.is_asked_by_bash():
        completion.join_marked_word()
    try:
        code = app(list(arguments), prog_name="clipsearch", standalone_mode=False)
        sys.stdout.flush()
        return int(code or ExitCode.OK)
    except ClipsearchError as error:
        if debug:
            traceback.print_exc()
        _last_words(*error_lines(error))
        return ExitCode.REFUSED if isinstance(error, Refused) else ExitCode.ERROR
    except typer.TyperException as error:
        from clipsearch.cli import mistakes

        if mistakes.is_help(error):
            _last_words(error.format_message())
        else:
            _last_words(*error_lines(mistakes.explained(error, arguments)))
        return ExitCode.ERROR
    except (Interrupted, KeyboardInterrupt, typer.Abort):
        writes = {"index", "watch", "import"} & set(arguments[:1])
        goes_on = "; finished work is kept, and the next run continues from there"
        _last_words(f"clipsearch: interrupted{goes_on if writes else ''}")
        return ExitCode.INTERRUPTED
    except (ReaderGone, BrokenPipeError):
        silence(sys.stdout)
        silence(sys.stderr)  # stderr may be the closed one
        return ExitCode.OK
    except OSError as error:
        if debug:
            traceback.print_exc()
        told: ClipsearchError | OSError = error
        if error.errno in _FULL and error.filename is None:
            # An error without a file name is from stdout: SQLite's errors are already ours.
            silence(sys.stdout)  # or Python would try again at exit
            told = ClipsearchError(
                f"cannot write to standard output: {error.strerror or error}",
                hint="Free some disk space, or redirect the output elsewhere.",
            )
        _last_words(*error_lines(told))
        return ExitCode.ERROR
    except Exception as error:
        # Python's own exit code for this is 1, which would mean "no match".
        if debug:
            traceback.print_exc()
        else:
            bug = ClipsearchError(
                f"unexpected {type(error).__name__}: {error}",
                hint="This is a bug. Run the command again with --debug and report the output.",
            )
            _last_words(*error_lines(bug))
        return ExitCode.ERROR


def _interrupt(signal_number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _last_words(*lines: str) -> None:
    """Print final messages, ignoring a closed stderr: the exit code still reports the result."""
    try:
        for line in lines:
            tell(line)
    except BrokenPipeError:
        silence(sys.stderr)
