"""Renders a learning curve as a table with bars, and as a JSON record."""

from dataclasses import asdict
from typing import Any

from clipsearch.cli.render.table import Table
from clipsearch.evaluation.curve import Curve, Spread
from clipsearch.text import percent

_WIDTH = 40
"""Characters in a bar of 100%."""


def curve_table(curve: Curve) -> Table:
    """A table with zero-shot first; a mark in every bar shows its accuracy."""
    mark = round(curve.zero_shot.mean * _WIDTH)
    rows = [("none (zero-shot)", "", *_figures(curve.zero_shot), _bar(0.0, mark))]
    rows += [
        (
            "all" if point.per_class is None else str(point.per_class),
            str(point.images),
            *_figures(point.accuracy),
            _bar(point.accuracy.mean, mark),
        )
        for point in curve.points
    ]
    title = (
        f"Learning curve of a probe of {curve.classes} classes: {curve.draws} draws, each "
        f"tested on {curve.tested} images that it was not trained on"
    )
    columns = ("images per class", "total", "accuracy", "spread", "")
    return Table(title, columns, rows, left=(0, 4))


def _figures(accuracy: Spread) -> tuple[str, str]:
    return percent(accuracy.mean), f"± {100 * accuracy.deviation:.1f}"


def _bar(share: float, mark: int) -> str:
    bar = ("█" * round(share * _WIDTH)).ljust(max(mark + 1, 0))
    return (bar[:mark] + "│" + bar[mark + 1 :]).rstrip()


def curve_record(curve: Curve) -> dict[str, Any]:
    """A JSON record. Keys are only ever added."""
    return asdict(curve) | {"said": curve.said}
