"""What an evaluation must reach before an index counts as tested on its domain."""

from collections.abc import Mapping
from dataclasses import dataclass

ABSENT_ANSWERED = "absent_answered"
"""The share of classes without images that are answered with hits."""

_OF_LISTS = ("found", ABSENT_ANSWERED, "list_precision", "list_recall", "list_f1")
_OF_SEVERAL_LABELS = ("mean_average_precision", *_OF_LISTS)
_OF_LABELS = ("top1", "top5", "mean_per_class_recall", *_OF_SEVERAL_LABELS)
_OF_CAPTIONS = tuple(f"{what}_recall_at_{k}" for what in ("image", "text") for k in (1, 5, 10))

SHARES = (*_OF_LABELS, *_OF_CAPTIONS)
"""Pass marks between 0 and 1, under the measures' names in an evaluation."""

IMAGES = "images"
"""The pass mark that is a number of images: an evaluation on fewer proves nothing."""

LEAST_IMAGES = 30
"""The default for that pass mark: a 95% interval is then at most 0.34 wide."""

REFUSED = "refused_in_domain"
"""The share of in-domain queries refused."""

MOSTS = (REFUSED, ABSENT_ANSWERED)
"""The pass marks that are upper limits."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A pass mark that was not met."""

    measure: str
    reached: float | None
    """None if the evaluation did not measure it."""
    mark: float

    def __str__(self) -> str:
        if self.reached is None:
            return f"{self.measure} was not measured (the mark is {self.mark:g})"
        worse = "above" if self.measure in MOSTS else "below"
        return f"{self.measure} {self.reached:.4g} is {worse} the mark {self.mark:g}"


def least_images(marks: Mapping[str, float]) -> int:
    """How many images an evaluation needs to decide anything, whatever it measured."""
    return int(marks.get(IMAGES, LEAST_IMAGES))


def shortfalls(measures: Mapping[str, float], marks: Mapping[str, float]) -> tuple[Shortfall, ...]:
    """The pass marks that these measures miss; a domain passes if there are none.

    Marks that this kind of test set cannot measure are left out: retrieval for labels,
    classification for captions, single-class accuracy for images with several labels. At least
    one share must remain, since a number of images alone shows nothing.
    """
    shares = measures.keys() - {IMAGES, REFUSED}
    kinds = (_OF_SEVERAL_LABELS, _OF_LABELS, _OF_CAPTIONS)
    measurable = next((kind for kind in kinds if shares and shares <= {*kind}), ())
    relevant = {n: mark for n, mark in marks.items() if n in (IMAGES, REFUSED, *measurable)}
    missed = [
        Shortfall(name, measures.get(name), mark)
        for name, mark in relevant.items()
        if not _met(name, measures.get(name), mark)
    ]
    if relevant.keys().isdisjoint(measurable):
        missed += [Shortfall(n, measures.get(n), m) for n, m in marks.items() if n not in relevant]
    return tuple(missed)


def _met(name: str, reached: float | None, mark: float) -> bool:
    if reached is None:
        return False
    return reached <= mark if name in MOSTS else reached >= mark
