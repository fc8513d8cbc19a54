"""Linear probes start from the words, and what is said of them is held out."""

import numpy as np
import pytest

from clipsearch.errors import TooFewExamples
from clipsearch.evaluation import learn as learning
from clipsearch.evaluation import logistic
from clipsearch.evaluation.learn import expected_scale, learn
from clipsearch.evaluation.logistic import Floats
from clipsearch.evaluation.probes import Probe
from clipsearch.records import Vectors
from clipsearch.vectors import l2_normalise

NAMES = ["crack", "dent", "scratch", "sound"]


def labelled_set(
    per_class: int, dim: int = 32, classes: int = 4, signal: float = 1.0, words: float = 1.0
) -> tuple[Vectors, list[int], Floats]:
    """Unit vectors around a direction for each class, and words that are near to it.

    signal: 0 for images that have nothing to do with their class. words: 0 for words that do not.
    """
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), per_class)
    directions = l2_normalise(rng.normal(size=(classes, dim)))
    noise = rng.normal(size=(len(labels), dim)) / dim**0.5
    images = l2_normalise(signal * directions[labels] + noise)
    texts = l2_normalise(words * directions + rng.normal(size=(classes, dim)) / dim**0.5)
    return images, labels.tolist(), texts.astype(np.float64)


def accuracy(probe: Probe, images: Vectors, labels: list[int]) -> float:
    return float(np.mean(probe.probabilities(images).argmax(axis=1) == labels))


def test_what_can_be_learned_is_learned() -> None:
    images, labels, words = labelled_set(20, signal=1.5, words=0)
    learned = learn(images, labels, NAMES, words)
    actual = np.array(labels)[learned.judged]
    assert np.mean(learned.given == actual) > 0.9
    rankings = learned.probe.classify(images, k=2)
    assert np.mean(np.array([ranking[0].index for ranking in rankings]) == labels) > 0.95
    for ranking in rankings:
        assert ranking[0].probability >= ranking[1].probability
        assert ranking[0].name == NAMES[ranking[0].index]


def test_what_cannot_be_learned_is_not_claimed() -> None:
    # More dimensions than images: weights fit any labels, and must be tested on others.
    images, labels, words = labelled_set(15, dim=128, signal=0, words=0)
    learned = learn(images, labels, NAMES, words)
    assert sorted(learned.judged) == list(range(60))
    assert np.mean(learned.given == np.array(labels)[learned.judged]) < 0.45


@pytest.mark.parametrize("per_class", [1, 2, 4, 16])
@pytest.mark.parametrize("words", [0.0, 2.0])
def test_a_probe_is_not_below_its_words(per_class: int, words: float) -> None:
    images, labels, texts = labelled_set(per_class + 50, words=words)
    rows = np.concatenate(
        [np.arange(c * (per_class + 50), c * (per_class + 50) + per_class) for c in range(4)]
    )
    others = np.setdiff1d(np.arange(len(images)), rows)
    probe = learn(images[rows], [labels[n] for n in rows], NAMES, texts).probe
    actual = np.array(labels)[others]
    by_words = float(np.mean((images[others] @ texts.T).argmax(axis=1) == actual))
    assert accuracy(probe, images[others], actual.tolist()) >= by_words - 0.02


def test_words_of_no_use_are_left_behind() -> None:
    images, labels, _ = labelled_set(30)
    wrong = learn(images, labels, NAMES, np.roll(labelled_set(30, words=3)[2], 1, axis=0))
    assert wrong.scale < 2
    assert np.mean(wrong.given == np.array(labels)[wrong.judged]) > 0.8
    assert learn(images, labels, NAMES, labelled_set(30, words=3)[2]).scale > wrong.scale


def test_a_class_without_pictures_answers_by_its_words() -> None:
    images, labels, words = labelled_set(30, signal=2, words=3)
    absent = 3
    rows = [n for n, label in enumerate(labels) if label != absent]
    learned = learn(images[rows], [labels[n] for n in rows], NAMES, words)
    np.testing.assert_allclose(learned.probe.weights[absent], learned.scale * words[absent])
    assert learned.probe.intercepts[absent] == 0
    own = images[[n for n, label in enumerate(labels) if label == absent]]
    assert accuracy(learned.probe, own, [absent] * len(own)) > 0.8


def test_the_scale_is_what_the_pictures_say_of_the_words() -> None:
    rng = np.random.default_rng(0)
    similarities = rng.normal(size=(3000, 4)) / 5
    for scale in (2.0, 20.0):
        gumbel = rng.gumbel(size=similarities.shape)
        labels = (scale * similarities + gumbel).argmax(axis=1)  # drawn from the softmax
        assert expected_scale(similarities, labels) == pytest.approx(scale, rel=0.2)
    # A handful, all right or all wrong, does not settle it.
    assert 20 < expected_scale(np.eye(4), np.arange(4)) < 90
    assert 1 < expected_scale(1 - np.eye(4), np.arange(4)) < 2


def test_directions_in_which_a_class_spreads_count_less() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)) * [3, 1, 1]
    metric = learning._metric(x, np.zeros(200, np.int64))
    np.testing.assert_allclose((x @ metric).std(axis=0), 3**-0.5, rtol=0.15)
    assert ((x @ metric) ** 2).sum(axis=1).mean() == pytest.approx(1)
    one_each = learning._metric(x[:3], np.arange(3))
    np.testing.assert_array_equal(one_each, np.eye(3))


def test_the_strength_is_the_usual_one_unless_another_is_better_beyond_chance() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=400)
    assert learning._strength({0: noise, -1: noise - 0.01 * rng.normal(size=400) - 0.1}) == -1
    assert learning._strength({0: noise, -1: noise - rng.normal(size=400) - 0.01}) == 0
    assert learning._strength({0: noise + 1, 1: noise + 0.001, 2: noise}) == 2
    assert learning._strength({0: noise[:1], 1: noise[:1]}) == 0


def test_every_fold_has_its_share_of_every_class() -> None:
    labels = np.array([0] * 50 + [1] * 10 + [2] * 5)
    folds = logistic.dealt(labels, 5)
    for c, share in enumerate((10, 2, 1)):
        assert np.bincount(folds[labels == c]).tolist() == [share] * 5


def test_two_classes_are_searched_in_the_order_of_their_probability() -> None:
    images, labels, words = labelled_set(30, dim=16, classes=2)
    trained = learn(images, labels, NAMES[:2], words).probe
    directions = trained.directions
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-6)
    for c in range(2):
        by_probability = np.argsort(-trained.probabilities(images)[:, c], kind="stable")
        assert by_probability.tolist() == np.argsort(-(images @ directions[c])).tolist()


def test_a_probe_can_be_kept() -> None:
    images, labels, words = labelled_set(10, classes=3)
    trained = learn(images, labels, ["crack", "größer", "☃"], words).probe
    again = Probe.from_bytes(trained.to_bytes())
    assert (again.classes, again.l2) == (trained.classes, trained.l2)
    np.testing.assert_allclose(
        again.probabilities(images), trained.probabilities(images), atol=1e-5
    )


@pytest.mark.parametrize(
    ("labels", "names", "of"),
    [([0, 0], ["crack"], "one, crack"), ([], [], "none"), ([1], NAMES, "one, dent")],
)
def test_too_few(labels: list[int], names: list[str], of: str) -> None:
    images = l2_normalise(np.random.default_rng(0).normal(size=(len(labels), 4)))
    with pytest.raises(TooFewExamples, match=f"images of only {of}"):
        learn(images, labels, names, np.ones((len(names), 4)))


def test_two_pictures_are_enough() -> None:
    images, _, words = labelled_set(1, classes=2)
    learned = learn(images, [0, 1], NAMES[:2], words)
    assert (learned.probe.l2, len(learned.given)) == (1.0, 2)
