"""Renders ranked hits as paths, JSON lines, template lines or a table.

Paths are written as bytes, so that a program that reads them from a pipe can open the files.
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
from clipsearch.cli.render.table import Table, console, draw, fit
from clipsearch.errors import UsageError
from clipsearch.paths import absolute_path, shown_path
from clipsearch.records import Hit
from clipsearch.search.answer import Answer
from clipsearch.search.explain import counted, reached, weak
from clipsearch.text import percent, printable, rounded, shortened

Show = Callable[[Hit], bytes]
"""Makes the printed path of a hit."""


Write = Callable[[Sequence[Hit], str, BinaryIO], None]
"""Writes ranked hits, found by a model with this label, to a stream."""


def write_paths(show: Show, end: bytes) -> Write:
    """Paths only, each ended by ``end``: NUL is the only byte that no path contains."""

    def write(hits: Sequence[Hit], model: str, stream: BinaryIO) -> None:
        for hit in hits:
            stream.write(show(hit) + end)

    return write


def write_json_lines(show: Show) -> Write:
    """One JSON object per line. Keys are only ever added."""

    def write(hits: Sequence[Hit], model: str, stream: BinaryIO) -> None:
        for rank, hit in enumerate(hits, start=1):
            stream.write(json_line(hit_record(rank, hit, model, show)))
            stream.flush()

    return write


def hit_record(rank: int, hit: Hit, model: str, show: Show) -> dict[str, object]:
    """A JSON record of a hit. Keys are only ever added."""
    paths = {"path": json_path(show(hit)), "root": json_path(os.fsencode(hit.root))}
    return _facts(rank, hit, model) | paths


def write_template(template: str, show: Show, end: bytes) -> Write:
    """One line per hit from a template such as ``{score:.3f} {path}``. Raises UsageError.

    The fields are the keys of the JSON lines; unknown values are empty. ``\\t``, ``\\n`` and
    ``\\0`` stand for a tab, a newline and NUL.
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
        except (ValueError, KeyError, IndexError) as error:  # a width may refer to another field
            raise UsageError(
                f"'{shortened(template)}' is not a valid template: {shortened(str(error.args[0]))}",
                hint=f"For example {{score:.3f}} {{path}}. Fields: {', '.join(facts)}.",
            ) from error

    line(1, nothing, "model")

    def write(hits: Sequence[Hit], model: str, stream: BinaryIO) -> None:
        for rank, hit in enumerate(hits, start=1):
            stream.write(line(rank, hit, model))

    return write


_DIGITS = 3
"""Most digits of a width or precision in a template: more could exhaust memory."""


class _Fields(string.Formatter):
    """``str.format`` with plain names only: no attributes, items or positions."""

    def get_field(self, name: str, args: Sequence[Any], fields: Mapping[str, Any]) -> Any:
        if name not in fields:
            raise KeyError(f"there is no field {{{name}}}")
        return fields[name], name

    def format_field(self, value: Any, spec: str) -> str:
        if any(len(number) > _DIGITS for number in re.findall(r"\d+", spec)):
            raise ValueError(f"a width has at most {_DIGITS} digits")
        return "" if value is None else format(value, spec)


def _facts(rank: int, hit: Hit, model: str) -> dict[str, Any]:
    """Everything known about a hit; the caller fills in the paths."""
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


def write_table(
    show: Show, classes: Sequence[str | None] = (), footer: Sequence[tuple[str, ...]] = ()
) -> Write:
    """A table on standard output.

    classes: the class of each hit, if known. footer: parts of the last line, as for ``table.fit``.
    """

    def write(hits: Sequence[Hit], model: str, stream: BinaryIO) -> None:
        screen = console(sys.stdout)
        draw(hits_table(hits, show, classes), screen)
        last = fit([*footer, (f"ranked by {printable(model)}", printable(model), "")], screen.width)
        screen.print(last, style="dim", no_wrap=True, overflow="crop")

    return write


def hits_table(hits: Sequence[Hit], show: Show, classes: Sequence[str | None] = ()) -> Table:
    """Hits as a table. Columns without any value are left out."""
    named = classes or [None] * len(hits)
    known = any(hit.precision is not None for hit in hits)
    columns = {
        "#": ([str(rank) for rank, _ in enumerate(hits, start=1)], "dim"),
        "score": ([f"{hit.score:.3f}" for hit in hits], "cyan"),
        "right": ([percent(hit.precision) if known else "" for hit in hits], "green"),
        "similar": ([f"+{hit.collapsed}" if hit.collapsed else "" for hit in hits], "dim"),
        "path": ([os.fsdecode(show(hit)) for hit in hits], ""),
        "class": ([name or "" for name in named], "green"),
        "date": ([(hit.taken_at or "")[:10] for hit in hits], "dim"),
    }
    columns = {name: column for name, column in columns.items() if any(column[0])}
    names = tuple(columns)
    return Table(
        "",
        names,
        list(zip(*(cells for cells, _ in columns.values()), strict=True)),
        left=tuple(n for n, name in enumerate(names) if name in ("path", "class", "date")),
        path=names.index("path"),
        gives_way=tuple(
            names.index(name) for name in ("date", "class", "similar", "right") if name in columns
        ),
        styles={n: style for n, (_, style) in enumerate(columns.values())},
        links=[_link(hit) for hit in hits],
    )


def footer(found: Answer, *, all: bool = False) -> list[tuple[str, ...]]:
    """The verdict, the number of hits, and whether such answers were tested, for ``table.fit``.

    all: whether hits are shown regardless of the verdict.
    """
    parts: list[tuple[str, ...]] = []
    shown, count = len(found.hits), counted(found.matching)
    if all:
        parts.append((f"best {shown:,}, regardless of the verdict", f"best {shown:,}"))
    elif found.judgment.verdict is not None:
        parts.append((f"{found.judgment.verdict} match",))
    if found.matching > shown and not all:
        parts.append((f"{shown:,} of {count} (-k shows more)", f"{shown:,} of {count}"))
    states = {hit.tested: printable(hit.domain) for hit in found.hits}
    worst = min(states, key=("failed", "untested", "tested").index)
    said, see = {
        "failed": (f"failed the tests of {states[worst]}", " (clipsearch status)"),
        "untested": (f"untested on {states[worst]}", " (clipsearch evaluate)"),
        "tested": (f"tested on {states[worst]}", ""),
    }[worst]
    return [*parts, (f"{said}{see}", said, worst)]


def _link(hit: Hit) -> str:
    """A file URL of the image, with this machine's name; "" if it is in an archive."""
    if hit.span is not None:
        return ""
    path = absolute_path(hit)
    if os.name == "nt":
        return Path(os.fsdecode(path)).as_uri()
    from urllib.parse import quote  # here, since pipes do not need it

    return f"file://{os.uname().nodename}{quote(path)}"


def answer_lines(found: Answer, *, strict: bool = False, all: bool = False) -> Iterator[str]:
    """Messages about an answer: a weak match, or no match and the nearest image.

    strict: whether a weak match was rejected. all: whether hits are shown regardless of the
    verdict.
    """
    rate, verdict = found.judgment.rate, found.judgment.verdict
    if found.hits:
        if verdict == "weak" and rate is not None and not all:
            yield weak(found.judgment)
        return
    if found.nothing_passes:
        yield "no match: no indexed image passes the filters"
    elif found.rejected is None or rate is None:
        yield "no match"
    elif verdict == "strong" or (verdict == "weak" and not strict):
        yield "no match: no hit has a false-alarm rate this low (--max-false-alarm)"
    else:
        nearest = printable(os.fsdecode(shown_path(found.rejected)))
        kind = "no strong match" if strict and verdict == "weak" else "no match"
        yield (
            f"{kind}: {reached(found.judgment)}; the nearest image is {nearest} (--all prints it)"
        )
