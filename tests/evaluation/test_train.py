"""Linear probes: the optimum is scikit-learn's, and what is said of them is held out."""

import numpy as np
import pytest

from clipsearch.errors import TooFewExamples
from clipsearch.evaluation import train as training
from clipsearch.evaluation.probes import Probe
from clipsearch.evaluation.train import fit, held_out, train
from clipsearch.records import Vectors
from clipsearch.vectors import l2_normalise

NAMES = ["crack", "dent", "scratch", "sound"]


def random_set(n: int, dim: int, classes: int, signal: float = 0.5) -> tuple[Vectors, list[int]]:
    """Unit vectors around a direction for each class, three of each class at least."""
    rng = np.random.default_rng(0)
    labels = np.concatenate(
        [np.arange(classes).repeat(3), rng.integers(0, classes, n - 3 * classes)]
    )
    directions = signal * rng.normal(size=(classes, dim))
    return l2_normalise(directions[labels] + rng.normal(size=(n, dim))), labels.tolist()


@pytest.mark.parametrize(("n", "dim", "classes"), [(90, 12, 3), (40, 64, 4), (60, 32, 2)])
@pytest.mark.parametrize("l2", [1e-3, 1.0, 100.0])
def test_the_optimum_is_scikit_learns(n: int, dim: int, classes: int, l2: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    images, labels = random_set(n, dim, classes)
    x, y = images.astype(np.float64), np.array(labels)
    weights = fit(x, y, classes, l2)
    # With two classes its penalty is on one row of weights, which is twice each of ours.
    c = 2 / l2 if classes == 2 else 1 / l2
    theirs = linear_model.LogisticRegression(C=c, tol=1e-9, max_iter=10_000).fit(x, y)
    ours = Probe(tuple(NAMES[:classes]), weights[:, :-1], weights[:, -1], l2)
    np.testing.assert_allclose(ours.probabilities(images), theirs.predict_proba(x), atol=1e-4)


def test_the_gradient_is_zero_at_the_optimum() -> None:
    images, labels = random_set(50, 80, 3)
    x, y, l2 = images.astype(np.float64), np.array(labels), 0.01
    weights = fit(x, y, 3, l2)
    shares = Probe(("a", "b", "c"), weights[:, :-1], weights[:, -1], l2).probabilities(x)
    gradient = (shares - np.eye(3)[y]).T @ x + l2 * weights[:, :-1]
    assert np.abs(gradient).max() < 1e-4
    assert np.abs((shares - np.eye(3)[y]).sum(axis=0)).max() < 1e-4


def test_a_start_changes_the_way_and_not_the_end() -> None:
    images, labels = random_set(40, 64, 3)
    x, y = images.astype(np.float64), np.array(labels)
    start = fit(x, y, 3, 10.0)
    np.testing.assert_allclose(fit(x, y, 3, 0.1, start), fit(x, y, 3, 0.1), atol=1e-3)


def test_what_can_be_learned_is_learned() -> None:
    images, labels = random_set(80, 32, 4, signal=1.5)
    assert np.mean(held_out(images, labels, NAMES) == labels) > 0.95
    trained = train(images, labels, NAMES)
    rankings = trained.classify(images, k=2)
    assert np.mean(np.array([ranking[0].index for ranking in rankings]) == labels) > 0.95
    for ranking in rankings:
        assert ranking[0].probability >= ranking[1].probability
        assert ranking[0].name == NAMES[ranking[0].index]


def test_what_cannot_be_learned_is_not_claimed() -> None:
    # More dimensions than pictures: a probe fits any labels, and must be tested on others.
    rng = np.random.default_rng(1)
    images, labels = l2_normalise(rng.normal(size=(60, 128))), [n % 2 for n in range(60)]
    weights = fit(images.astype(np.float64), np.array(labels), 2, 1e-4)
    assert np.mean((images @ weights[:, :-1].T + weights[:, -1]).argmax(axis=1) == labels) == 1
    assert np.mean(held_out(images, labels, ["a", "b"]) == labels) < 0.7


def test_every_fold_has_its_share_of_every_class() -> None:
    labels = np.array([0] * 50 + [1] * 10 + [2] * 5)
    folds = training._folds(labels)
    for c, share in enumerate((10, 2, 1)):
        assert np.bincount(folds[labels == c]).tolist() == [share] * 5


def test_the_penalty_is_found_on_the_papers_grid() -> None:
    images, labels = random_set(60, 16, 3)
    l2 = train(images, labels, NAMES[:3]).l2
    eighths = 8 * np.log10(l2)
    assert eighths == pytest.approx(round(eighths), abs=1e-6)
    assert 1e-6 <= l2 <= 1e6


def test_two_classes_are_searched_in_the_order_of_their_probability() -> None:
    images, labels = random_set(60, 16, 2)
    trained = train(images, labels, NAMES[:2])
    directions = trained.directions
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-6)
    for c in range(2):
        by_probability = np.argsort(-trained.probabilities(images)[:, c], kind="stable")
        assert by_probability.tolist() == np.argsort(-(images @ directions[c])).tolist()


def test_a_probe_can_be_kept() -> None:
    images, labels = random_set(60, 16, 3)
    trained = train(images, labels, ["crack", "größer", "☃"])
    again = Probe.from_bytes(trained.to_bytes())
    assert (again.classes, again.l2) == (trained.classes, trained.l2)
    np.testing.assert_allclose(
        again.probabilities(images), trained.probabilities(images), atol=1e-5
    )


@pytest.mark.parametrize("use", [train, held_out])
@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 0, 0, 0], ["crack"], "there is only one, crack"),
        ([], [], "there is only none"),
        ([0, 0, 0, 1], ["crack", "dent"], r"at least 3 pictures of each class.* dent \(1\)"),
        ([0, 0, 0, 1, 1, 1], ["a", "b", "c"], r"too few of c \(0\)"),
    ],
)
def test_too_few(use: object, labels: list[int], names: list[str], message: str) -> None:
    images = l2_normalise(np.random.default_rng(0).normal(size=(len(labels), 4)))
    with pytest.raises(TooFewExamples, match=message):
        use(images, labels, names)  # type: ignore[operator]
