"""Hits as thumbnails in a terminal: in kitty's protocol or as sixels, else as half blocks.

The library asks the terminal what it can draw, and waits a tenth of a second for its answer.
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
"""Of a terminal, across, for one thumbnail: nearly square with half as many lines."""


def require_terminal() -> None:
    """Raise UsageError if there is no terminal to draw in, or nothing to draw with."""
    if not sys.stdout.isatty():
        raise UsageError(
            "--preview draws in a terminal, and standard output is none",
            hint="Write a page with --html FILE, or one image with --montage FILE.png.",
        )
    if not sys.stdin.isatty():
        raise UsageError(
            "--preview asks the terminal what it can draw, and standard input is none",
            hint="Give the query and the list of files otherwise, or use --html FILE.",
        )
    screen = console(sys.stdout)
    if screen.color_system is None or screen.no_color:
        raise UsageError(
            "--preview needs colors, and this terminal has none, or NO_COLOR is set",
            hint="Write a page with --html FILE, or one image with --montage FILE.png.",
        )
    with suppress(OSError):
        if not all(os.get_terminal_size(sys.stdout.fileno())):
            raise UsageError(
                "--preview needs to know how wide the terminal is, which it does not tell",
                hint="Tell it with: stty columns 80 rows 24",
            )
    _renderer()


def preview(hits: Sequence[Hit], pictures: Mapping[bytes, bytes]) -> None:
    """Draw the hits on standard output. images: thumbnails by absolute path.

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
        # Sixels are no text: a table cannot hold them.
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
    """The library's class for this terminal. Raises UsageError if it is not installed."""
    # What it has to say of terminals that do not answer is for its own developers.
    logging.getLogger("textual_image").addHandler(logging.NullHandler())
    try:
        from textual_image.renderable import Image
    except ImportError as error:
        raise UsageError(
            "--preview needs the package textual-image, which is not installed",
            hint="Install it with: pip install 'clipsearch[preview]'",
        ) from error
    return Image
