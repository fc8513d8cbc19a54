"""Logistic regression: the optimum is scikit-learn's, wherever the search for it begins."""

import numpy as np
import pytest

from clipsearch.evaluation.logistic import (
    Floats,
    Ints,
    cross_validated_l2,
    dealt,
    fit,
    fit_moves,
    softmax,
)
from clipsearch.vectors import l2_normalise


def random_set(n: int, dim: int, classes: int) -> tuple[Floats, Ints]:
    """Unit vectors around a direction for each class, three of each class at least."""
    rng = np.random.default_rng(0)
    labels = np.concatenate(
        [np.arange(classes).repeat(3), rng.integers(0, classes, n - 3 * classes)]
    )
    directions = 0.5 * rng.normal(size=(classes, dim))
    images = l2_normalise(directions[labels] + rng.normal(size=(n, dim)))
    return images.astype(np.float64), labels


def shares(x: Floats, weights: Floats) -> Floats:
    return softmax(x @ weights[:, :-1].T + weights[:, -1])


@pytest.mark.parametrize(("n", "dim", "classes"), [(90, 12, 3), (40, 64, 4), (60, 32, 2)])
@pytest.mark.parametrize("l2", [1e-3, 1.0, 100.0])
def test_the_optimum_is_scikit_learns(n: int, dim: int, classes: int, l2: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = random_set(n, dim, classes)
    weights = fit(x, y, classes, l2)
    # With two classes its penalty is on one row of weights, which is twice each of ours.
    c = 2 / l2 if classes == 2 else 1 / l2
    theirs = linear_model.LogisticRegression(C=c, solver="newton-cg", tol=1e-10, max_iter=10_000)
    np.testing.assert_allclose(shares(x, weights), theirs.fit(x, y).predict_proba(x), atol=1e-6)


def test_the_gradient_is_zero_at_the_optimum() -> None:
    (x, y), l2 = random_set(50, 80, 3), 0.01
    weights = fit(x, y, 3, l2)
    errors = shares(x, weights) - np.eye(3)[y]
    assert np.abs(errors.T @ x + l2 * weights[:, :-1]).max() < 1e-6
    assert np.abs(errors.sum(axis=0)).max() < 1e-6


def test_a_start_changes_the_way_and_not_the_end() -> None:
    x, y = random_set(40, 64, 3)
    np.testing.assert_allclose(fit(x, y, 3, 0.1, fit(x, y, 3, 10.0)), fit(x, y, 3, 0.1), atol=1e-5)


@pytest.mark.parametrize("dim", [12, 80])
def test_moves_add_to_the_scores_that_are_there(dim: int) -> None:
    (x, y), l2 = random_set(50, dim, 3), 0.3
    start = np.random.default_rng(1).normal(size=(3, dim))
    moves = fit_moves(x, x @ start.T, y, l2)
    errors = softmax(x @ (start + moves).T) - np.eye(3)[y]
    assert np.abs(errors.T @ x + l2 * moves).max() < 1e-6


def test_a_strong_penalty_lets_nothing_move() -> None:
    x, y = random_set(50, 12, 3)
    assert np.abs(fit_moves(x, np.zeros((50, 3)), y, 1e9)).max() < 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_a_few_images_that_are_told_apart_beyond_doubt_overflow_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = l2_normalise(rng.normal(size=(8, 32))).astype(np.float64)
    l2 = cross_validated_l2(x, np.arange(8) % 2, 2)  # goes down to 1e-6
    assert 1e-6 <= l2 <= 1e6


def test_the_chosen_penalty_has_the_least_loss_on_what_was_held_out() -> None:
    x, y = random_set(90, 12, 3)

    def loss(l2: float) -> float:
        total = 0.0
        for part in range(5):
            rest = dealt(y, 5) != part
            given = shares(x[~rest], fit(x[rest], y[rest], 3, l2))
            total -= float(np.log(given[np.arange((~rest).sum()), y[~rest]]).sum())
        return total

    chosen = loss(cross_validated_l2(x, y, 3))
    assert chosen <= min(loss(10.0**exponent) for exponent in range(-6, 7, 2))
