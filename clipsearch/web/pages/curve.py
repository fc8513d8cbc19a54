"""The coordinates of a learning curve in its SVG."""

from typing import Any

from clipsearch.evaluation.curve import Curve, Spread
from clipsearch.text import percent

_WIDTH, _HEIGHT, _LEFT, _TOP = 600, 240, 48, 12
"""The size of the plot area, and the margins to its left and above it."""


def drawing(curve: Curve) -> dict[str, Any]:
    """Coordinates and labels for the template."""
    accuracies = [curve.zero_shot, *(point.accuracy for point in curve.points)]
    low = min(spread.mean - spread.deviation for spread in accuracies)
    high = max(spread.mean + spread.deviation for spread in accuracies)
    bottom, top = max(0.0, int(low * 10) / 10), min(1.0, int(high * 10 + 1) / 10)

    def y(share: float) -> float:
        return round(_TOP + _HEIGHT * (1 - (share - bottom) / (top - bottom)), 1)

    def mark(n: int, label: str, accuracy: Spread) -> dict[str, Any]:
        return {
            "x": round(_LEFT + _WIDTH * (n + 0.5) / len(curve.points), 1),
            "y": y(accuracy.mean),
            "high": y(min(accuracy.mean + accuracy.deviation, top)),
            "low": y(max(accuracy.mean - accuracy.deviation, bottom)),
            "label": label,
            "said": f"{percent(accuracy.mean)} ± {100 * accuracy.deviation:.1f}",
        }

    return {
        "width": _LEFT + _WIDTH + _TOP,
        "height": _TOP + _HEIGHT + 28,
        "left": _LEFT,
        "right": _LEFT + _WIDTH,
        "foot": _TOP + _HEIGHT,
        "zero_shot": {"y": y(curve.zero_shot.mean), "said": percent(curve.zero_shot.mean)},
        "ticks": [
            {"y": y(tenth / 10), "label": f"{10 * tenth}%"}
            for tenth in range(round(10 * bottom), round(10 * top) + 1)
        ],
        "marks": [
            mark(n, "all" if point.per_class is None else str(point.per_class), point.accuracy)
            for n, point in enumerate(curve.points)
        ],
        "classes": curve.classes,
        "draws": curve.draws,
        "tested": curve.tested,
        "said": curve.said[0].upper() + curve.said[1:],
    }
