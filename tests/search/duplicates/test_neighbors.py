"""Neighbours and groups: what a loop over all pairs finds, and nothing else."""

import numpy as np
import numpy.typing as npt
import pytest
from fakes import clustered, half
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.search.duplicates import neighbors
from clipsearch.search.duplicates.neighbors import Mask, Rows, best_similarities, lead
from clipsearch.vectors import l2_normalise


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_BLOCK", 7)
    monkeypatch.setattr(neighbors, "_LEADERS", 5)


def similarities(vectors: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    rows = l2_normalise(vectors)
    return rows @ rows.T


def led(
    vectors: npt.NDArray[np.float16], threshold: float, forbidden: set[tuple[int, int]]
) -> list[int]:
    """The same, one row and one leader after the other."""
    scores = similarities(vectors)
    leaders: list[int] = []
    found = []
    for row in range(len(vectors)):
        near = [
            other
            for other in leaders
            if scores[row, other] >= threshold and (other, row) not in forbidden
        ]
        if near:
            found.append(max(near, key=lambda other: (scores[row, other], -other)))
        else:
            leaders.append(row)
            found.append(row)
    return found


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 50])
def test_the_best_similarity_is_that_of_the_nearest_other(count: int) -> None:
    vectors = half(clustered(count, kinds=9)) if count else np.zeros((0, 16), np.float16)
    expected = similarities(vectors) if count else np.zeros((0, 0))
    np.fill_diagonal(expected, -np.inf)
    found = best_similarities(vectors)
    np.testing.assert_allclose(found, expected.max(axis=1, initial=-np.inf), atol=1e-6)


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("forbid", [False, True])
def test_every_row_follows_the_most_similar_leader(threshold: float, forbid: bool) -> None:
    vectors = half(clustered(60, kinds=9))
    pairs = np.random.default_rng(3).integers(0, 60, (900, 2))
    forbidden = {(int(a), int(b)) for a, b in pairs} if forbid else set()

    def confirm(rows: Rows, others: Rows) -> Mask:
        return np.array([[(int(b), int(a)) not in forbidden for b in others] for a in rows])

    leaders, scores = lead(vectors, threshold, confirm if forbid else None)
    expected = led(vectors, threshold, forbidden)
    assert leaders.tolist() == expected
    assert len(set(expected)) < 60 or threshold == 0.999
    own = similarities(vectors)[np.arange(60), leaders]
    np.testing.assert_allclose(scores, own, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 40), threshold=st.floats(0.3, 1.0))
def test_no_two_leaders_are_near_and_every_follower_is(
    seed: int, count: int, threshold: float
) -> None:
    vectors = half(clustered(count, kinds=5, seed=seed)) if count else np.zeros((0, 16), np.float16)
    leaders, _ = lead(vectors, threshold)
    scores = similarities(vectors) if count else np.zeros((0, 0))
    chosen = [row for row in range(count) if leaders[row] == row]
    for n, row in enumerate(chosen):
        assert all(scores[row, other] < threshold + 1e-5 for other in chosen[:n])
    for row in set(range(count)) - set(chosen):
        assert leaders[row] < row
        assert leaders[leaders[row]] == leaders[row]
        assert scores[row, leaders[row]] >= threshold - 1e-5


def test_groups_do_not_chain() -> None:
    angles = np.linspace(0, 1.5, 40)  # each like the next, and the first like the last not at all
    vectors = half(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    leaders, scores = lead(vectors, 0.99)
    assert len(set(leaders.tolist())) > 5
    assert scores.min() >= 0.99 - 1e-6


def test_rounded_and_damaged_embeddings() -> None:
    vectors = half(clustered(3))
    same = np.concatenate([vectors, vectors, np.zeros((2, 16), np.float16)])
    leaders, scores = lead(same, 1.0)
    assert leaders.tolist() == [0, 1, 2, 0, 1, 2, 6, 7]  # a zero vector is like nothing
    assert scores.max() == 1
