"""What an evaluation must reach for an index to count as tested on its domain."""

from collections.abc import Mapping
from dataclasses import dataclass

SHARES = (
    "top1",
    "top5",
    "mean_per_class_recall",
    "mean_average_precision",
    "image_recall_at_1",
    "image_recall_at_5",
    "image_recall_at_10",
    "text_recall_at_1",
    "text_recall_at_5",
    "text_recall_at_10",
)
"""Pass marks between 0 and 1, under the names that an evaluation gives its measures."""

IMAGES = "images"
"""The pass mark that is a number of pictures: an evaluation on fewer proves nothing."""

REFUSED = "refused_in_domain"
"""The pass mark that is a most and not a least: the share of in-domain queries refused."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A pass mark that was not met."""

    measure: str
    reached: float | None
    """None where the evaluation did not measure it."""
    mark: float

    def __str__(self) -> str:
        if self.reached is None:
            return f"{self.measure} was not measured (the mark is {self.mark:g})"
        worse = "above" if self.measure == REFUSED else "below"
        return f"{self.measure} {self.reached:.4g} is {worse} the mark {self.mark:g}"


def shortfalls(measures: Mapping[str, float], marks: Mapping[str, float]) -> tuple[Shortfall, ...]:
    """The pass marks that these measures do not meet; a domain is passed if there are none.

    A mark of a kind that the test set cannot measure is left out: retrieval for labels,
    classification for captions. At least one share must remain, since a number of pictures
    alone shows nothing.
    """
    kinds = [{"top", "mean"}, {"image", "text"}]
    measured = next((kind for kind in kinds if any(_kind(m) in kind for m in measures)), set())
    relevant = {
        name: mark
        for name, mark in marks.items()
        if name in (IMAGES, REFUSED) or _kind(name) in measured
    }
    missed = [
        Shortfall(name, measures.get(name), mark)
        for name, mark in relevant.items()
        if not _met(name, measures.get(name), mark)
    ]
    if not any(_kind(name) in measured for name in relevant):
        missed += [Shortfall(n, measures.get(n), m) for n, m in marks.items() if n not in relevant]
    return tuple(missed)


def _kind(name: str) -> str:
    """The measure's family: top, mean, image, text; a count or a refusal has none."""
    return "" if name in (IMAGES, REFUSED) else name.rstrip("0123456789").split("_")[0]


def _met(name: str, reached: float | None, mark: float) -> bool:
    if reached is None:
        return False
    return reached <= mark if name == REFUSED else reached >= mark
