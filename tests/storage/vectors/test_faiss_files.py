"""FAISS over mapped files: what numpy finds, in one thread or several; and its k-means."""

from pathlib import Path

import faiss
import numpy as np
import pytest
from fakes import clustered, texts_for

from clipsearch.records import Vectors
from clipsearch.storage.vectors import faiss_files
from clipsearch.storage.vectors.faiss_files import Clusters, FlatIndex, Half, Ids, best_rows
from clipsearch.storage.vectors.new_vector_file import NewVectorFile
from clipsearch.vectors import l2_normalise, top_k

N, DIM = 3000, 16


@pytest.fixture(scope="module")
def rows() -> tuple[Ids, Half]:
    random = np.random.default_rng(0)
    vectors = l2_normalise(random.standard_normal((N, DIM))).astype("<f2")
    return 7 * random.permutation(N).astype(np.int64), vectors


@pytest.fixture
def index(tmp_path: Path, rows: tuple[Ids, Half]) -> FlatIndex:
    with NewVectorFile(tmp_path / "v.faiss", DIM, bytes(16)) as file:
        file.write([rows])
        file.replace()
    return FlatIndex(tmp_path / "v.faiss")


def a_query(seed: int = 1) -> Vectors:
    return l2_normalise(np.random.default_rng(seed).standard_normal(DIM))


def assert_same(found: tuple[Ids, Vectors], expected: tuple[Ids, Vectors]) -> None:
    assert found[0].tolist() == expected[0].tolist()
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


@pytest.mark.parametrize("worth_a_thread", [100, 100_000])
def test_a_search_is_exact_in_however_many_threads(
    index: FlatIndex,
    rows: tuple[Ids, Half],
    monkeypatch: pytest.MonkeyPatch,
    worth_a_thread: int,
) -> None:
    monkeypatch.setattr(faiss_files, "_WORTH_A_THREAD", worth_a_thread)
    ids, vectors = rows
    for k in (1, 10, N):
        assert_same(index.search(a_query(), k), top_k(a_query(), ids, vectors, k))
    some = ids[::3]
    assert_same(index.search(a_query(), 10, some), top_k(a_query(), some, vectors[::3], 10))


def test_a_search_takes_one_thread_and_leaves_the_setting_as_it_was(index: FlatIndex) -> None:
    """The others have nothing to do for one query, and waiting for them costs more than it."""
    seen: list[int] = []

    class Watched:
        def search(self, *arguments: object, **options: object) -> tuple[Vectors, Ids]:
            seen.append(faiss.omp_get_max_threads())
            return flat.search(*arguments, **options)

    flat, index._flat = index._flat, Watched()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        index.search(a_query(), 5)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)
    assert seen == [1]


# -- the making of an inverted file --------------------------------------------------------------


def test_k_means_finds_the_kinds_that_there_are() -> None:
    vectors = clustered(3000).astype(np.float16)
    clusters = Clusters(vectors, 110)
    assert clusters.centroids.shape == (110, 16)
    np.testing.assert_allclose(np.linalg.norm(clusters.centroids, axis=1), 1, atol=1e-3)
    nearest = (vectors.astype(np.float32) @ clusters.centroids.T).max(axis=1)
    at_random = (vectors.astype(np.float32) @ l2_normalise(vectors[:110]).T).max(axis=1)
    assert nearest.mean() > 0.98
    assert nearest.mean() > at_random.mean()


def test_the_same_vectors_give_the_same_clusters() -> None:
    vectors = clustered(500).astype(np.float16)
    one, other = (Clusters(vectors, 45).centroids for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_each_vector_is_assigned_to_its_nearest_centroid() -> None:
    vectors = clustered(3000).astype(np.float16)
    clusters = Clusters(vectors, 30)
    scores = vectors.astype(np.float32) @ clusters.centroids.T
    own = np.take_along_axis(scores, clusters.assign(vectors)[:, np.newaxis], axis=1)
    np.testing.assert_allclose(own[:, 0], scores.max(axis=1), atol=1e-6)


def test_few_points_make_faiss_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    Clusters(clustered(20).astype(np.float16), 9)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("count", [1, 3, 10, 1030])
def test_the_best_rows_are_those_of_the_oracle(count: int) -> None:
    vectors, queries = clustered(count).astype(np.float16), texts_for(7)
    rows, scores = best_rows(vectors, queries, 10)
    assert rows.shape == scores.shape == (7, min(10, count))
    for query, *found in zip(queries, rows, scores, strict=True):
        assert_same((found[0], found[1]), top_k(query, np.arange(count), vectors, 10))
