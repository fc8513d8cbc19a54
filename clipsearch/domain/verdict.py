"""Whether anything matches: a verdict on a query as a whole, compared with queries that have
nothing to do with the collection.

The strength of a query is the mean of two values: its best score, and the mean of its three best.
The best alone misses a broad query ("a bird": many fair hits); the mean of three misses a single
image. From each score, the mean score of the unrelated queries on the same image is subtracted
first, so that an image that answers everything counts for less. The centered score of a query is
``picture @ (query - center)``, where the center is the mean embedding of the unrelated texts.
Longer texts score higher or lower, depending on the model, whatever they are about. So strengths
are compared at equal length: the effect that the logarithm of the number of words has among the
unrelated queries is subtracted.

Measured on photographs (72 generic nouns of ImageNet, 71 COCO objects, 80 phrases) with the first
text tower of ``pocket``, at a rate of 0.45 this finds 0.972, 0.944 and 0.950; the best score
alone finds 0.965, 0.873 and 0.950. Of 169 unrelated queries kept out of the bank, 0.54 to 0.59
find nothing. Standardizing scores by the query's own spread was worse, since hits add to it.

The rate of a strength is the share of the unrelated queries that reach it in this collection:
the p-value of a permutation test, (1 + r) / (1 + n), which is valid for any model, any
collection and any number of images (Davison and Hinkley 1997, section 4.2).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from clipsearch.errors import TooFewExamples
from clipsearch.records import Verdict

Floats = npt.NDArray[np.float64]
STRONG = 0.04
"""A strong match, up to this rate: below 5%, so that it also holds for queries unlike the bank.

Of 169 such queries, 0.065 had a rate of 0.05 or less, and 0.047 had one of 0.04 or less.
"""

WEAK = 0.45
"""A weak match, up to this rate; above it, no match. A false "no match" is the worse error."""

BEST = 3
"""How many of a query's best scores contribute to its strength."""


def strength(best: npt.ArrayLike) -> Floats:
    """The strength of queries: the mean of the best score and the mean of the three best.

    best: ``(n, k)`` centered scores, best first, k at least 1; those after the third are ignored.
    With fewer than three, the collection has no more images, and all count. Returns ``(n,)``.
    """
    top = np.asarray(best, np.float64)[:, :BEST]
    strengths: Floats = (top[:, 0] + top.mean(axis=1)) / 2
    return strengths


def verdict(rate: float) -> Verdict:
    """The verdict for the rate of a text query."""
    if rate <= STRONG:
        return "strong"
    return "weak" if rate <= WEAK else "none"


def top_scores(
    queries: npt.NDArray[np.floating], chunks: Iterable[npt.NDArray[np.floating]]
) -> Floats:
    """The best scores of each query over images read in chunks.

    queries: ``(n, dim)``, centered. chunks: ``(m, dim)`` each, any float dtype. Returns
    ``(n, k)``, best first; k is ``BEST``, or the number of images if that is smaller.
    """
    rows = queries.astype(np.float32)
    best = np.empty((len(rows), 0))
    for chunk in chunks:
        best = _top(np.concatenate([best, rows @ chunk.astype(np.float32).T], axis=1))
    return best


@dataclass(frozen=True)
class Background:
    """The scores of unrelated queries in one collection."""

    words: tuple[int, ...]
    """The number of words in each query."""
    best: tuple[tuple[float, ...], ...]
    """A row per query: its best centered scores, best first; as many as there are images,
    at most ``BEST``."""

    def __post_init__(self) -> None:
        if not self.words or min(self.words) < 1 or len(self.words) != len(self.best):
            raise ValueError(f"{len(self.words)} queries, but {len(self.best)} rows of scores")
        if len({len(row) for row in self.best}) != 1 or not self.best[0]:
            raise ValueError("rows of scores that differ in length")

    @classmethod
    def of(cls, words: Sequence[int], scores: npt.ArrayLike) -> "Background":
        """From the queries' word counts and their centered scores ``(n, pictures)``.

        The scores may be in any order. Raises TooFewExamples if there is no query or no
        image, and ValueError for scores that are not numbers or differ in count from ``words``.
        """
        values = np.asarray(scores, np.float64)
        if values.ndim != 2 or not values.size:
            raise TooFewExamples("there are no background queries to calibrate with")
        if len(words) != len(values) or min(words) < 1 or not np.isfinite(values).all():
            raise ValueError("these are not background scores")
        return cls(tuple(words), tuple(map(tuple, _top(values).tolist())))

    @classmethod
    def pooled(cls, several: Sequence["Background"]) -> "Background":
        """The exact background of several collections together, if all had the same queries.

        Raises ValueError if the numbers of queries differ.
        """
        rows = zip(*(background.best for background in several), strict=True)
        joined = [[score for part in parts for score in part] for parts in rows]
        return cls.of(several[0].words, joined)

    def rate(self, strength: float, words: int) -> float:
        """The rate for a query with ``words`` words, from 1 / (1 + queries) to 1."""
        return float(_share(self._ascending, strength - self._length_effect(words)))

    def reached(self, rate: float, words: int) -> float:
        """The strength that a query with ``words`` words must exceed for ``rate``, below 1.

        Infinity if the rate is below 1 / (1 + queries), which no strength reaches.
        """
        n = len(self.best)
        allowed = int(np.floor(rate * (1 + n) + 1e-9)) - 1
        if allowed < 0:
            return float("inf")
        return float(self._ascending[n - allowed - 1] + self._length_effect(words))

    def _length_effect(self, words: npt.ArrayLike) -> Floats:
        """What the number of words adds to a strength, up to a constant."""
        effect: Floats = self._slope * np.log(np.maximum(words, 1))
        return effect

    @cached_property
    def _slope(self) -> float:
        """Slope of the least-squares line from the log of the number of words to the strength."""
        lengths = np.log(self.words)
        apart = lengths - lengths.mean()
        return float(apart @ strength(self.best) / max(apart @ apart, 1e-9))

    @cached_property
    def _ascending(self) -> Floats:
        return np.sort(strength(self.best) - self._length_effect(self.words))


def _top(scores: Floats) -> Floats:
    """The best few of each row of ``(n, m)``, best first."""
    falling = -scores
    if scores.shape[1] > BEST:
        falling = np.partition(falling, BEST - 1, axis=1)[:, :BEST]
    best: Floats = -np.sort(falling, axis=1)
    return best


def _share(ascending: Floats, values: npt.ArrayLike) -> Floats:
    """(1 + how many reach a value) / (1 + all), for each value."""
    n = len(ascending)
    reached = n - np.searchsorted(ascending, np.asarray(values, np.float64), side="left")
    rates: Floats = (1 + reached) / (1 + n)
    return rates
