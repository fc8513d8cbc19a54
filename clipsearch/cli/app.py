"""The typer app, and the options and messages that its commands share."""

import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from typer._click.shell_completion import CompletionItem
from typer.core import TyperGroup
from typer.main import get_command

from clipsearch import __version__
from clipsearch.cli import completion
from clipsearch.cli.commands import COMMANDS
from clipsearch.errors import ClipsearchError, Refused

# The matrices of one query are small: threads do not speed them up, and on a busy machine they wait
# for each other (0.5 s against 1.6 s). Set this before numpy is loaded; torch has its own setting.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Libraries' download bars are only for terminals, like our own. Set this before they are loaded.
if not sys.stderr.isatty():
    os.environ.setdefault("TQDM_DISABLE", "1")

# Importing modules makes many objects but hardly any garbage: collecting at Python's default
# threshold costs a query 20 ms or more.
gc.set_threshold(100_000)


class Interrupted(Exception):
    """Ctrl-C or SIGTERM."""


class ReaderGone(Exception):
    """The reader of standard output, such as head, has closed it."""


class _Commands(TyperGroup):
    """Our commands, each imported only when it runs.

    Interrupts and closed pipes are converted to our own errors before typer handles them.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"clipsearch.cli.commands.{COMMANDS[cmd_name][0]}")
        found = get_command(module.app)
        return getattr(found, "commands", {}).get(cmd_name, found)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        names = [name for name in COMMANDS if name.startswith(incomplete)]
        options = super(TyperGroup, self).shell_complete(ctx, incomplete)
        return [CompletionItem(name, help=COMMANDS[name][1]) for name in names] + options

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _endings():  # --help and --version print here
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _endings():
            return super().invoke(ctx)


@contextmanager
def _endings() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted from error
    except BrokenPipeError as error:
        raise ReaderGone from error


_MOST_NAMED = 20
"""Paths that ``name_paths`` lists; a last line counts the rest."""

_HELP = """Find images in local folders by text or by example.

Index a folder once, then search it. Nothing leaves this machine.

\b
Examples:
  clipsearch index ~/Pictures
  clipsearch search "a red bicycle"
  clipsearch search --help

\b
Terms:
  model      turns images and texts into vectors, which are similar if the image
             shows what the text describes
  weights    what a model has learned, in a file
  embedding  the vector of one image or text
  index      the embeddings of a folder's images, in its subfolder .clipsearch
  domain     what the images are about: a list of classes to search and test with
  probe      your own classes, learned from images that you have labeled
"""

app = typer.Typer(
    name="clipsearch",
    cls=_Commands,
    help=_HELP,
    epilog="Exit codes: 0 hits, or the collection is up to date; 1 no match; 2 error; "
    "3 refused; 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def commands(help: str | None = None) -> typer.Typer:
    """A typer app for a module of ``cli.commands``; with ``help``, one with subcommands."""
    return typer.Typer(
        help=help, no_args_is_help=help is not None, rich_markup_mode=None, add_completion=False
    )


def every_command(group: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command and group with its path (``probe train``), depth first."""
    group = group or get_command(app)
    yield path, group
    for name in group.list_commands(None):
        command, below = group.get_command(None, name), f"{path} {name}".strip()
        if isinstance(command, TyperGroup):
            yield from every_command(command, below)
        else:
            yield below, command


IndexOption = Annotated[
    Path | None,
    typer.Option(
        "--index",
        metavar="DIR",
        envvar="CLIPSEARCH_INDEX",
        help="Folder of the index (default: FOLDER/.clipsearch).",
        show_default=False,
    ),
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        autocompletion=completion.devices,
        metavar="auto|cpu|cuda",
        envvar="CLIPSEARCH_DEVICE",
        help="Device to run the model on; auto uses a GPU (cuda) if there is one.",
    ),
]


def _print_version(asked: bool) -> None:
    if asked:
        print(f"clipsearch {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print a traceback for errors.")] = False,
) -> None:
    """Options that come before the command."""


def say(message: str) -> None:
    """Print a message on stderr, out of the way of pipelines."""
    tell(f"clipsearch: {message}")


def tell(line: str) -> None:
    """Like ``say`` without the program's name. A log on a full disk must not stop the command."""
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        silence(sys.stderr)


def error_lines(error: ClipsearchError | OSError) -> list[str]:
    """The lines of an error message: what is wrong, then the next step.

    An OSError is one that no command expects: a name too long, a folder without permission.
    """
    from clipsearch.text import printable  # here, since few runs need it

    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        error = ClipsearchError(
            f"{where}{error.strerror or error}",
            hint="Check the path and its permissions. --debug shows where the error occurred.",
        )
    kind = "refused" if isinstance(error, Refused) else "error"
    hints = [f"  {printable(error.hint)}"] if error.hint else []
    return [f"clipsearch: {kind}: {printable(str(error))}", *hints]


def name_paths(what: str, paths: Sequence[bytes], reasons: Sequence[str] = ()) -> None:
    """Print ``what`` with each path and its reason, if any; of many paths, only the first."""
    from clipsearch.text import printable  # here, since few runs need it

    for n, path in enumerate(paths[:_MOST_NAMED]):
        why = f": {printable(reasons[n])}" if reasons else ""
        say(f"{what} {printable(os.fsdecode(path))}{why}")
    if len(paths) > _MOST_NAMED:
        say(f"{what} {len(paths) - _MOST_NAMED} more")


def silence(stream: TextIO) -> None:
    """Point a broken stream to the null device, or Python would complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A function that shows progress on stderr if that is a terminal; cleared at the end."""
    if not sys.stderr.isatty():
        yield lambda doing, done, total: None
        return
    from clipsearch.cli.render.progress import ProgressBar  # rich costs a query 50 ms

    bar = ProgressBar()
    try:
        yield bar
    finally:
        bar.close()
