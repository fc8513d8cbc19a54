"""Where a list ends: exact small cases, and what holds for any ranking."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipsearch.domain.cut import SHARE, least_score, length

rankings = st.lists(st.integers(-1000, 1000).map(lambda n: n / 1000), min_size=1, max_size=30).map(
    lambda scores: sorted(scores, reverse=True)
)
levels = st.integers(-1000, 1000).map(lambda n: n / 1000)


class TestLeastScore:
    def test_is_a_share_of_the_way_from_the_mean_to_the_best(self) -> None:
        assert least_score(0.6, 0.1) == pytest.approx(0.1 + SHARE * 0.5)

    def test_starts_from_what_unrelated_queries_score_if_that_is_lower(self) -> None:
        assert least_score(0.6, 0.5, 0.1) == least_score(0.6, 0.1, 0.5) == least_score(0.6, 0.1)

    def test_is_never_above_the_best(self) -> None:
        assert least_score(0.1, 0.3) == 0.1


class TestLength:
    def test_ends_at_the_least_score(self) -> None:
        assert length([1.0, 0.8, 0.7, 0.66, 0.0], 0.0) == 3

    def test_in_a_folder_of_one_kind_most_belong(self) -> None:
        assert length([0.60, 0.58, 0.55, 0.50], 0.5575) == 1
        assert length([0.60, 0.58, 0.55, 0.50], 0.5575, 0.0) == 4

    def test_nothing_has_no_length(self) -> None:
        assert length([], 0.0) == 0

    def test_one_picture_is_a_list(self) -> None:
        assert length([0.2], 0.2) == 1

    def test_equal_scores_stay_together(self) -> None:
        assert length([0.3] * 5, np.nextafter(0.3, 1)) == 5
        assert length([0.3, 0.3, 0.1], 0.7 / 3) == 2

    @given(rankings, levels, levels)
    def test_keeps_the_best_and_never_parts_equals(
        self, ranking: list[float], mean: float, unrelated: float
    ) -> None:
        n = length(ranking, mean, unrelated)
        assert 1 <= n <= len(ranking)
        assert n == len(ranking) or ranking[n - 1] > ranking[n]

    @given(rankings, levels, st.integers(1, 30))
    def test_the_start_of_a_ranking_will_do(
        self, ranking: list[float], mean: float, k: int
    ) -> None:
        assert length(ranking[:k], mean) == min(length(ranking, mean), k, len(ranking))

    @given(rankings, levels, st.sampled_from([0.25, 0.5, 2.0, 4.0]), st.sampled_from([-8.0, 0.5]))
    def test_does_not_depend_on_the_scale_of_scores(
        self, ranking: list[float], mean: float, factor: float, shift: float
    ) -> None:
        best = ranking[0]
        least = least_score(best, mean)
        moved = least_score(factor * best + shift, factor * mean + shift)
        assert moved == pytest.approx(factor * least + shift)
