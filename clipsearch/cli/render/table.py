"""Tables: fitted to the width of a terminal, or in plain aligned columns for a pipe.

On a terminal every row is one line. If space is short, columns are dropped first; then paths are
shortened in the middle of their names. Widths are in display cells: a CJK character takes two.
"""

import os
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from clipsearch.text import printable

_GAP = 2
"""Cells between two columns."""

_LEAST = 8
"""Minimum cells of a shortened column."""

_NAME = 20
"""Cells that a file name keeps as long as its folder can be shortened instead."""

_DOTS = "..."


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a title. Columns in ``left`` are aligned left, the others right."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    left: tuple[int, ...] = (0,)
    path: int | None = None
    """The column of paths."""
    gives_way: tuple[int, ...] = ()
    """Columns to drop on a narrow terminal, in this order."""
    styles: Mapping[int, str] = field(default_factory=dict)
    """rich styles of columns."""
    links: Sequence[str] = ()
    """The link target of each row's path."""


def show(table: Table) -> None:
    """Print a table on standard output: styled on a terminal, plain in a pipe."""
    if not sys.stdout.isatty():
        sys.stdout.write(plain(table))
        return
    screen = console(sys.stdout)
    draw(table, screen)
    screen.print()


def draw(table: Table, screen: Any) -> None:
    """Print a table on a rich console, one line per row."""
    from rich.text import Text

    if table.title:
        screen.print(Text(printable(table.title), style="bold"))
    rows = [tuple(map(printable, row)) for row in table.rows]
    widths = _fitted(table, rows, screen.width)
    heading = [_aligned(table, n, Text(table.columns[n]), widths[n]) for n in widths]
    screen.print(_line(heading), style="bold", no_wrap=True, overflow="crop")
    links = table.links if _has_links(screen) else ()
    for number, row in enumerate(rows):
        cells = []
        for n, width in widths.items():
            if n == table.path:
                cell = _path(row[n], width, links[number] if links else "")
            else:
                cell = Text(cut(row[n], width), style=table.styles.get(n, ""))
            cells.append(_aligned(table, n, cell, width))
        screen.print(_line(cells), no_wrap=True, overflow="crop")


def plain(table: Table) -> str:
    """A table in aligned columns."""
    rows = [table.columns, *(tuple(printable(cell) for cell in row) for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if n in table.left else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*([printable(table.title)] if table.title else []), *lines, "", ""])


def console(stream: TextIO) -> Any:
    """A rich console that does not interpret markup in file names."""
    from rich.console import Console

    return Console(file=stream, markup=False, highlight=False, emoji=False)


def shorten_path(path: str, cells: int) -> str:
    """A path in at most ``cells`` display cells. cells: at least 8.

    Cuts the middle of the name first, ``mountain...pico.jpg``, then the middle of the folder, then
    more of the name.
    """
    from rich.cells import cell_len

    if cell_len(path) <= cells:
        return path
    start = path.rfind(os.sep) + 1
    folder, name = path[:start], path[start:]
    kept = max(cells - cell_len(folder), min(_NAME, cells, cell_len(name)))
    name = _middle_out(name, kept)
    room = cells - cell_len(name)
    has_room = room >= min(cell_len(folder), len(_DOTS) + 1)
    return (_middle_out(folder, room) if has_room else "") + name


def fit(parts: Sequence[tuple[str, ...]], cells: int, separator: str = " · ") -> str:
    """A line of parts in the longest forms that fit into ``cells``.

    parts: the forms of each part, longest first; "" if the part may be left out. The last part is
    shortened first.
    """
    from rich.cells import cell_len

    forms = [0] * len(parts)

    def line() -> str:
        said = (part[form] for part, form in zip(parts, forms, strict=True))
        return separator.join(filter(None, said))

    for n in reversed(range(len(parts))):
        while cell_len(line()) > cells and forms[n] < len(parts[n]) - 1:
            forms[n] += 1
    return line()


def cut(text: str, cells: int) -> str:
    """The start of a text, in at most ``cells`` display cells."""
    from rich.cells import cell_len

    if cell_len(text) <= cells:
        return text
    return _beginning(text, cells - len(_DOTS)) + _DOTS


def _fitted(table: Table, rows: Sequence[tuple[str, ...]], room: int) -> dict[int, int]:
    """The columns that fit, and how many cells each gets."""
    from rich.cells import cell_len

    columns = zip(table.columns, *rows, strict=True)
    widths = {n: max(map(cell_len, column)) for n, column in enumerate(columns)}

    def excess() -> int:
        return sum(widths.values()) + _GAP * (len(widths) - 1) - room

    for n in table.gives_way:
        if excess() > 0:
            del widths[n]
    words = [n for n in widths if n in table.left]
    shrinks = table.path if table.path is not None else max(words, key=lambda n: widths[n])
    widths[shrinks] = min(widths[shrinks], max(_LEAST, widths[shrinks] - excess()))
    return widths


def _line(cells: Sequence[Any]) -> Any:
    from rich.text import Text

    line = Text(" " * _GAP).join(cells)
    line.rstrip()
    return line


def _aligned(table: Table, n: int, cell: Any, width: int) -> Any:
    room = max(0, width - cell.cell_len)
    if n in table.left:
        cell.pad_right(room)
    else:
        cell.pad_left(room)
    return cell


def _path(path: str, width: int, link: str) -> Any:
    """A path with its folder dimmed, and with its link, if any."""
    from rich.style import Style
    from rich.text import Text

    short = shorten_path(path, width)
    text = Text(short)
    text.stylize("dim", 0, short.rfind(os.sep) + 1)
    if link:
        text.stylize(Style(link=link))
    return text


_NO_LINKS = ("dumb", "linux", "unknown", "vt")
"""Prefixes of terminals that would print a link's URL, or worse."""


def _has_links(screen: Any) -> bool:
    """Whether to write OSC 8 links; most terminals without support ignore them."""
    name = os.environ.get("TERM", "")
    return bool(screen.is_terminal) and not name.startswith(_NO_LINKS)


def _middle_out(text: str, cells: int) -> str:
    """The start and end of a text, in at most ``cells`` display cells."""
    from rich.cells import cell_len

    kept = cells - len(_DOTS)
    if cell_len(text) <= cells or kept < 1:
        return _beginning(text, cells)
    end = _end(text, (kept + 1) // 2)
    return f"{_beginning(text, kept - cell_len(end))}{_DOTS}{end}"


def _beginning(text: str, cells: int) -> str:
    """As much of the start as fits; combining marks stay with their letter."""
    from rich.cells import cell_len

    lengths = range(len(text) + 1)
    return text[: bisect_right(lengths, cells, key=lambda n: cell_len(text[:n])) - 1]


def _end(text: str, cells: int) -> str:
    """As much of the end as fits; it does not start with a combining mark."""
    from rich.cells import cell_len

    starts = range(len(text) + 1)
    start = bisect_left(starts, -cells, key=lambda n: -cell_len(text[n:]))
    while start < len(text) and not cell_len(text[start]):
        start += 1
    return text[start:]
