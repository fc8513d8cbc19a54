"""Intervals: known values, sensible limits, and coverage by simulation."""

import math

import numpy as np
import pytest

from clipsearch.domain.intervals import (
    Estimate,
    clustered_mean,
    mean_of_influences,
    proportion,
    ratio_of_means,
    stratified_mean,
)
from clipsearch.evaluation.metrics import evaluate_classification
from clipsearch.vectors import l2_normalise


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3 (Wilson's score interval).
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(successes: int, n: int, low: float, high: float) -> None:
    got = proportion(successes, n)
    assert (got.low, got.high) == pytest.approx((low, high), abs=5e-5)
    assert got.value == successes / n
    assert got.n == n


def test_nothing_is_no_sample() -> None:
    for make in (
        lambda: proportion(0, 0),
        lambda: stratified_mean([], []),
        lambda: clustered_mean([], []),
    ):
        with pytest.raises(ValueError, match="no observations"):
            make()


def test_an_interval_holds_its_value_and_stays_within_0_and_1() -> None:
    for n in (1, 2, 7, 100):
        for successes in range(n + 1):
            got = proportion(successes, n)
            assert 0 <= got.low <= got.value <= got.high <= 1
            assert got.low < got.high


def test_one_stratum_or_clusters_of_one_are_a_simple_sample() -> None:
    values = [1, 0, 1, 1, 0, 1, 1, 1, 0, 1]
    simple = proportion(7, 10)
    for got in (stratified_mean(values, ["x"] * 10), clustered_mean(values, range(10))):
        assert got.value == pytest.approx(simple.value)
        # Bessel's correction widens it a little.
        assert simple.high - simple.low <= got.high - got.low < 1.06 * (simple.high - simple.low)


def test_strata_weigh_the_same_whatever_their_size() -> None:
    got = stratified_mean([1] * 98 + [0, 0], ["large"] * 98 + ["small"] * 2)
    assert got.value == 0.5


def test_captions_of_one_picture_are_not_as_good_as_captions_of_many() -> None:
    values = np.repeat([1, 0, 1, 1, 0, 1], 5)
    together = clustered_mean(values, np.repeat(np.arange(6), 5))
    apart = clustered_mean(values, np.arange(30))
    assert together.value == apart.value
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_all_right_is_not_certainty() -> None:
    for got in (stratified_mean([1] * 6, [1, 1, 2, 2, 3, 3]), clustered_mean([1] * 6, [1] * 6)):
        assert got.value == 1
        assert got.low < 0.9


def test_an_estimate_says_what_it_rests_on() -> None:
    assert stratified_mean([1, 0, 1], [1, 1, 2]) == Estimate(
        0.75, pytest.approx(0.16, abs=0.1), pytest.approx(0.97, abs=0.1), 3
    )


# -- coverage ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.02, 0.2, 0.5, 0.95])
@pytest.mark.parametrize("n", [10, 50, 400])
def test_coverage_of_proportions(n: int, p: float) -> None:
    successes = np.random.default_rng(0).binomial(n, p, 4000)
    got = [proportion(int(s), n) for s in successes]
    # Wilson's interval has 95% on average over p, and oscillates with it.
    assert np.mean([e.low <= p <= e.high for e in got]) > 0.91


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "sizes", "a", "b"),
    [
        (5, (20,), 2, 2),
        (50, (2,), 2, 2),
        (50, (1,), 8, 1),
        (300, (1, 2), 5, 1),
        (50, (1, 5, 20), 2, 2),
        (50, (10,), 0.3, 0.3),
        (100, (3,), 9, 1),
        (3, (50,), 9, 1),
    ],
)
def test_coverage_of_mean_per_class_recall(
    classes: int, sizes: tuple[int, ...], a: float, b: float
) -> None:
    rng = np.random.default_rng(1)
    recall = rng.beta(a, b, classes)
    labels = np.repeat(np.arange(classes), [sizes[c % len(sizes)] for c in range(classes)])
    covered = []
    for _ in range(1500):
        got = stratified_mean(rng.random(len(labels)) < recall[labels], labels)
        covered.append(got.low <= recall.mean() <= got.high)
    assert 0.93 <= np.mean(covered) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("noise", [2.0, 3.0])
@pytest.mark.parametrize(
    ("classes", "sizes"),
    [(10, (5,)), (10, (20,)), (50, (1,)), (50, (5,)), (30, (1, 10)), (5, (40,))],
)
def test_coverage_of_mean_average_precision(
    classes: int, sizes: tuple[int, ...], noise: float
) -> None:
    rng = np.random.default_rng(1)
    directions = l2_normalise(rng.normal(size=(classes, 32)))
    labels = np.repeat(np.arange(classes), [sizes[c % len(sizes)] for c in range(classes)])
    names = [str(c) for c in range(classes)]
    got = []
    for _ in range(400):
        spread = noise * rng.normal(size=(len(labels), 32)) / math.sqrt(32)
        images = l2_normalise(directions[labels] + spread)
        report = evaluate_classification(images, directions, labels.tolist(), names)
        got.append(report.mean_average_precision)
    truth = np.mean([e.value for e in got])
    assert 0.91 <= np.mean([e.low <= truth <= e.high for e in got]) <= 0.99


def test_ratio_of_means_by_hand() -> None:
    got = ratio_of_means([0.2, 0.4, 0.0], [0.4, 0.4, 0.2])
    assert (got.value, got.n) == (pytest.approx(0.6), 3)
    assert got.low < 0.6 < got.high
    same = ratio_of_means([0.5, 0.7], [0.5, 0.7])
    assert (same.value, same.high) == (1, 1)
    with pytest.raises(ValueError, match="no observations"):
        ratio_of_means([0.0], [0.0])


def test_influences_of_a_plain_mean_are_those_of_the_mean() -> None:
    values = np.random.default_rng(0).random(50)
    got = mean_of_influences(values.mean(), (values - values.mean()) / 50)
    expected = clustered_mean(values, np.arange(50))
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.slow
def test_coverage_of_ratios_of_means() -> None:
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(2000):
        wholes = rng.beta(2, 1, 60)
        got = ratio_of_means(wholes * rng.beta(3, 1, 60), wholes)
        covered.append(got.low <= 0.75 <= got.high)
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.slow
def test_coverage_of_clustered_means() -> None:
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(2000):
        of_picture = rng.beta(1, 1, 60)  # some images are easy for all of their captions
        clusters = np.repeat(np.arange(60), 5)
        got = clustered_mean(rng.random(300) < of_picture[clusters], clusters)
        covered.append(got.low <= 0.5 <= got.high)
    assert 0.935 <= np.mean(covered) <= 0.965
