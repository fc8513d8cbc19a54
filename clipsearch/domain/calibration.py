"""What a score means in one collection: how often it is a false alarm, and how often right.

No fixed threshold separates matches from non-matches: scores depend on the model, the query and,
above all, the content and size of the collection. So both rates are measured there.

``FalseAlarms``: queries that have nothing to do with the collection are run against it, and their
best scores are stored. The false-alarm rate of a score is the share of them that reached it. This
is what a permutation test calls the p-value of the hit, and (1 + r) / (1 + n) instead of r / n
keeps it valid (Davison and Hinkley 1997, section 4.2).

``Precision``: if a labeled set says which hits were right, the probability of being right as
a function of the score, by isotonic or by logistic regression.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from clipsearch import typed
from clipsearch.errors import TooFewExamples
from clipsearch.records import Vectors

Floats = npt.NDArray[np.float64]

# -- false alarms ------------------------------------------------------------------------------

NEAR_DUPLICATE = 0.95
"""Images at least this similar count as the same image: a copy, a crop, the next frame."""

_TAIL = 0.1
"""The share of background scores whose excesses define the tail beyond them."""


@dataclass(frozen=True)
class FalseAlarms:
    """The best scores that background queries reached in one collection."""

    best_scores: tuple[float, ...]
    """Ascending; one per background query."""

    @classmethod
    def of(cls, best_scores: npt.ArrayLike) -> "FalseAlarms":
        """From best scores ``(n,)`` in any order; minus infinity where there was no image.

        Raises TooFewExamples if there are none.
        """
        scores = np.sort(np.maximum(np.asarray(best_scores, np.float64), -1.0))
        if not len(scores):
            raise TooFewExamples("there are no background queries to calibrate with")
        return cls(tuple(scores.tolist()))

    def rate(self, scores: npt.ArrayLike) -> Floats:
        """The false-alarm rate of each of ``(n,)`` scores: ``(n,)``, falling as they rise.

        (1 + the number of background queries with a best score as high) / (1 + all of them). For
        all scores above these, that would be 1 / (1 + n). There the rate instead falls
        exponentially, at the pace of the excesses of the highest tenth (the tail of
        Pickands 1975, with shape 0), so that hits remain distinguishable. Rates below
        ``resolution`` are extrapolated, not counted.
        """
        values = np.asarray(scores, np.float64)
        n = len(self.best_scores)
        reached = n - np.searchsorted(self._scores, values, side="left")
        rates: Floats = (1 + reached) / (1 + n)
        beyond = np.maximum(values - self._scores[-1], 0.0)
        rates *= np.exp(-beyond / self._pace)
        return rates

    @property
    def resolution(self) -> float:
        """The smallest counted rate: 1 / (1 + n)."""
        return 1 / (1 + len(self.best_scores))

    def to_json(self) -> str:
        """The record as JSON text; the inverse of ``from_json``."""
        return json.dumps([round(score, 6) for score in self.best_scores])

    @classmethod
    def from_json(cls, text: str) -> "FalseAlarms":
        """Rebuild a record from the text of ``to_json``."""
        return cls.of(json.loads(text))

    @cached_property
    def _scores(self) -> Floats:
        return np.array(self.best_scores)

    @cached_property
    def _pace(self) -> float:
        """Mean excess of the highest scores over the score just below them."""
        k = max(1, int(_TAIL * len(self._scores)))
        if k == len(self._scores):
            return 1e-3
        return max(float((self._scores[-k:] - self._scores[-k - 1]).mean()), 1e-6)


def best_scores(queries: Vectors, chunks: Iterable[npt.NDArray[np.floating]]) -> Floats:
    """The best score of each query over a collection read in chunks.

    queries: ``(q, dim)``. chunks: ``(n, dim)`` each, any float dtype. Returns ``(q,)``, minus
    infinity for a collection without images.
    """
    best = np.full(len(queries), -np.inf)
    for chunk in chunks:
        if len(chunk):
            np.maximum(best, (queries @ chunk.astype(np.float32).T).max(axis=1), out=best)
    return best


def best_scores_of_others(
    images: Vectors,
    chunks: Iterable[npt.NDArray[np.floating]],
    classes: Vectors,
    near_duplicate: float = NEAR_DUPLICATE,
) -> Floats:
    """For images of a collection, the best score of any that has nothing to do with them.

    This is the background of image queries. images: ``(q, dim)``, a sample of the collection.
    chunks: as in ``best_scores``. classes: ``(classes, dim)``. Excluded for each image are its
    near-duplicates, including itself, and the images that zero-shot classification assigns to
    the same class: if a mountain finds a mountain, it is not a false alarm. With ``pocket`` on the
    sample images, 73% of those with another of their class found one at a rate of 0.05, and 3% of
    those without found anything; excluding only the near-duplicates, 33% and none.

    Returns ``(q,)``, minus infinity if nothing else is left.
    """
    own = (images @ classes.T).argmax(axis=1)
    best = np.full(len(images), -np.inf)
    for chunk in chunks:
        if len(chunk):
            others = chunk.astype(np.float32)
            scores = images @ others.T  # (q, n)
            same = own[:, np.newaxis] == (others @ classes.T).argmax(axis=1)
            scores[(scores >= near_duplicate) | same] = -np.inf
            np.maximum(best, scores.max(axis=1), out=best)
    return best


# -- precision ---------------------------------------------------------------------------------

Method = Literal["isotonic", "logistic"]

_FOLDS = 5
_LEAST_HITS = 20
"""With fewer hits than this, or hits all right or all wrong, no calibration is possible."""


@dataclass(frozen=True)
class Precision:
    """The probability that a hit is right, as a function of its score."""

    method: Method
    knots: tuple[tuple[float, float], ...]
    """isotonic: ``(score, probability)``, both rising, interpolated between. logistic: one pair,
    the intercept and the slope."""
    brier: float
    """Mean squared error of the cross-validated probabilities: 0 is perfect."""
    brier_of_base_rate: float
    """The same for always predicting the share of right hits: a useful fit must be lower."""
    hits: int
    right: int

    def __post_init__(self) -> None:
        if not self.knots or (self.method == "logistic" and len(self.knots) > 1):
            raise ValueError(f"{len(self.knots)} knots do not define a {self.method} regression")

    def probability(self, scores: npt.ArrayLike) -> Floats:
        """The probability for each of ``(n,)`` scores: ``(n,)``."""
        return _apply(self.method, self.knots, np.asarray(scores, np.float64))

    def to_json(self) -> str:
        """The record as JSON text; the inverse of ``from_json``."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Precision":
        """Rebuild a record from the text of ``to_json``. Raises ValueError for any other text."""
        precision: Precision = typed.from_json(cls, text)
        return precision


def fit_precision(scores: npt.ArrayLike, right: npt.ArrayLike, groups: npt.ArrayLike) -> Precision:
    """Calibrate on hits that are known to be right or wrong.

    scores: ``(n,)``. right: ``(n,)``, true or false. groups: ``(n,)``, the query that each hit
    answers; the hits of one query stay together, so that Brier scores are for unseen queries.
    The method, isotonic or logistic regression, is the one with the lower Brier score in
    five-fold cross-validation; it is then fitted to all hits.

    Raises TooFewExamples if there are fewer than 20 hits, or if all are right or all wrong.
    """
    x, y = np.asarray(scores, np.float64), np.asarray(right, np.float64)
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    if len(x) < _LEAST_HITS or y.min() == y.max():
        raise TooFewExamples(
            f"{len(x)} hits, {int(y.sum())} of them right, are too few to calibrate scores"
        )
    fold = _folds(group, _FOLDS)
    methods: tuple[Method, ...] = ("isotonic", "logistic")
    briers = {method: _cross_validated(method, x, y, fold) for method in methods}
    base = float(np.mean((y - _held_out_share(y, fold)) ** 2))
    method = min(methods, key=briers.__getitem__)
    return Precision(method, _fit(method, x, y), briers[method], base, len(x), int(y.sum()))


def _folds(group: npt.NDArray[np.intp], folds: int) -> npt.NDArray[np.intp]:
    """Assign hits to folds, keeping groups together, the same on every run."""
    order = np.random.default_rng(0).permutation(int(group.max()) + 1)
    return (order % folds)[group]


def _cross_validated(method: Method, x: Floats, y: Floats, fold: npt.NDArray[np.intp]) -> float:
    error = np.empty(len(x))
    for f in np.unique(fold):
        now = fold == f
        if now.all():
            return float("inf")
        error[now] = (_apply(method, _fit(method, x[~now], y[~now]), x[now]) - y[now]) ** 2
    return float(error.mean())


def _held_out_share(y: Floats, fold: npt.NDArray[np.intp]) -> Floats:
    shares = np.empty(len(y))
    for f in np.unique(fold):
        now = fold == f
        shares[now] = y[~now].mean() if not now.all() else y.mean()
    return shares


def _fit(method: Method, x: Floats, y: Floats) -> tuple[tuple[float, float], ...]:
    return _isotonic(x, y) if method == "isotonic" else (_logistic(x, y),)


def _apply(method: Method, knots: Sequence[tuple[float, float]], x: Floats) -> Floats:
    if method == "isotonic":
        at, values = zip(*knots, strict=True)
        interpolated: Floats = np.interp(x, at, values)
        return interpolated
    ((intercept, slope),) = knots
    return np.asarray(_sigmoid(intercept + slope * x))


def _isotonic(x: Floats, y: Floats) -> tuple[tuple[float, float], ...]:
    """The rising step function closest to the points, as the ends of its steps.

    Pool adjacent violators (Ayer et al. 1955): neighbors whose means fall are merged until none
    do. Points with the same score are merged from the start. A step's value is shrunk slightly
    toward one half, (right + 1) / (hits + 2) instead of right / hits: nothing is certain.
    """
    values, which = np.unique(x, return_inverse=True)
    blocks: list[tuple[float, float, float, float]] = []  # first score, last, right, hits
    for score, right, hits in zip(
        values, np.bincount(which, y), np.bincount(which).astype(float), strict=True
    ):
        block = (float(score), float(score), float(right), float(hits))
        while blocks and blocks[-1][2] * block[3] >= block[2] * blocks[-1][3]:
            first, _, earlier_right, earlier_hits = blocks.pop()
            block = (first, block[1], earlier_right + block[2], earlier_hits + block[3])
        blocks.append(block)
    knots: list[tuple[float, float]] = []
    highest = 0.0
    for first, last, right, hits in blocks:
        # Small steps are shrunk more than large ones; the function must still not fall.
        highest = max(highest, (right + 1) / (hits + 2))
        knots += [(first, highest)] if first == last else [(first, highest), (last, highest)]
    return tuple(knots)


def _logistic(x: Floats, y: Floats) -> tuple[float, float]:
    """Intercept and slope of the maximum-likelihood logistic curve, by Newton's method.

    The targets are Platt's (1999), slightly inside 0 and 1, so that separable data has a finite
    solution. The slope is at least 0: a higher score is never less likely to be right.
    """
    right = y.sum()
    wrong = len(y) - right
    target = np.where(y > 0.5, (right + 1) / (right + 2), 1 / (wrong + 2))
    spread = x.std() or 1.0
    design = np.stack([np.ones(len(x)), (x - x.mean()) / spread], axis=1)  # (n, 2)
    weights = np.zeros(2)
    for _ in range(50):
        p = _sigmoid(design @ weights)
        gradient = design.T @ (target - p)
        curvature = (design * (p * (1 - p))[:, np.newaxis]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights += step * min(1.0, 5.0 / (np.abs(step).max() + 1e-12))
        if np.abs(step).max() < 1e-10:
            break
    if weights[1] < 0:
        share = target.mean()
        return float(np.log(share / (1 - share))), 0.0
    slope = weights[1] / spread
    return float(weights[0] - slope * x.mean()), float(slope)


def _sigmoid(z: Floats) -> Floats:
    out: Floats = 0.5 * (1 + np.tanh(z / 2))  # does not overflow
    return out
