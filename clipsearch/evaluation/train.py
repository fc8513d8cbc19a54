"""Train linear probes: learn classes from labelled pictures, on the embeddings as they are.

A linear probe is a multinomial logistic regression with an L2 penalty, as the CLIP paper fits it
(Radford et al. 2021, appendix A.3)::

    minimise over W, b:  sum of the log losses of the pictures  +  l2 / 2 * |W|^2

The intercepts are not penalised, so this is scikit-learn's ``LogisticRegression(C=1 / l2)``; with
two classes, for which scikit-learn has a single row of weights, ``C=2 / l2``. The problem is
convex, and Newton's method with conjugate gradients (Nocedal and Wright 2006, section 7.1) solves
it exactly in a few dozen lines of numpy.

The strength of the penalty is chosen as in the paper: seven values from 1e-6 to 1e6, and then the
interval around the best is halved until there are eight steps to a factor of ten. It is judged by
cross-validation, since small sets leave nothing to set aside, and by the log loss where the paper
takes the accuracy: with few pictures many strengths share one accuracy, and the probabilities are
to be of use too.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipsearch.domain.intervals import Estimate, proportion, stratified_mean
from clipsearch.domain.taxonomy import Domain
from clipsearch.domain.zero_shot import class_embeddings
from clipsearch.errors import NothingLearned, TooFewExamples
from clipsearch.evaluation.labelled import LabelledImages, own_taxonomy, read_single
from clipsearch.evaluation.probes import (
    Floats,
    KeptProbe,
    Probe,
    check_name,
    keep,
    log_softmax,
    softmax,
)
from clipsearch.indexing.embed import Progress, embeddings_of
from clipsearch.models.load import Encoders
from clipsearch.records import TextEncoder, Vectors
from clipsearch.storage.catalog import Store
from clipsearch.storage.collection import Collection
from clipsearch.text import percent

Ints = npt.NDArray[np.int64]

LEAST_PER_CLASS = 3
"""One to test on, one to choose the penalty with, and one to learn from."""

FOLDS = 5

_EXPONENTS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
_FINEST = 0.125
"""Of an exponent: eight steps to a factor of ten."""

_MOST_STEPS = 200
_TOLERANCE = 1e-6
"""Of the gradient, for each picture."""


def train_on(
    source: Path,
    name: str,
    store: Store,
    encoders: Encoders,
    progress: Progress = lambda doing, done, total: None,
) -> tuple[KeptProbe, tuple[tuple[bytes, str], ...]]:
    """Train a probe on a labelled set and keep it with the index, which is open for writing.

    It replaces a probe of the same name. Also says which pictures cannot be decoded, and why.
    Raises UsageError or RefusedByPolicy for the name, BadLabels, TooFewExamples, NothingLearned,
    ModelError.
    """
    check_name(name)
    taxonomy = own_taxonomy(source, Collection(store).domain)
    training = read_single(source, taxonomy)
    found = embeddings_of(
        training.root,
        training.paths,
        store.spec,
        store,
        lambda: encoders.both,
        progress,
    )
    labels = training.only(found.rows)
    kept = make(name, store, labels, found.vectors, taxonomy, encoders.text)
    keep(store, kept)
    return kept, found.failed


def make(
    name: str,
    store: Store,
    labels: LabelledImages,
    images: Vectors,
    taxonomy: Domain,
    encoder: TextEncoder,
) -> KeptProbe:
    """Train a probe on all pictures, after measuring on them what such a probe is worth.

    labels: classes are those of ``taxonomy``, the labelled set's own. images: ``(n, dim)``.
    Raises TooFewExamples, and NothingLearned for one that is no better than guessing.
    """
    names, actual = taxonomy.class_names, np.asarray(labels.classes)
    given = held_out(images, labels.classes, names)
    recall = stratified_mean(given == actual, actual)
    if recall.value <= 1 / len(names):
        chance = percent(1 / len(names))
        raise NothingLearned(
            f"the probe '{name}' is no better than guessing: of pictures that it never saw it gets "
            f"{percent(recall.value)} right, as the mean of the classes (95% interval "
            f"{percent(recall.low)} to {percent(recall.high)}), and guessing {chance}",
            hint="It is not kept. Look at the labels, or add pictures of each class.",
        )
    classes = class_embeddings(taxonomy, encoder)
    counts = np.bincount(actual, minlength=len(names))
    return KeptProbe(
        name=name,
        probe=train(images, labels.classes, names),
        model=store.spec.fingerprint,
        source=labels.source,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        images=tuple(int(count) for count in counts),
        held_out=_accuracy(given, actual),
        zero_shot=_accuracy((images @ classes.T).argmax(axis=1), actual),
        most_frequent=float(counts.max() / counts.sum()),
        recall=recall,
    )


def _accuracy(given: npt.NDArray[np.int64], actual: npt.NDArray[np.int64]) -> Estimate:
    return proportion(int((given == actual).sum()), len(actual))


def train(images: Vectors, labels: Sequence[int], classes: Sequence[str]) -> Probe:
    """Fit a probe to all pictures, with the penalty that cross-validation chooses.

    images: ``(n, dim)``. labels: the class of each. classes: their names.
    Raises TooFewExamples if there are fewer than two classes, or fewer than ``LEAST_PER_CLASS``
    pictures of one of them.
    """
    actual = np.asarray(labels, np.int64)
    _require_enough(actual, classes)
    x = images.astype(np.float64)
    l2 = _choose(x, actual, len(classes))
    weights = fit(x, actual, len(classes), l2)
    return Probe(tuple(classes), weights[:, :-1], weights[:, -1], l2)


def held_out(images: Vectors, labels: Sequence[int], classes: Sequence[str]) -> Ints:
    """The class that each picture is given by a probe that never saw it, ``(n,)``.

    Nested cross-validation: each fifth is judged by a probe whose penalty, too, was chosen
    without it. Raises TooFewExamples as ``train`` does.
    """
    actual = np.asarray(labels, np.int64)
    _require_enough(actual, classes)
    x = images.astype(np.float64)
    given = np.empty(len(x), np.int64)
    folds = _folds(actual)
    for fold in range(FOLDS):
        now, rest = folds == fold, folds != fold
        l2 = _choose(x[rest], actual[rest], len(classes))
        weights = fit(x[rest], actual[rest], len(classes), l2)
        given[now] = _scores(x[now], weights).argmax(axis=1)
    return given


def fit(x: Floats, labels: Ints, classes: int, l2: float, start: Floats | None = None) -> Floats:
    """The weights that minimise the penalised log loss, ``(classes, dim + 1)``; intercepts last.

    x: ``(n, dim)``. labels: ``(n,)``. start: weights to begin from, such as those of a similar
    penalty.
    """
    # As many dimensions as there are pictures hold all that can be learned from them: the
    # penalty keeps the weights in the span of the data, and a rotation changes nothing.
    if x.shape[1] > len(x):
        rotation, triangle = np.linalg.qr(x.T)  # (dim, n), (n, n)
        begin = None if start is None else np.c_[start[:, :-1] @ rotation, start[:, -1]]
        small = fit(triangle.T, labels, classes, l2, begin)
        return np.concatenate([small[:, :-1] @ rotation.T, small[:, -1:]], axis=1)
    design = np.c_[x, np.ones(len(x))]
    target = np.eye(classes)[labels]
    penalty = np.r_[np.full(x.shape[1], l2), 0.0]

    def loss(weights: Floats) -> float:
        log_shares = log_softmax(design @ weights.T)
        return float(0.5 * (penalty * weights**2).sum() - (target * log_shares).sum())

    weights = np.zeros((classes, design.shape[1])) if start is None else start
    for _ in range(_MOST_STEPS):
        shares = softmax(design @ weights.T)  # (n, classes)
        gradient = (shares - target).T @ design + penalty * weights
        if np.abs(gradient).max() <= _TOLERANCE * len(x):
            break
        step = _newton_step(gradient, _curvature(design, shares, penalty))
        weights = weights + _shortened(loss, weights, step, float((gradient * step).sum())) * step
    weights[:, -1] -= weights[:, -1].mean()  # only their differences count
    return weights


def _curvature(design: Floats, shares: Floats, penalty: Floats) -> Callable[[Floats], Floats]:
    """The Hessian as a function of a direction ``(classes, dim + 1)``; it is never written out."""

    def product(direction: Floats) -> Floats:
        moved = design @ direction.T  # (n, classes)
        moved = shares * (moved - (shares * moved).sum(axis=1, keepdims=True))
        curved: Floats = moved.T @ design + penalty * direction
        return curved

    return product


def _newton_step(gradient: Floats, curvature: Callable[[Floats], Floats]) -> Floats:
    """Solve curvature(step) = -gradient by conjugate gradients, more exactly near the end."""
    step = np.zeros_like(gradient)
    residual = -gradient
    direction = residual
    size = float((residual**2).sum())
    enough = size * min(0.25, size**0.5)
    for _ in range(gradient.size):
        curved = curvature(direction)
        length = size / max(float((direction * curved).sum()), 1e-300)
        step = step + length * direction
        residual = residual - length * curved
        before, size = size, float((residual**2).sum())
        if size <= enough:
            break
        direction = residual + size / before * direction
    return step


def _shortened(
    loss: Callable[[Floats], float], weights: Floats, step: Floats, slope: float
) -> float:
    """How much of a step to take: half as much as long as the loss does not fall enough."""
    before, share = loss(weights), 1.0
    while loss(weights + share * step) > before + 1e-4 * share * slope and share > 1e-10:
        share /= 2
    return share


# -- the penalty -------------------------------------------------------------------------------


def _choose(x: Floats, labels: Ints, classes: int) -> float:
    """The penalty with the least cross-validated log loss, by the paper's search."""
    folds = _folds(labels)
    losses: dict[float, float] = {}
    latest: list[Floats | None] = [None] * FOLDS

    def loss(exponent: float) -> float:
        if exponent not in losses:
            total = 0.0
            for fold in range(FOLDS):
                now, rest = folds == fold, folds != fold
                weights = fit(x[rest], labels[rest], classes, 10.0**exponent, latest[fold])
                latest[fold] = weights
                log_shares = log_softmax(_scores(x[now], weights))
                total -= float(log_shares[np.arange(now.sum()), labels[now]].sum())
            losses[exponent] = total
        return losses[exponent]

    # From the strongest on, each fit begins where the last one ended.
    best = min(sorted(_EXPONENTS, reverse=True), key=loss)
    width = _EXPONENTS[1] - _EXPONENTS[0]
    while width > _FINEST:
        width /= 2
        around = (best, min(best + width, _EXPONENTS[-1]), max(best - width, _EXPONENTS[0]))
        best = min(around, key=loss)
    return float(10.0**best)


def _folds(labels: Ints) -> Ints:
    """A fold for each picture, with an equal share of every class, the same on every run."""
    shuffled = np.random.default_rng(0).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds = np.empty(len(labels), np.int64)
    folds[by_class] = np.arange(len(labels)) % FOLDS
    return folds


def _require_enough(labels: Ints, classes: Sequence[str]) -> None:
    if len(classes) < 2:
        raise TooFewExamples(
            "a probe tells classes apart, and there is only "
            + (f"one, {classes[0]}" if classes else "none"),
            hint="Add pictures of what it is to be told from, in a folder of their own.",
        )
    counts = np.bincount(labels, minlength=len(classes))
    few = [
        f"{classes[c]} ({counts[c]})" for c in range(len(classes)) if counts[c] < LEAST_PER_CLASS
    ]
    if few:
        named = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
        raise TooFewExamples(
            f"a probe needs at least {LEAST_PER_CLASS} pictures of each class; too few of {named}",
            hint="Add pictures of these, or take their folders or lines out.",
        )


def _scores(x: Floats, weights: Floats) -> Floats:
    scores: Floats = x @ weights[:, :-1].T + weights[:, -1]
    return scores
