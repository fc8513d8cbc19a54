"""FAISS over a mapped file: what numpy finds, by rows or by ids, with one thread a part."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from clipsearch.records import Vectors
from clipsearch.storage.vectors import flat_index
from clipsearch.storage.vectors.flat_index import FlatIndex, Ids
from clipsearch.storage.vectors.vector_file import Half, NewVectorFile
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
    monkeypatch.setattr(flat_index, "_WORTH_A_THREAD", worth_a_thread)
    ids, vectors = rows
    for k in (1, 10, N):
        assert_same(index.search(a_query(), k), top_k(a_query(), ids, vectors, k))
    some = ids[::3]
    assert_same(index.search(a_query(), 10, some), top_k(a_query(), some, vectors[::3], 10))
    starts, ends = np.array([5, 900, 2000]), np.array([5, 1000, 2100])
    named = np.r_[900:1000, 2000:2100]
    expected = top_k(a_query(), ids[named], vectors[named], 10)
    assert_same(index.search_rows(a_query(), 10, starts, ends), expected)
    assert len(index.search_rows(a_query(), 500, starts, ends)[0]) == 200


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
