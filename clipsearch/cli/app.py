"""The typer app, and what its commands share: options, and messages for people."""

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

# The matrices of one query are small: threads win nothing on them, and on a busy machine they wait
# for each other (0.5 s against 1.6 s). It must be said before numpy is loaded; torch has its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Bars that libraries draw of their downloads are for terminals alone, like our own. It must be said
# before they are loaded.
if not sys.stderr.isatty():
    os.environ.setdefault("TQDM_DISABLE", "1")

# Modules make many objects and hardly any garbage: looking for it as often as Python does costs a
# query 20 ms and more.
gc.set_threshold(100_000)


class Interrupted(Exception):
    """Ctrl-C or SIGTERM."""


class ReaderGone(Exception):
    """Whoever was reading standard output has seen enough (head, say)."""


class _Commands(TyperGroup):
    """Our commands, each imported when it is called.

    Interrupts and closed pipes are ours to answer; typer would answer them in its own way.
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
"""Paths; a last line counts the others."""

_HELP = """Find images in local folders by text or by example.

Index a folder once, then search it. Nothing leaves this machine.

\b
Examples:
  clipsearch index ~/Pictures
  clipsearch search "a red bicycle"
  clipsearch search --help

\b
Words used here:
  model      turns images and texts into rows of numbers, which are alike where
             an image shows what a text says
  weights    what a model has learned, in a file
  embedding  such a row of numbers
  index      the embeddings of a folder's images, in its subfolder .clipsearch
  domain     what the images are about: a list of classes, to search and to test with
  probe      classes of your own, learned from images that you have labelled
"""

app = typer.Typer(
    name="clipsearch",
    cls=_Commands,
    help=_HELP,
    epilog="Exit codes: 0 hits, or the collection is up to date; 1 nothing matches; 2 an error; "
    "3 refused; 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def commands(help: str | None = None) -> typer.Typer:
    """Where a module of ``cli.commands`` puts its command, or, with ``help``, its subcommands."""
    return typer.Typer(
        help=help, no_args_is_help=help is not None, rich_markup_mode=None, add_completion=False
    )


def every_command(group: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    """The whole tree: how each command and group is called (``probe train``), and itself."""
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
        help="Where the index lies, if not in FOLDER/.clipsearch.",
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
        help="What the model runs on; auto takes a graphics card (cuda) if there is one.",
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
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the program an error comes from.")
    ] = False,
) -> None:
    """Options that go before a command."""


def say(message: str) -> None:
    """A message for people: on stderr, where it is in no pipeline's way."""
    tell(f"clipsearch: {message}")


def tell(line: str) -> None:
    """The same without a name before it. A log on a full disk must not change what is done."""
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        silence(sys.stderr)


def error_lines(error: ClipsearchError | OSError) -> list[str]:
    """What is wrong, and the next step, as every error is told.

    An OSError is what no command expects of its files: a name too long, a folder that may not be
    entered.
    """
    from clipsearch.text import printable  # here, since few runs need it

    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        error = ClipsearchError(
            f"{where}{error.strerror or error}",
            hint="Check the path, and that you may read it. --debug shows what was being done.",
        )
    kind = "refused" if isinstance(error, Refused) else "error"
    hints = [f"  {printable(error.hint)}"] if error.hint else []
    return [f"clipsearch: {kind}: {printable(str(error))}", *hints]


def name_paths(what: str, paths: Sequence[bytes], reasons: Sequence[str] = ()) -> None:
    """Say of each path what it is, and why if there are ``reasons``; of many, the first ones."""
    from clipsearch.text import printable  # here, since few runs need it

    for n, path in enumerate(paths[:_MOST_NAMED]):
        why = f": {printable(reasons[n])}" if reasons else ""
        say(f"{what} {printable(os.fsdecode(path))}{why}")
    if len(paths) > _MOST_NAMED:
        say(f"{what} {len(paths) - _MOST_NAMED} more")


def silence(stream: TextIO) -> None:
    """Let a stream that takes nothing more end in nothing: Python would complain at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """What shows progress on stderr while that is a terminal; taken away again at the end."""
    if not sys.stderr.isatty():
        yield lambda doing, done, total: None
        return
    from clipsearch.cli.render.progress import ProgressBar  # rich costs a query 50 ms

    bar = ProgressBar()
    try:
        yield bar
    finally:
        bar.close()
