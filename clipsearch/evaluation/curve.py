"""Learning curves: how the accuracy of a probe grows with more labeled images per class.

In each draw, a fifth of every class is held out for testing, and probes are trained on 1, 2, 4, ...
images per class of the rest, and on all of it. Larger subsets contain the smaller ones. Zero-shot
classification is tested on the same images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.errors import TooFewExamples
from clipsearch.evaluation.learn import learn
from clipsearch.evaluation.logistic import Floats, Ints
from clipsearch.indexing.embed import Progress
from clipsearch.records import Vectors

PER_CLASS = (1, 2, 4, 8, 16)

DRAWS = 5

_TESTED = 5
"""One image in this many is held out."""


@dataclass(frozen=True, slots=True)
class Spread:
    """An accuracy over several draws."""

    mean: float
    deviation: float
    """The standard deviation from draw to draw."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """From one accuracy per draw."""
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)))


@dataclass(frozen=True, slots=True)
class Point:
    """The accuracy at one number of images per class."""

    per_class: int | None
    """At most this many per class; None for all available."""
    images: int
    """How many images that is in total."""
    accuracy: Spread


@dataclass(frozen=True, slots=True)
class Curve:
    """The accuracy of a probe as images are added."""

    classes: int
    points: tuple[Point, ...]
    zero_shot: Spread
    draws: int
    tested: int
    """How many images each draw is tested on."""
    last_gain: Spread | None
    """The gain of the last point over the one before it; None if there is only one."""

    @property
    def said(self) -> str:
        """Whether more labels would help, in one sentence."""
        if self.last_gain is None:
            return "there are too few images to say whether more labels would help"
        few, many = self.points[-2].images, self.points[-1].images
        gain, doubt = self.last_gain.mean, self.last_gain.deviation / self.draws**0.5
        step = f"going from {few} to {many} images brought {100 * gain:+.1f} points"
        doubtful = f"(standard error {100 * doubt:.1f})"
        if gain > 2 * doubt:
            return f"{step} {doubtful}: more labels are likely to help"
        return f"{step} {doubtful}, which may be chance: more labels may not help"


def learning_curve(
    images: Vectors,
    labels: Sequence[int],
    classes: Sequence[str],
    words: Floats,
    progress: Progress = lambda doing, done, total: None,
) -> Curve:
    """Measure a curve. images: ``(n, dim)``. labels: each image's class. words: ``(classes, dim)``.

    Raises TooFewExamples unless two classes have two images.
    """
    actual = np.asarray(labels, np.int64)
    counts = np.bincount(actual, minlength=len(classes))
    if np.count_nonzero(counts > 1) < 2:
        raise TooFewExamples(
            "a learning curve needs at least two classes with two images, to train and to test",
            hint="Label more images, or leave out --curve.",
        )
    most = int((counts - _set_aside(counts)).max())
    sizes = [*(size for size in PER_CLASS if size < most), None]
    rng = np.random.default_rng(0)
    found: dict[int | None, list[float]] = {size: [] for size in sizes}
    by_words, used = [], dict.fromkeys(sizes, 0)
    for draw in range(DRAWS):
        place = _places(actual, rng)
        tested = place < _set_aside(counts)[actual]
        right = actual[tested]
        by_words.append(float(((images[tested] @ words.T).argmax(axis=1) == right).mean()))
        for n, size in enumerate(sizes):
            progress("learning", draw * len(sizes) + n, DRAWS * len(sizes))
            rows = ~tested
            if size is not None:
                rows &= place < (_set_aside(counts) + size)[actual]
            probe = learn(images[rows], actual[rows].tolist(), classes, words).probe
            given = probe.probabilities(images[tested]).argmax(axis=1)
            found[size].append(float((given == right).mean()))
            used[size] = int(rows.sum())
    gains = np.subtract(found[sizes[-1]], found[sizes[-2]]) if len(sizes) > 1 else None
    return Curve(
        classes=len(classes),
        points=tuple(Point(size, used[size], Spread.of(found[size])) for size in sizes),
        zero_shot=Spread.of(by_words),
        draws=DRAWS,
        tested=int(_set_aside(counts).sum()),
        last_gain=None if gains is None else Spread.of(gains.tolist()),
    )


def _set_aside(counts: Ints) -> Ints:
    """How many images of each class to hold out: none of a single one, otherwise at least one."""
    aside: Ints = np.where(counts > 1, np.maximum(counts // _TESTED, 1), 0)
    return aside


def _places(labels: Ints, rng: np.random.Generator) -> Ints:
    """The position of each image, from 0, in a random order of its class."""
    shuffled = rng.permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    ordered = labels[order]
    places = np.empty(len(labels), np.int64)
    places[order] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return places
