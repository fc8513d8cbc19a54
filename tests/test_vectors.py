"""Vector arithmetic: unit length, and the exact search that other searches are judged by."""

import numpy as np
import pytest

from clipsearch.vectors import l2_normalise, top_k


def unit(seed: int, *shape: int) -> np.ndarray:
    return l2_normalise(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_every_row_comes_out_with_unit_length_and_its_direction(shape: tuple[int, ...]) -> None:
    rows = 7 * np.random.default_rng(1).standard_normal(shape)
    units = l2_normalise(rows)
    assert units.shape == shape
    assert units.dtype == np.float32
    lengths = np.sqrt(np.sum(rows**2, axis=-1, keepdims=True))
    np.testing.assert_allclose(units * lengths, rows, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(units, axis=-1), 1, atol=1e-6)


def test_lists_and_other_dtypes_are_taken_as_they_are() -> None:
    np.testing.assert_allclose(l2_normalise([[3, 4], [0, -2]]), [[0.6, 0.8], [0, -1]], rtol=1e-6)
    half = l2_normalise(np.array([[3, 4]], np.float16))
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, [[0.6, 0.8]], rtol=1e-6)


def test_what_comes_in_is_not_changed() -> None:
    rows = np.array([[3.0, 4.0]], np.float32)
    l2_normalise(rows)
    assert rows.tolist() == [[3, 4]]


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), float("-inf")])
def test_a_vector_without_direction_is_an_error_even_among_good_ones(bad: float) -> None:
    rows = np.ones((3, 4), np.float32)
    rows[1] = bad
    with pytest.raises(ValueError, match="without a direction"):
        l2_normalise(rows)


def test_one_number_that_is_none_spoils_its_vector() -> None:
    with pytest.raises(ValueError, match="without a direction"):
        l2_normalise([1.0, float("nan"), 1.0])


@pytest.mark.parametrize("k", [0, 1, 7, 199, 200, 1000])
def test_the_best_k_are_those_that_sorting_everything_gives(k: int) -> None:
    vectors, query = unit(1, 200, 16), unit(2, 16)
    ids = np.random.default_rng(3).permutation(10_000)[:200].astype(np.int64)
    found, scores = top_k(query, ids, vectors, k)
    order = np.argsort(-(vectors @ query), kind="stable")[:k]
    assert found.tolist() == ids[order].tolist()
    np.testing.assert_allclose(scores, (vectors @ query)[order], atol=1e-6)
    assert found.dtype == np.int64
    assert scores.dtype == np.float32
    assert len(found) == min(k, 200)


def test_nothing_is_found_among_no_vectors() -> None:
    found, scores = top_k(unit(1, 4), np.empty(0, np.int64), np.empty((0, 4), np.float32), 5)
    assert (len(found), len(scores)) == (0, 0)


@pytest.mark.parametrize("k", [1, 3, 4, 5, 9, 40])
def test_equal_scores_are_ordered_by_id_also_at_the_edge(k: int) -> None:
    # Whole numbers, so that equal vectors have equal scores to the last bit.
    rng = np.random.default_rng(4)
    vectors = rng.integers(0, 2, (40, 3)).astype(np.float32)
    ids = rng.permutation(40).astype(np.int64)
    query = np.array([1, 2, 4], np.float32)
    found, scores = top_k(query, ids, vectors, k)
    ranking = sorted(zip(-(vectors @ query), ids, strict=True))[:k]
    assert found.tolist() == [number for _, number in ranking]
    assert scores.tolist() == [-score for score, _ in ranking]


def test_half_precision_vectors_are_scored_in_single_precision() -> None:
    vectors, query = unit(5, 500, 64).astype(np.float16), unit(6, 64)
    ids = np.arange(500, dtype=np.int64)
    found, scores = top_k(query, ids, vectors, 20)
    exact = vectors.astype(np.float64) @ query.astype(np.float64)
    assert found.tolist() == np.argsort(-exact)[:20].tolist()
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, np.sort(exact)[::-1][:20], atol=1e-6)
