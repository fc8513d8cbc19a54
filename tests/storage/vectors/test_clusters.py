"""Clusters: what they are, and that what is said of a search through them is true."""

import numpy as np
import pytest
from fakes import clustered, texts_for

from clipsearch.records import ClusterSearch, Vectors
from clipsearch.storage.vectors import clusters
from clipsearch.vectors import l2_normalise, top_k


def half(count: int, seed: int = 0) -> clusters.Half:
    return clustered(count, seed=seed).astype(np.float16)


def test_k_means_finds_the_kinds_that_there_are() -> None:
    vectors = half(3000)
    centroids = clusters.train(vectors)
    assert centroids.shape == (110, 16)  # 2 x sqrt(3000)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
    nearest = (vectors.astype(np.float32) @ centroids.T).max(axis=1)
    at_random = (vectors.astype(np.float32) @ l2_normalise(vectors[:110]).T).max(axis=1)
    assert nearest.mean() > 0.98
    assert nearest.mean() > at_random.mean()


def test_the_same_vectors_give_the_same_clusters() -> None:
    np.testing.assert_array_equal(clusters.train(half(500)), clusters.train(half(500)))


def test_k_means_reads_a_sample_where_there_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "_SAMPLE_PER_CENTROID", 3)
    read: list[int] = []
    assign = clusters._assign

    def counting(
        vectors: clusters.Half, rows: clusters.Rows, centroids: Vectors, told: clusters.Told
    ) -> clusters.Rows:
        read.append(len(rows))
        return assign(vectors, rows, centroids, told)

    monkeypatch.setattr(clusters, "_assign", counting)
    centroids = clusters.train(half(3000))
    assert read == [330] * 10
    assert np.isfinite(centroids).all()


def test_a_cluster_that_nothing_falls_into_stays_where_it_is() -> None:
    same = np.tile(half(1), (50, 1))
    centroids = clusters.train(same)
    np.testing.assert_allclose(centroids, np.tile(half(1), (14, 1)), atol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 1023, 1024, 1025, 3000])
def test_each_vector_is_assigned_to_its_nearest_centroid(count: int) -> None:
    vectors, centroids = half(count), clustered(30, seed=4)
    expected = np.argmax(vectors.astype(np.float32) @ centroids.T, axis=1)
    np.testing.assert_array_equal(clusters.assign(vectors, centroids), expected)


@pytest.mark.parametrize("count", [1, 3, 10, 1024, 1030, 3000])
def test_the_exact_best_are_those_of_the_oracle(count: int) -> None:
    vectors, queries = half(count), texts_for(7)
    rows = clusters.exact_best(vectors, queries)
    assert rows.shape == (7, min(10, count))
    for query, found in zip(queries, rows, strict=True):
        expected, _ = top_k(query, np.arange(count), vectors, 10)
        assert sorted(found) == sorted(expected)


def by_hand(needed: list[int]) -> ClusterSearch:
    """Ten lists, one vector in each; a query's best one is in the list of this rank."""
    centroids = np.eye(10, dtype=np.float32)
    queries = np.tile(np.arange(10, 0, -1, dtype=np.float32), (len(needed), 1))
    best = np.array(needed)[:, np.newaxis]
    return clusters.measure(queries, centroids, np.arange(10), best)


def test_as_many_lists_are_read_as_the_choosing_queries_need() -> None:
    measured = by_hand([3, 1, 0, 2, 2, 0])  # 3, 0 and 2 choose; 1, 2 and 0 test
    assert measured == ClusterSearch(lists=10, probed=4, queries=3, recall=1.0, scanned=0.4)


def test_the_number_of_lists_is_doubled_until_other_queries_find_enough() -> None:
    assert by_hand([1, 5, 0, 0]).probed == 8
    assert by_hand([1, 9, 0, 0]) == ClusterSearch(10, 10, 2, 1.0, 1.0)
    assert not clusters.is_worth_it(by_hand([1, 9, 0, 0]))
    assert clusters.is_worth_it(by_hand([1, 1, 0, 0]))


def test_a_few_misses_are_allowed_and_told() -> None:
    measured = by_hand([0, 0] * 299 + [9, 9])  # one of 300 on either side
    assert measured.probed == 1
    assert measured.recall == pytest.approx(299 / 300)


def test_the_measured_recall_is_that_of_a_search() -> None:
    vectors, queries = half(3000), texts_for(60)
    centroids = clusters.train(vectors)
    labels = clusters.assign(vectors, centroids)
    measured = clusters.measure(queries, centroids, labels, clusters.exact_best(vectors, queries))
    shares, read = [], []
    for query in queries[1::2]:
        lists = clusters.nearest_lists(query, centroids, measured.probed)
        rows = np.flatnonzero(np.isin(labels, lists))
        found, _ = top_k(query, rows, vectors[rows], 10)
        exact, _ = top_k(query, np.arange(3000), vectors, 10)
        shares.append(len({*found} & {*exact}) / 10)
        read.append(len(rows) / 3000)
    assert measured.queries == len(shares)
    assert measured.recall == pytest.approx(np.mean(shares))
    assert measured.scanned == pytest.approx(np.mean(read))
    assert measured.recall >= clusters.RECALL


def test_the_work_is_told_of_to_its_last_product() -> None:
    vectors = half(3000)
    computed: list[int] = []
    centroids = clusters.train(vectors, computed.append)
    clusters.assign(vectors, centroids, computed.append)
    assert sum(computed) == clusters.products_of_training(len(vectors))
    assert len(computed) > 20  # often, and not at the end
    computed.clear()
    clusters.exact_best(vectors, centroids[:7], computed.append)
    assert sum(computed) == 7 * len(vectors)
