"""How many lists a search reads: as many as texts need that are not those it is measured with."""

import numpy as np
import pytest

from clipsearch.records import ClusterSearch
from clipsearch.storage.vectors import nprobe


def by_hand(needed: list[int]) -> ClusterSearch:
    """Ten lists, one vector in each; a query's best one is in the list of this rank."""
    centroids = np.eye(10, dtype=np.float32)
    queries = np.tile(np.arange(10, 0, -1, dtype=np.float32), (len(needed), 1))
    best = np.array(needed)[:, np.newaxis]
    return nprobe.measure(queries, centroids, np.arange(10), best)


def test_as_many_lists_are_read_as_the_choosing_queries_need() -> None:
    measured = by_hand([3, 1, 0, 2, 2, 0])  # 3, 0 and 2 choose; 1, 2 and 0 test
    assert measured == ClusterSearch(lists=10, probed=4, queries=3, recall=1.0, scanned=0.4)


def test_the_number_of_lists_is_doubled_until_other_queries_find_enough() -> None:
    assert by_hand([1, 5, 0, 0]).probed == 8
    assert by_hand([1, 9, 0, 0]) == ClusterSearch(10, 10, 2, 1.0, 1.0)
    assert not nprobe.is_worth_it(by_hand([1, 9, 0, 0]))
    assert nprobe.is_worth_it(by_hand([1, 1, 0, 0]))


def test_a_few_misses_are_allowed_and_told() -> None:
    measured = by_hand([0, 0] * 299 + [9, 9])  # one of 300 on either side
    assert measured.probed == 1
    assert measured.recall == pytest.approx(299 / 300)
