"""Verdicts: the strength of a query, its rate among unrelated ones, and that the rate holds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.domain.verdict import (
    BEST,
    STRONG,
    WEAK,
    Background,
    best_scores,
    centre,
    strength,
    verdict,
)
from clipsearch.errors import TooFewExamples

scores = st.floats(-1, 1, allow_nan=False)
rows = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(scores, min_size=width, max_size=width), min_size=1)
)


class TestStrength:
    def test_is_the_mean_of_the_best_and_of_the_mean_of_three(self) -> None:
        assert strength([[0.6, 0.3, 0.0, -1.0]]).tolist() == pytest.approx([0.45])

    def test_fewer_pictures_count_as_they_are(self) -> None:
        assert strength([[0.6]]).tolist() == pytest.approx([0.6])
        assert strength([[0.6, 0.2]]).tolist() == pytest.approx([0.5])

    @given(st.lists(scores, min_size=1, max_size=6), st.integers(0, 5), st.floats(0, 1))
    def test_never_falls_as_a_score_rises(self, row: list[float], at: int, by: float) -> None:
        raised = [score + by * (place == at) for place, score in enumerate(row)]
        before, after = (strength([sorted(r, reverse=True)])[0] for r in (row, raised))
        assert after >= before - 1e-12


class TestVerdict:
    @pytest.mark.parametrize(
        ("rate", "expected"),
        [
            (0.002, "strong"),
            (STRONG, "strong"),
            (STRONG + 0.001, "weak"),
            (WEAK, "weak"),
            (WEAK + 0.001, "none"),
        ],
    )
    def test_goes_by_the_rate(self, rate: float, expected: str) -> None:
        assert verdict(rate) == expected


class TestCentre:
    def test_takes_away_what_unrelated_texts_score_on_a_picture(self) -> None:
        rng = np.random.default_rng(0)
        texts, pictures, query = (rng.normal(size=shape) for shape in ((7, 4), (5, 4), (4,)))
        plain, unrelated = pictures @ query, (pictures @ texts.T).mean(axis=1)
        assert pictures @ (query - centre(texts)) == pytest.approx(plain - unrelated, abs=1e-6)


class TestBestScores:
    @pytest.mark.parametrize("pictures", [1, 2, 3, 8])
    def test_are_those_of_all_chunks(self, pictures: int) -> None:
        rng = np.random.default_rng(pictures)
        queries, vectors = rng.normal(size=(6, 4)), rng.normal(size=(pictures, 4))
        best = best_scores(queries, np.array_split(vectors.astype(np.float32), 3))
        expected = -np.sort(-(queries @ vectors.T), axis=1)[:, :BEST]
        assert best == pytest.approx(expected, abs=1e-5)

    def test_no_picture_is_no_score(self) -> None:
        assert best_scores(np.ones((2, 4)), []).shape == (2, 0)


class TestBackground:
    def test_rate_is_the_share_of_unrelated_queries_that_reach_the_strength(self) -> None:
        background = Background.of([3] * 4, [[0.3], [0.1], [0.2], [0.2]])
        rates = [background.rate(x, 3) for x in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)]
        assert rates == pytest.approx([1.0, 1.0, 4 / 5, 4 / 5, 2 / 5, 2 / 5, 1 / 5])

    def test_compares_at_equal_length(self) -> None:
        words, strengths = [2, 2, 8, 8], [0.1, 0.2, 0.5, 0.6]  # 0.4 from 2 words to 8
        background = Background.of(words, [[x] for x in strengths])
        assert background.rate(0.25, 2) == background.rate(0.65, 8) == pytest.approx(1 / 5)
        assert background.rate(0.15, 2) == background.rate(0.55, 8) == pytest.approx(3 / 5)
        assert background.rate(0.35, 4) == pytest.approx(3 / 5)  # half-way, as logarithms go

    def test_hits_are_compared_with_best_scores(self) -> None:
        background = Background.of([1, 1], [[0.0, 0.0, 0.6], [0.5, 0.5, 0.5]])
        expected = [2 / 3, 2 / 3, 1.0]
        assert background.false_alarms([0.6, 0.55, 0.5]).tolist() == pytest.approx(expected)
        assert background.rate(0.5, 1) == pytest.approx(2 / 3)

    @settings(max_examples=100, deadline=None)
    @given(rows, st.lists(scores, min_size=2, max_size=9), st.integers(0, 9), st.integers(1, 9))
    def test_rate_never_rises_and_is_never_0(
        self, unrelated: list[list[float]], strengths: list[float], words: int, period: int
    ) -> None:
        background = Background.of([1 + n % period for n in range(len(unrelated))], unrelated)
        rates = [background.rate(x, words) for x in sorted(strengths)]
        assert rates == sorted(rates, reverse=True)
        assert all(1 / (1 + len(unrelated)) <= rate <= 1 for rate in rates)

    @settings(max_examples=100, deadline=None)
    @given(rows, st.sampled_from([STRONG, 0.1, 0.3, WEAK, 0.9]), st.integers(1, 9))
    def test_what_is_reached_is_where_the_rate_ends(
        self, unrelated: list[list[float]], rate: float, words: int
    ) -> None:
        background = Background.of([1 + n % 3 for n in range(len(unrelated))], unrelated)
        reached = background.reached(rate, words)
        if reached == np.inf:
            assert 1 / (1 + len(unrelated)) > rate
        else:
            assert background.rate(reached - 1e-9, words) > rate
            assert background.rate(reached + 1e-9, words) <= rate

    def test_unrelated_queries_of_the_same_kind_are_seldom_strong(self) -> None:
        rng = np.random.default_rng(0)
        pictures = rng.normal(size=(300, 16))
        known, new = rng.normal(size=(2, 400, 16))
        background = Background.of(rng.integers(1, 9, 400).tolist(), known @ pictures.T)
        strengths = strength(best_scores(new, [pictures]))
        rates = np.array([background.rate(float(x), 3) for x in strengths])
        assert np.mean(rates <= STRONG) == pytest.approx(STRONG, abs=0.03)
        assert np.mean(rates <= WEAK) == pytest.approx(WEAK, abs=0.08)

    def test_several_collections_are_as_one(self) -> None:
        rng = np.random.default_rng(0)
        queries, pictures = rng.normal(size=(9, 4)), rng.normal(size=(11, 4))
        parts = [Background.of([2] * 9, queries @ p.T) for p in (pictures[:1], pictures[1:])]
        pooled, whole = Background.pooled(parts), Background.of([2] * 9, queries @ pictures.T)
        assert np.array(pooled.best) == pytest.approx(np.array(whole.best))

    def test_several_need_the_same_queries(self) -> None:
        parts = [Background.of([1], [[0.1]]), Background.of([1, 1], [[0.1], [0.2]])]
        with pytest.raises(ValueError, match=r"longer|shorter"):
            Background.pooled(parts)

    def test_round_trips(self) -> None:
        background = Background.of([2, 5], [[0.25, 0.5, 0.125, 0.0], [0.0, -0.5, 0.75, 1.0]])
        assert background.best == ((0.5, 0.25, 0.125), (1.0, 0.75, 0.0))
        assert Background.from_json(background.to_json()) == background

    @pytest.mark.parametrize("words", ["[]", "[1]", "[0, 1]", "null"])
    @pytest.mark.parametrize("best", ["[]", "[[]]", "[1]", "[[1], [1, 2]]", "[[1], [NaN]]", "{}"])
    def test_other_text_is_a_value_error(self, words: str, best: str) -> None:
        for text in ("", "[]", f'{{"words": {words}, "best": {best}}}'):
            with pytest.raises(ValueError, match=r"."):
                Background.from_json(text)

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
    def test_nothing_calibrates_nothing(self, shape: tuple[int, int]) -> None:
        with pytest.raises(TooFewExamples):
            Background.of([1] * shape[0], np.empty(shape))
