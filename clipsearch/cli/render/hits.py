"""Ranked hits: as paths, JSON lines, lines by a template, or a table.

Writes bytes where a path is printed: a path is bytes, and whoever reads it from a pipe wants the
very bytes that open the file.
"""

import os
import re
import string
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from clipsearch.cli.render.json_lines import json_line, json_path
from clipsearch.cli.render.table import console
from clipsearch.errors import UsageError
from clipsearch.paths import shown_path
from clipsearch.records import Hit
from clipsearch.search.answer import Answer
from clipsearch.search.explain import reached, weak
from clipsearch.text import percent, printable, rounded, shortened

Show = Callable[[Hit], bytes]
"""A hit's path as it is to be printed."""


Write = Callable[[Sequence[Hit], str, BinaryIO], None]
"""Writes ranked hits, found by a model with this label, to a stream."""


def write_paths(show: Show, end: bytes) -> Write:
    """Paths alone, each ended by ``end``: NUL is the only byte that no path contains."""

    def write(hits: Sequence[Hit], model: str, stream: BinaryIO) -> None:
        for hit in hits:
            stream.write(show(hit) + end)

    return write


def write_json_lines(show: Show) -> Write:
    """One JSON object a line. Keys are only ever added."""

    def write(hits: Sequence[Hit], model: str, stream: BinaryIO) -> None:
        for rank, hit in enumerate(hits, start=1):
            stream.write(json_line(hit_record(rank, hit, model, show)))
            stream.flush()

    return write


def hit_record(rank: int, hit: Hit, model: str, show: Show) -> dict[str, object]:
    """A hit for programs. Keys are only ever added."""
    paths = {"path": json_path(show(hit)), "root": json_path(os.fsencode(hit.root))}
    return _facts(rank, hit, model) | paths


def write_template(template: str, show: Show, end: bytes) -> Write:
    """A line a hit by a template such as ``{score:.3f} {path}``. Raises UsageError.

    The fields are the keys of the JSON lines; what is not known is empty. A backslash and t, n or
    0 stand for a tab, a newline and NUL.
    """
    formatter = _Fields()
    text = template.replace(r"\t", "\t").replace(r"\n", "\n").replace(r"\0", "\0")
    nothing = Hit(1, b"path", Path("root"), 0.5, 1, 1, "2024-05-31", 0.5, 0.5, "domain")
    nothing = replace(nothing, camera="camera", latitude=0.5, longitude=0.5)
    nothing = replace(nothing, caption="caption", url="url")

    def line(rank: int, hit: Hit, model: str) -> bytes:
        facts = _facts(rank, hit, model)
        paths = {"path": os.fsdecode(show(hit)), "root": os.fsdecode(hit.root)}
        try:
            return os.fsencode(formatter.vformat(text, (), facts | paths)) + end
        except (ValueError, KeyError, IndexError) as error:  # a width may be another field
            raise UsageError(
                f"'{shortened(template)}' is no template: {shortened(str(error.args[0]))}",
                hint=f"For example {{score:.3f}} {{path}}. Fields: {', '.join(facts)}.",
            ) from error

    line(1, nothing, "model")

    def write(hits: Sequence[Hit], model: str, stream: BinaryIO) -> None:
        for rank, hit in enumerate(hits, start=1):
            stream.write(line(rank, hit, model))

    return write


_DIGITS = 3
"""Of a width or a precision in a template: more would fill the memory."""


class _Fields(string.Formatter):
    """``str.format`` for plain names alone: no attributes, no items, no positions."""

    def get_field(self, name: str, args: Sequence[Any], fields: Mapping[str, Any]) -> Any:
        if name not in fields:
            raise KeyError(f"there is no field {{{name}}}")
        return fields[name], name

    def format_field(self, value: Any, spec: str) -> str:
        if any(len(number) > _DIGITS for number in re.findall(r"\d+", spec)):
            raise ValueError(f"a width has at most {_DIGITS} digits")
        return "" if value is None else format(value, spec)


def _facts(rank: int, hit: Hit, model: str) -> dict[str, Any]:
    """All that is known of a hit; the paths' places are kept for whoever writes them."""
    return {
        "rank": rank,
        "score": round(hit.score, 6),
        "path": None,
        "root": None,
        "id": hit.id,
        "width": hit.width,
        "height": hit.height,
        "taken_at": hit.taken_at,
        "model": model,
        "false_alarm": rounded(hit.false_alarm),
        "precision": rounded(hit.precision),
        "domain": hit.domain,
        "tested": hit.tested,
        "calibrated": hit.calibrated,
        "verdict": hit.verdict,
        "rate": rounded(hit.rate),
        "collapsed": hit.collapsed,
        "camera": hit.camera,
        "latitude": hit.latitude,
        "longitude": hit.longitude,
        "caption": hit.caption,
        "url": hit.url,
    }


def write_table(show: Show) -> Write:
    """A table for people, on standard output."""

    def write(hits: Sequence[Hit], model: str, stream: BinaryIO) -> None:
        _print_table(hits, model, show)

    return write


def _print_table(hits: Sequence[Hit], model: str, show: Show) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("#", justify="right", style="dim")
    table.add_column("score", justify="right", style="cyan")
    table.add_column("false alarm", justify="right", style="dim")
    known = any(hit.precision is not None for hit in hits)
    if known:
        table.add_column("right", justify="right", style="green")
    table.add_column("size", justify="right", style="dim")
    folded = any(hit.collapsed for hit in hits)
    if folded:
        table.add_column("alike", justify="right", style="dim")
    table.add_column("path", overflow="fold")
    for rank, hit in enumerate(hits, start=1):
        path = Text(printable(os.fsdecode(show(hit))))
        sure = [percent(hit.precision)] if known else []
        more = [f"+{hit.collapsed}" if hit.collapsed else ""] if folded else []
        facts = [percent(hit.false_alarm), *sure, f"{hit.width} x {hit.height}", *more]
        table.add_row(str(rank), f"{hit.score:.3f}", *facts, path)
    screen = console(sys.stdout)
    screen.print(table)
    screen.print(f"ranked by {printable(model)}", style="dim")


def answer_lines(found: Answer, *, strict: bool = False, all: bool = False) -> Iterator[str]:
    """What is to be said of an answer beside its hits: a weak match, or none and how near one is.

    strict: whether a weak match was not accepted. all: whether hits are shown whatever the verdict.
    """
    rate, verdict = found.judgment.rate, found.judgment.verdict
    if found.hits:
        if verdict == "weak" and rate is not None and not all:
            yield weak(found.judgment)
        return
    if found.nothing_passes:
        yield "no match: no indexed picture passes the filters"
    elif found.rejected is None or rate is None:
        yield "no match"
    elif verdict == "strong" or (verdict == "weak" and not strict):
        yield "no match: no hit has a false-alarm rate that low (--max-false-alarm)"
    else:
        nearest = printable(os.fsdecode(shown_path(found.rejected)))
        kind = "no strong match" if strict and verdict == "weak" else "no match"
        yield (
            f"{kind}: {reached(found.judgment)}; the nearest picture is {nearest} (--all prints it)"
        )
