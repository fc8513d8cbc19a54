"""A table: drawn by rich on a terminal, set in plain aligned columns for a pipe."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from clipsearch.text import printable


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a title; the columns in ``left`` are words, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    left: tuple[int, ...] = (0,)


def show(table: Table) -> None:
    """Print a table for whoever reads standard output: a person, or a pipe."""
    if not sys.stdout.isatty():
        sys.stdout.write(plain(table))
        return
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(
        title=Text(printable(table.title), style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for n, name in enumerate(table.columns):
        words = n in table.left
        drawn.add_column(name, justify="left" if words else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    console(sys.stdout).print(drawn)


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
    """A rich console that never guesses at markup in file names."""
    from rich.console import Console

    return Console(file=stream, markup=False, highlight=False, emoji=False)
