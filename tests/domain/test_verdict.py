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
        [(0.002, "strong"), (STRONG, "strong"), (0.051, "weak"), (WEAK, "weak"), (0.46, "none")],
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
        background = Background.of([[0.3], [0.1], [0.2], [0.2]])
        assert background.rate([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4]).tolist() == pytest.approx(
            [1.0, 1.0, 4 / 5, 4 / 5, 2 / 5, 2 / 5, 1 / 5]
        )

    def test_hits_are_compared_with_best_scores(self) -> None:
        background = Background.of([[0.0, 0.0, 0.6], [0.5, 0.5, 0.5]])
        assert background.false_alarms([0.6, 0.55, 0.5]).tolist() == pytest.approx(
            [2 / 3, 2 / 3, 1.0]
        )
        assert background.rate([0.5]).tolist() == pytest.approx([2 / 3])

    @settings(max_examples=100, deadline=None)
    @given(rows, st.lists(scores, min_size=2, max_size=9))
    def test_rate_never_rises_and_is_never_0(
        self, unrelated: list[list[float]], strengths: list[float]
    ) -> None:
        rates = Background.of(unrelated).rate(sorted(strengths))
        assert np.all(np.diff(rates) <= 0)
        assert np.all((rates >= 1 / (1 + len(unrelated))) & (rates <= 1))

    @settings(max_examples=100, deadline=None)
    @given(rows, st.sampled_from([STRONG, 0.1, 0.3, WEAK, 0.9]))
    def test_what_is_reached_is_where_the_rate_ends(
        self, unrelated: list[list[float]], rate: float
    ) -> None:
        background = Background.of(unrelated)
        reached = background.reached(rate)
        if reached == np.inf:
            assert 1 / (1 + len(unrelated)) > rate
        else:
            assert background.rate([reached])[0] > rate
            assert background.rate([np.nextafter(reached, 2)])[0] <= rate

    def test_every_query_has_a_rate_of_1_or_less(self) -> None:
        assert Background.of([[0.1], [0.2]]).reached(1.0) == -np.inf

    def test_unrelated_queries_of_the_same_kind_are_seldom_strong(self) -> None:
        rng = np.random.default_rng(0)
        pictures = rng.normal(size=(300, 16))
        known, new = rng.normal(size=(2, 400, 16))
        background = Background.of(known @ pictures.T)
        rates = background.rate(strength(best_scores(new, [pictures])))
        assert np.mean(rates <= STRONG) == pytest.approx(STRONG, abs=0.03)
        assert np.mean(rates <= WEAK) == pytest.approx(WEAK, abs=0.08)

    def test_several_collections_are_as_one(self) -> None:
        rng = np.random.default_rng(0)
        queries, pictures = rng.normal(size=(9, 4)), rng.normal(size=(11, 4))
        parts = [Background.of(queries @ part.T) for part in (pictures[:1], pictures[1:])]
        pooled, whole = Background.pooled(parts), Background.of(queries @ pictures.T)
        assert np.array(pooled.best) == pytest.approx(np.array(whole.best))

    def test_several_need_the_same_queries(self) -> None:
        with pytest.raises(ValueError, match=r"longer|shorter"):
            Background.pooled([Background.of([[0.1]]), Background.of([[0.1], [0.2]])])

    def test_round_trips(self) -> None:
        background = Background.of([[0.25, 0.5, 0.125, 0.0], [0.0, -0.5, 0.75, 1.0]])
        assert background.best == ((0.5, 0.25, 0.125), (1.0, 0.75, 0.0))
        assert Background.from_json(background.to_json()) == background

    @pytest.mark.parametrize("text", ["", "{}", "[]", "[[]]", "[1]", "[[1], [1, 2]]", "[[NaN]]"])
    def test_other_text_is_a_value_error(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            Background.from_json(text)

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
    def test_nothing_calibrates_nothing(self, shape: tuple[int, int]) -> None:
        with pytest.raises(TooFewExamples):
            Background.of(np.empty(shape))
