"""Learn classes from images, on frozen embeddings, starting from words.

A probe starts from the words. Without images its weights are ``scale * T``, where T has the class
texts' embeddings, and it equals zero-shot classification. Images then move the weights::

    minimize over V:  sum of the log losses of the scores  x . (scale * T + V)  +  l2 / 2 * |V|^2

This is the idea of zero-shot-initialized probes (Silva-Rodriguez et al. 2024, CLAP), solved
exactly. The three things that it needs are estimated from the given images:

* ``scale`` says how much to trust the words (see ``expected_scale``);
* V is measured in a space where images of one class spread equally in all directions. The space
  comes from the shared within-class covariance, shrunk as in Kubokawa and Srivastava (2008) and the
  Gaussian classifier of Wang et al. (2024). With one image per class the covariance is unknown,
  and all directions count equally;
* ``l2`` starts at 1, the prior under which an image's score moves by about one unit. It changes
  only if cross-validated log loss improves by more than its standard error. Few images cannot
  show that; many can.

Intercepts are learned once every class that has images has at least one per fold. With fewer,
cross-validation removes whole classes and would blame the intercepts for it. A class without
images keeps ``scale * T``: that it has no labels does not mean that it is rare.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.domain.zero_shot import LOGIT_SCALE
from clipsearch.errors import TooFewExamples
from clipsearch.evaluation.logistic import (
    EXACT,
    FOLDS,
    ROUGH,
    Floats,
    Ints,
    dealt,
    fit_moves,
    log_softmax,
)
from clipsearch.evaluation.probes import Probe
from clipsearch.records import Vectors

_ENOUGH = 2_000
"""Images that determine a strength to within a point; with more, some folds are only trained on."""

_WEAKEST, _STRONGEST = -5, 5
"""In powers of ten. Between two neighboring steps, accuracy hardly changes."""


@dataclass(frozen=True, slots=True)
class Learned:
    """A probe and its cross-validation."""

    probe: Probe
    scale: float
    """The factor on the class texts' embeddings in the starting weights."""
    judged: Ints
    """Rows of the images that were also classified by probes that never saw them."""
    given: Ints
    """The predicted class of each of these."""


def learn(images: Vectors, labels: Sequence[int], classes: Sequence[str], words: Floats) -> Learned:
    """Fit a probe to all images, with the penalty chosen by cross-validation.

    images: ``(n, dim)``. labels: the class of each. classes: their names. words: ``(classes,
    dim)``, the starting weights. Its accuracy is cross-validated too: each half of the images
    is judged with the strength that is best on the other. Raises TooFewExamples if there are
    fewer than two classes, or images of fewer than two.
    """
    actual = np.asarray(labels, np.int64)
    _require_enough(actual, classes)
    x = images.astype(np.float64)
    trials = _Trials(x, actual, words)
    losses = _walk(trials)
    task = _Task(x, actual, words)
    best = _strength(losses)
    weights = task.weights(task.moves(_l2(best)))
    probe = Probe(tuple(classes), weights[:, :-1], weights[:, -1], _l2(best))
    given = np.empty(len(trials.judged), np.int64)
    halves = dealt(actual[trials.judged], 2)
    for half in (0, 1):
        other = {step: loss[halves != half] for step, loss in losses.items()}
        if (halves == half).any():
            given[halves == half] = trials.given[_strength(other)][halves == half]
    return Learned(probe, task.scale, trials.judged, given)


def expected_scale(similarities: Floats, labels: Ints) -> float:
    """How much to trust the words: the factor on similarities to the class texts.

    This is the posterior mean of the logit scale, with every order of magnitude from 1 to
    ``LOGIT_SCALE`` equally likely a priori. The most likely scale (temperature scaling, see
    ``zero_shot.fit_logit_scale``) would be 1 or 100 for a handful of images.
    similarities: ``(n, classes)``. labels: ``(n,)``.
    """
    scales = np.geomspace(1, LOGIT_SCALE, 25)
    rows = np.arange(len(labels))
    logs = np.array([log_softmax(scale * similarities)[rows, labels].sum() for scale in scales])
    likelihood = np.exp(logs - logs.max())
    return float((likelihood * scales).sum() / likelihood.sum())


class _Task:
    """Images to learn from, the starting weights, and the space in which the weights move."""

    def __init__(self, x: Floats, labels: Ints, words: Floats) -> None:
        self.scale = expected_scale(x @ words.T, labels)
        self._start = self.scale * words
        self._seen, self._labels = np.unique(labels, return_inverse=True)
        self._metric = _metric(x, labels)
        self._has_intercepts = bool(np.bincount(self._labels).min() >= FOLDS)
        moved = x @ self._metric
        self._design = np.c_[moved, np.ones(len(x))] if self._has_intercepts else moved
        self._scores = x @ self._start[self._seen].T

    def moves(self, l2: float, start: Floats | None = None, gap: float = EXACT) -> Floats:
        """How the weights of the classes with images move, in this task's space."""
        return fit_moves(self._design, self._scores, self._labels, l2, start, gap)

    def weights(self, moves: Floats) -> Floats:
        """``(classes, dim + 1)``; intercepts last."""
        weights: Floats = np.c_[self._start, np.zeros(len(self._start))]
        dim = self._metric.shape[0]
        weights[self._seen, :dim] += moves[:, :dim] @ self._metric
        if self._has_intercepts:
            weights[self._seen, dim] = moves[:, dim]
        return weights


def _metric(x: Floats, labels: Ints) -> Floats:
    """``(dim, dim)``: maps embeddings to a space where a class spreads equally in all directions.

    It is the inverse square root of (scatter within classes + its trace / (n - 1) * identity),
    scaled so that the squared lengths of ``x`` times it average 1.
    """
    _, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), x.shape[1]))
    np.add.at(means, which, x)
    centred = x - (means / counts[:, np.newaxis])[which]
    ridge = float((centred**2).sum()) / max(len(x) - 1, 1)
    if ridge <= np.finfo(np.float32).eps:  # no class has two images
        alike: Floats = np.eye(x.shape[1])
        return alike
    _, spread, axes = np.linalg.svd(np.linalg.qr(centred, mode="r"), full_matrices=False)
    shrunk = 1 / np.sqrt(spread**2 + ridge) - 1 / ridge**0.5
    metric = np.eye(x.shape[1]) / ridge**0.5 + (axes.T * shrunk) @ axes
    scaled: Floats = metric / np.sqrt(((x @ metric) ** 2).sum(axis=1).mean())
    return scaled


# -- the penalty -------------------------------------------------------------------------------


def _l2(step: int) -> float:
    return float(10.0**step)


class _Trials:
    """Cross-validation: how each strength performs on held-out images."""

    def __init__(self, x: Floats, labels: Ints, words: Floats) -> None:
        folds = dealt(labels, FOLDS)
        sizes = np.bincount(folds).cumsum()
        count = int(np.searchsorted(sizes, min(_ENOUGH, len(x)))) + 1
        self._rows = [np.flatnonzero(folds == fold) for fold in range(count)]
        self.judged = np.concatenate(self._rows)
        self._x, self._actual = x[self.judged], labels[self.judged]
        rest = [folds != fold for fold in range(count)]
        self._tasks = [_Task(x[rows], labels[rows], words) for rows in rest]
        self._latest: list[Floats | None] = [None] * count
        self.given: dict[int, Ints] = {}
        """For each step that was tried, the predicted class of each judged image."""

    def losses(self, step: int) -> Floats:
        """The log loss of each judged image, ``(judged,)``."""
        scores, start = [], 0
        for fold, task in enumerate(self._tasks):
            self._latest[fold] = moves = task.moves(_l2(step), self._latest[fold], ROUGH)
            weights = task.weights(moves)
            some = self._x[start : start + len(self._rows[fold])]
            scores.append(some @ weights[:, :-1].T + weights[:, -1])
            start += len(some)
        shares = log_softmax(np.concatenate(scores))
        self.given[step] = shares.argmax(axis=1)
        losses: Floats = -shares[np.arange(len(shares)), self._actual]
        return losses


def _walk(trials: _Trials) -> dict[int, Floats]:
    """Losses by step: from the usual strength in each direction, as long as they fall."""
    losses = {0: trials.losses(0)}
    for way, end in ((-1, _WEAKEST), (1, _STRONGEST)):
        step = 0
        while step != end:
            losses[step + way] = trials.losses(step + way)
            if losses[step + way].mean() >= losses[step].mean():
                break
            step += way
        if step:  # the loss fell this way, so the other way is worse
            break
    return losses


def _strength(losses: Mapping[int, Floats]) -> int:
    """The step nearest to the usual strength whose loss is within one standard error of the best.

    The standard error is that of the per-image differences.
    """
    best = min(losses.values(), key=lambda loss: float(loss.mean()))

    def is_as_good(loss: Floats) -> bool:
        more = loss - best
        return bool(more.mean() <= (more.std(ddof=1) / len(more) ** 0.5 if len(more) > 1 else 0))

    return min((step for step, loss in losses.items() if is_as_good(loss)), key=abs)


def _require_enough(labels: Ints, classes: Sequence[str]) -> None:
    seen = np.unique(labels)
    if len(classes) > 1 and len(seen) > 1:
        return
    of = f"one, {classes[seen[0]]}" if len(seen) else "none"
    raise TooFewExamples(
        f"a probe separates classes, but there are images of only {of}",
        hint="Add images of another class, in a folder of their own.",
    )
