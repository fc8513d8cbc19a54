"""False-alarm rates and precisions: the definitions, their limits, and that they hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.domain.calibration import (
    FalseAlarms,
    Precision,
    best_scores,
    best_scores_of_others,
    fit_precision,
)
from clipsearch.errors import TooFewExamples
from clipsearch.vectors import l2_normalise

score_lists = st.lists(st.floats(-1, 1, allow_nan=False), min_size=1, max_size=60)


class TestFalseAlarms:
    def test_is_the_share_of_background_queries_that_reach_the_score(self) -> None:
        alarms = FalseAlarms.of([0.3, 0.1, 0.2, 0.2])
        assert alarms.rate([0.05, 0.1, 0.15, 0.2, 0.25, 0.3]).tolist() == pytest.approx(
            [1.0, 1.0, 4 / 5, 4 / 5, 2 / 5, 2 / 5]
        )
        assert alarms.resolution == pytest.approx(0.2)

    def test_beyond_the_highest_it_goes_on_falling(self) -> None:
        alarms = FalseAlarms.of(np.linspace(0, 0.5, 101))
        rates = alarms.rate([0.5, 0.500001, 0.51, 0.6, 1.0])
        assert rates[0] == pytest.approx(2 / 102)
        assert rates[1] <= alarms.resolution
        assert np.all(np.diff(rates) < 0)
        assert np.all(rates > 0)

    @settings(max_examples=100, deadline=None)
    @given(score_lists, st.lists(st.floats(-1, 1), min_size=2, max_size=20))
    def test_never_rises_and_is_never_0(self, background: list[float], scores: list[float]) -> None:
        rates = FalseAlarms.of(background).rate(sorted(scores))
        assert np.all(np.diff(rates) <= 0)
        assert np.all((rates >= 0) & (rates <= 1))

    def test_round_trips(self) -> None:
        alarms = FalseAlarms.of([0.25, 0.125, -np.inf])
        assert alarms.best_scores == (-1.0, 0.125, 0.25)
        assert FalseAlarms.from_json(alarms.to_json()) == alarms

    def test_none_at_all(self) -> None:
        with pytest.raises(TooFewExamples):
            FalseAlarms.of([])

    def test_one(self) -> None:
        alarms = FalseAlarms.of([0.2])
        assert alarms.rate([0.1, 0.2])[0] == 1
        assert 0 <= alarms.rate([0.3])[0] <= 0.5

    @pytest.mark.slow
    @pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.2])
    def test_holds_for_other_queries_of_the_same_kind(self, rate: float) -> None:
        rng = np.random.default_rng(0)

        def best(n: int) -> np.ndarray:  # of a collection of 2,000, so Gumbel-like
            return rng.normal(0.2, 0.05, (n, 2000)).max(axis=1)

        false = [np.mean(FalseAlarms.of(best(300)).rate(best(1000)) <= rate) for _ in range(30)]
        # Below the resolution of 1/301 the rate is drawn from the tail and need not be exact.
        assert np.mean(false) <= (1.1 * rate if rate > 1 / 301 else 2 * rate)
        assert np.mean(false) >= (0.7 * rate if rate > 1 / 301 else 0.1 * rate)


class TestBestScores:
    def test_over_chunks(self) -> None:
        rng = np.random.default_rng(0)
        images = l2_normalise(rng.normal(size=(50, 8))).astype(np.float16)
        queries = l2_normalise(rng.normal(size=(7, 8)))
        got = best_scores(queries, [images[:20], images[20:20], images[20:]])
        expected = (queries @ images.astype(np.float32).T).max(axis=1)
        np.testing.assert_allclose(got, expected)

    def test_an_empty_collection(self) -> None:
        assert best_scores(np.eye(3, dtype=np.float32), []).tolist() == [-np.inf] * 3

    def test_others_are_of_another_class_and_no_near_duplicates(self) -> None:
        classes = np.eye(3, dtype=np.float32)
        images = l2_normalise(
            [[1, 0, 0.1], [1, 0, 0.12], [1, 0.5, 0], [0.6, 0.7, 0], [0, 1, 0], [0, 0, 1]]
        )
        got = best_scores_of_others(images[:1], [images[:3], images[3:]], classes)
        assert got[0] == pytest.approx(images[0] @ images[3])
        got = best_scores_of_others(images[:1], [images], classes, near_duplicate=0.6)
        assert got[0] == pytest.approx(images[0] @ images[5])

    def test_nothing_but_near_duplicates(self) -> None:
        classes = np.eye(3, dtype=np.float32)
        image = l2_normalise([[1, 0, 0.1]])
        assert best_scores_of_others(image, [np.repeat(image, 4, 0)], classes)[0] == -np.inf


def hits(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores whose probability of being right is known, in groups of ten."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, n)
    return scores, rng.random(n) < truth(scores), np.arange(n) // 10


def truth(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-12 * (scores - 0.6)))


class TestPrecision:
    def test_is_close_to_the_truth(self) -> None:
        got = fit_precision(*hits(0, 4000))
        at = np.linspace(0.05, 0.95, 19)
        assert np.abs(got.probability(at) - truth(at)).max() < 0.08
        assert got.brier < 0.6 * got.brier_of_base_rate
        assert got.hits == 4000

    def test_never_falls_and_is_never_certain(self) -> None:
        for seed in range(5):
            got = fit_precision(*hits(seed, 60))
            p = got.probability(np.linspace(-1, 2, 301))
            assert np.all(np.diff(p) >= -1e-12)
            assert np.all((p > 0) & (p < 1))

    def test_steps_are_fitted_by_steps(self) -> None:
        rng = np.random.default_rng(0)
        scores = rng.uniform(0, 1, 3000)
        right = rng.random(3000) < np.where(scores < 0.8, 0.1, 0.7)
        got = fit_precision(scores, right, np.arange(3000))
        assert got.method == "isotonic"
        assert got.probability([0.3, 0.95]) == pytest.approx([0.1, 0.7], abs=0.08)

    def test_separable_hits_have_an_answer(self) -> None:
        scores = np.linspace(0, 1, 40)
        got = fit_precision(scores, scores > 0.5, np.arange(40))
        assert got.probability([0.1])[0] < 0.2
        assert got.probability([0.9])[0] > 0.8

    def test_scores_that_say_nothing(self) -> None:
        rng = np.random.default_rng(0)
        got = fit_precision(rng.uniform(size=500), rng.random(500) < 0.3, np.arange(500))
        assert got.brier >= 0.95 * got.brier_of_base_rate
        assert got.probability([0.1, 0.9]) == pytest.approx([0.3, 0.3], abs=0.15)

    def test_scores_that_say_the_opposite_are_not_believed(self) -> None:
        scores = np.linspace(0, 1, 100)
        got = fit_precision(scores, scores < 0.5, np.arange(100))
        assert got.probability([0.0])[0] == pytest.approx(got.probability([1.0])[0], abs=1e-6)

    def test_hits_of_one_query_are_kept_together(self) -> None:
        # Every query has its own level, which says nothing about another query's.
        rng = np.random.default_rng(0)
        groups = np.repeat(np.arange(40), 10)
        level = rng.uniform(size=40)
        right = (rng.random(40) < 0.5)[groups]
        together = fit_precision(level[groups] + rng.normal(0, 1e-4, 400), right, groups)
        assert together.brier > 0.9 * together.brier_of_base_rate

    @pytest.mark.parametrize(
        ("scores", "right"),
        [([0.5] * 19, [True, False] * 9 + [True]), ([0.1] * 30, [True] * 30), ([], [])],
    )
    def test_too_few(self, scores: list[float], right: list[bool]) -> None:
        with pytest.raises(TooFewExamples, match="too few"):
            fit_precision(scores, right, range(len(scores)))

    def test_round_trips(self) -> None:
        for seed in (0, 1):
            got = fit_precision(*hits(seed, 100))
            assert Precision.from_json(got.to_json()) == got

    @pytest.mark.process
    def test_isotonic_is_scikit_learns(self) -> None:
        isotonic = pytest.importorskip("sklearn.isotonic")
        from clipsearch.domain.calibration import _isotonic

        scores, right, _ = hits(3, 20_000)
        scores = scores.round(2)
        ours = np.interp(scores, *zip(*_isotonic(scores, right.astype(float)), strict=True))
        theirs = isotonic.IsotonicRegression(out_of_bounds="clip").fit_transform(scores, right)
        # Ours is drawn a little inwards, the less the larger the step.
        assert np.abs(ours - theirs).max() < 0.02

    def test_logistic_is_scikit_learns(self) -> None:
        linear = pytest.importorskip("sklearn.linear_model")
        from clipsearch.domain.calibration import _logistic

        scores, right, _ = hits(4, 5000)
        intercept, slope = _logistic(scores, right.astype(float))
        model = linear.LogisticRegression(C=1e9, tol=1e-10).fit(scores[:, np.newaxis], right)
        assert slope == pytest.approx(model.coef_[0, 0], rel=0.02)
        assert intercept == pytest.approx(model.intercept_[0], rel=0.02)
