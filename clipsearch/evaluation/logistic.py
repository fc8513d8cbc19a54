"""Multinomial logistic regression with an L2 penalty, solved exactly.

::

    minimize over W, b:  sum of the log losses of the images  +  l2 / 2 * |W|^2

``fit`` is scikit-learn's ``LogisticRegression(C=1 / l2)``, or ``C=2 / l2`` with two classes, for
which scikit-learn has a single row of weights. ``fit_moves`` solves the same problem on top of
given scores: it finds how weights move from their starting point. Both problems are convex, and
Newton's method with conjugate gradients (Nocedal and Wright 2006, section 7.1) solves them in a few
dozen lines of numpy.
"""

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FOLDS = 5

_MOST_STEPS = 200

_EXPONENTS = (6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -6.0)
_FINEST = 0.125
"""Steps of the exponent: eight per factor of ten."""

EXACT = 1e-11
"""How far the mean loss may be above the minimum, for weights that are used."""

ROUGH = 1e-5
"""The same, for weights that are only compared."""


def log_softmax(scores: Floats) -> Floats:
    """Scores ``(n, classes)`` to the logarithms of each row's shares."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    logs: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def softmax(scores: Floats) -> Floats:
    """Scores ``(n, classes)`` to shares; each row sums to 1."""
    shares: Floats = np.exp(log_softmax(scores))
    return shares


def fit(x: Floats, labels: Ints, classes: int, l2: float, start: Floats | None = None) -> Floats:
    """The weights that minimize the penalized log loss, ``(classes, dim + 1)``; intercepts last.

    Intercepts are not penalized. x: ``(n, dim)``. labels: ``(n,)``. start: initial weights,
    such as those for a similar penalty.
    """
    # As many dimensions as there are images suffice: the penalty keeps the weights in the span
    # of the data, and a rotation changes nothing.
    if x.shape[1] > len(x):
        rotation, triangle = np.linalg.qr(x.T)  # (dim, n), (n, n)
        begin = None if start is None else np.c_[start[:, :-1] @ rotation, start[:, -1]]
        small = fit(triangle.T, labels, classes, l2, begin)
        return np.concatenate([small[:, :-1] @ rotation.T, small[:, -1:]], axis=1)
    design = np.c_[x, np.ones(len(x))]
    penalty = np.r_[np.full(x.shape[1], l2), 0.0]
    weights = _minimum(design, np.zeros((len(x), classes)), labels, penalty, start, EXACT)
    weights[:, -1] -= weights[:, -1].mean()  # only their differences matter
    return weights


def cross_validated_l2(x: Floats, labels: Ints, classes: int) -> float:
    """The ``l2`` of ``fit`` with the lowest cross-validated log loss.

    The search follows the CLIP paper (Radford et al. 2021, appendix A.3): seven strengths from
    1e-6 to 1e6, then the interval around the best is halved until there are eight per factor of
    ten. The paper selects by accuracy, which is tied for many strengths when images are few.
    x: ``(n, dim)``. labels: ``(n,)``.
    """
    parts = dealt(labels, FOLDS)
    latest: list[Floats | None] = [None] * FOLDS

    @cache
    def loss(exponent: float) -> float:
        total = 0.0
        for part in range(FOLDS):
            now, rest = parts == part, parts != part
            weights = fit(x[rest], labels[rest], classes, 10.0**exponent, latest[part])
            latest[part] = weights
            shares = log_softmax(x[now] @ weights[:, :-1].T + weights[:, -1])
            total -= float(shares[np.arange(now.sum()), labels[now]].sum())
        return total

    # From the strongest on, each fit starts where the last one ended.
    best = min(_EXPONENTS, key=loss)
    width = _EXPONENTS[0] - _EXPONENTS[1]
    while width > _FINEST:
        width /= 2
        around = (best, min(best + width, _EXPONENTS[0]), max(best - width, _EXPONENTS[-1]))
        best = min(around, key=loss)
    return float(10.0**best)


def dealt(labels: Ints, parts: int) -> Ints:
    """Assign images to parts, with an equal share of every class, the same on every run."""
    shuffled = np.random.default_rng(0).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    dealt = np.empty(len(labels), np.int64)
    dealt[by_class] = np.arange(len(labels)) % parts
    return dealt


def fit_moves(
    design: Floats,
    scores: Floats,
    labels: Ints,
    l2: float,
    start: Floats | None = None,
    gap: float = EXACT,
) -> Floats:
    """Moves V ``(classes, m)`` that minimize the log loss of (scores + design V') + l2 / 2 * |V|^2.

    design: ``(n, m)``. scores: ``(n, classes)``. labels: ``(n,)``. start: initial moves.
    gap: ``EXACT`` or ``ROUGH``.
    """
    if design.shape[1] > len(design):
        rotation, triangle = np.linalg.qr(design.T)
        begin = None if start is None else start @ rotation
        moves: Floats = fit_moves(triangle.T, scores, labels, l2, begin, gap) @ rotation.T
        return moves
    return _minimum(design, scores, labels, np.full(design.shape[1], l2), start, gap)


def _minimum(
    design: Floats,
    scores: Floats,
    labels: Ints,
    penalty: Floats,
    start: Floats | None,
    gap: float,
) -> Floats:
    target = np.eye(scores.shape[1], dtype=design.dtype)[labels]
    penalty = penalty.astype(design.dtype)
    weights = np.zeros((scores.shape[1], design.shape[1]), design.dtype) if start is None else start
    scores = scores + design @ weights.T
    for _ in range(_MOST_STEPS):
        shares = softmax(scores)  # (n, classes)
        gradient = (shares - target).T @ design + penalty * weights
        step = _newton_step(gradient, _curvature(design, shares, penalty))
        slope, ahead = float((gradient * step).sum()), design @ step.T
        share = _share(partial(_loss, scores, ahead, labels, weights, step, penalty), slope)
        weights = weights + share * step
        scores = scores + share * ahead
        if -slope / 2 <= gap * len(design):  # what a quadratic could still lose (Newton decrement)
            break
    return weights


def _loss(
    scores: Floats,
    ahead: Floats,
    labels: Ints,
    weights: Floats,
    step: Floats,
    penalty: Floats,
    share: float,
) -> float:
    """The penalized log loss after a fraction of a step, which moves the scores by ``ahead``."""
    log_shares = log_softmax(scores + share * ahead)[np.arange(len(labels)), labels]
    moved = weights + share * step
    return float(0.5 * (penalty * moved**2).sum(dtype=np.float64)) - float(
        log_shares.sum(dtype=np.float64)
    )


def _curvature(design: Floats, shares: Floats, penalty: Floats) -> Callable[[Floats], Floats]:
    """The Hessian as a function of a direction ``(classes, dim + 1)``; it is never materialized."""

    def product(direction: Floats) -> Floats:
        moved = design @ direction.T  # (n, classes)
        moved = shares * (moved - (shares * moved).sum(axis=1, keepdims=True))
        curved: Floats = moved.T @ design + penalty * direction
        return curved

    return product


def _newton_step(gradient: Floats, curvature: Callable[[Floats], Floats]) -> Floats:
    """Solve curvature(step) = -gradient by conjugate gradients, more exactly near the end.

    Intercepts have no penalty: if every image is classified with certainty, the curvature is 0.
    """
    step = np.zeros_like(gradient)
    residual = -gradient
    direction = residual
    size = float((residual**2).sum())
    enough = size * min(0.25, size**0.5)
    for _ in range(gradient.size):
        curved = curvature(direction)
        bend, flat = float((direction * curved).sum()), float(np.finfo(gradient.dtype).eps)
        if bend <= flat * float((direction**2).sum()):  # only rounding errors are left
            break
        length = size / bend
        step = step + length * direction
        residual = residual - length * curved
        before, size = size, float((residual**2).sum())
        if size <= enough:
            break
        direction = residual + size / before * direction
    return step


def _share(loss: Callable[[float], float], slope: float) -> float:
    """How much of a step to take: halved until the loss falls enough."""
    before, share = loss(0.0), 1.0
    while loss(share) > before + 1e-4 * share * slope and share > 1e-10:
        share /= 2
    return share
