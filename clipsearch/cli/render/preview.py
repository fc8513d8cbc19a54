"""Draws hits as thumbnails in a terminal: with kitty's protocol, as sixels, or as half blocks.

The library asks the terminal what it supports, and waits a tenth of a second for an answer.
"""

import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from clipsearch.cli.render.table import console
from clipsearch.errors import UsageError
from clipsearch.paths import absolute_path
from clipsearch.records import Hit
from clipsearch.text import printable

_CELLS = 20
"""Width of one thumbnail; with half as many lines it is nearly square."""


def require_terminal() -> None:
    """Raise UsageError if there is no terminal to draw in, or nothing to draw with."""
    if not sys.stdout.isatty():
        raise UsageError(
            "--preview draws in a terminal, but standard output is not one",
            hint="Write a page with --html FILE, or one image with --montage FILE.png.",
        )
    if not sys.stdin.isatty():
        raise UsageError(
            "--preview needs answers from the terminal, but standard input is not one",
            hint="Pass the query and the list of files in another way, or use --html FILE.",
        )
    screen = console(sys.stdout)
    if screen.color_system is None or screen.no_color:
        raise UsageError(
            "--preview needs colors, but this terminal has none or NO_COLOR is set",
            hint="Write a page with --html FILE, or one image with --montage FILE.png.",
        )
    with suppress(OSError):
        if not all(os.get_terminal_size(sys.stdout.fileno())):
            raise UsageError(
                "--preview needs the width of the terminal, which the terminal does not report",
                hint="Set it with: stty columns 80 rows 24",
            )
    _renderer()


def preview(hits: Sequence[Hit], pictures: Mapping[bytes, bytes]) -> None:
    """Draw the hits on standard output. pictures: thumbnails by absolute path.

    Raises UsageError as ``require_terminal`` does.
    """
    from rich.console import Group
    from rich.table import Table

    screen, draw = console(sys.stdout), _renderer()
    cells = [
        Group(*_lines(rank, hit, pictures.get(absolute_path(hit)), draw))
        for rank, hit in enumerate(hits, start=1)
    ]
    columns = max(1, screen.width // _CELLS)
    if draw.__module__.endswith("sixel") or columns == 1:
        # A rich table cannot hold sixels, which are not text.
        for cell in cells:
            screen.print(cell)
        return
    table = Table.grid(padding=(0, 2, 1, 0))
    for _ in range(columns):
        table.add_column(width=_CELLS - 2)
    for start in range(0, len(cells), columns):
        table.add_row(*cells[start : start + columns])
    screen.print(table)


def _lines(rank: int, hit: Hit, picture: bytes | None, draw: Any) -> Iterator[Any]:
    from rich.text import Text

    if picture is None:
        yield Text("(cannot be shown)", style="dim")
    else:
        yield draw(io.BytesIO(picture), width=_CELLS - 2, height="auto")
    name = printable(os.fsdecode(os.path.basename(hit.path)))
    line = Text.assemble((f"{rank} ", "dim"), (f"{hit.score:.3f} ", "cyan"), name)
    line.truncate(_CELLS - 2, overflow="ellipsis")
    yield line


def _renderer() -> Any:
    """The library's image class for this terminal. Raises UsageError if it is not installed."""
    # Its log messages about terminals that do not answer are for its developers.
    logging.getLogger("textual_image").addHandler(logging.NullHandler())
    try:
        from textual_image.renderable import Image
    except ImportError as error:
        raise UsageError(
            "--preview needs the package textual-image, which is not installed",
            hint="Install it with: pip install 'clipsearch[preview]'",
        ) from error
    return Image
