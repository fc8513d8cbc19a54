"""The FAISS file: exact, whole or not at all, and never trusted blindly."""

import os
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch import vector_index
from clipsearch.records import Vectors
from clipsearch.vector_index import DamagedVectorIndex, Half, Ids, Stamp, VectorIndex
from clipsearch.vectors import l2_normalise, top_k

TOKEN = b"sixteen bytes..."
NOWHERE = np.empty(0, np.int64)


def some(n: int, dim: int = 16, seed: int = 0) -> tuple[Ids, Half]:
    """Ids that are neither dense nor sorted, and unit vectors."""
    random = np.random.default_rng(seed)
    ids = random.permutation(np.unique(random.integers(1, 10**12, 2 * n))[:n]).astype(np.int64)
    assert len(ids) == n
    return ids, l2_normalise(random.standard_normal((n, dim))).astype("<f2")


def built(ids: Ids, vectors: Half, token: bytes = TOKEN) -> VectorIndex:
    """An index built in two unequal chunks."""
    cut = len(ids) // 3
    chunks = [(ids[:cut], vectors[:cut]), (ids[cut:], vectors[cut:])]
    newest = int(ids.max(initial=0))
    return VectorIndex.build(vectors.shape[1], chunks, Stamp(token, newest, vectors=0))


def a_query(dim: int = 16, seed: int = 99) -> Vectors:
    return l2_normalise(np.random.default_rng(seed).standard_normal(dim))


def assert_is_oracle(
    found: tuple[Ids, Vectors], query: Vectors, ids: Ids, vectors: Half, k: int
) -> None:
    """Ids and scores are those of the exact search, up to the rounding of a score."""
    expected, scores = top_k(query, ids, vectors, k)
    np.testing.assert_allclose(found[1], scores, rtol=0, atol=2e-6)
    if list(found[0]) != list(expected):  # then only by changing places within the rounding
        own = dict(zip(ids.tolist(), vectors.astype(np.float32) @ query, strict=True))
        assert len(set(found[0].tolist())) == len(expected)
        np.testing.assert_allclose([own[id] for id in found[0].tolist()], scores, rtol=0, atol=2e-6)


@settings(deadline=None, max_examples=60)
@given(
    n=st.sampled_from([0, 1, 2, 3, 31, 200]),
    dim=st.sampled_from([1, 2, 7, 16, 33, 512]),
    k=st.sampled_from([1, 2, 10, 199, 200, 1000]),
    seed=st.integers(0, 1000),
)
def test_ids_and_scores_are_those_of_the_exact_search(n: int, dim: int, k: int, seed: int) -> None:
    ids, vectors = some(n, dim, seed)
    query = a_query(dim, seed + 1)
    assert_is_oracle(built(ids, vectors).search(query, k), query, ids, vectors, k)


@settings(deadline=None, max_examples=60)
@given(
    n=st.sampled_from([1, 5, 200]),
    share=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    k=st.sampled_from([1, 7, 500]),
    strangers=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_among_restricts_the_exact_search_to_the_ids_it_names(
    n: int, share: float, k: int, strangers: bool, seed: int
) -> None:
    ids, vectors = some(n, seed=seed)
    named = np.random.default_rng(seed).random(n) < share
    among = np.concatenate([ids[named], [10**13, 10**13 + 1] if strangers else NOWHERE])
    query = a_query(seed=seed + 1)
    found = built(ids, vectors).search(query, k, among.astype(np.int64))
    assert_is_oracle(found, query, ids[named], vectors[named], k)


def test_a_known_ranking() -> None:
    ids = np.array([70, 5, 900], np.int64)
    vectors = np.array([[0.6, 0.8], [1, 0], [0, 1]], np.float16)
    found, scores = built(ids, vectors).search(np.array([1, 0], np.float32), 2)
    assert found.tolist() == [5, 70]
    np.testing.assert_allclose(scores, [1, 0.6], atol=1e-3)


def test_a_search_takes_one_thread_and_leaves_the_setting_as_it_was() -> None:
    """The others have nothing to do for one query, and waiting for them costs more than it."""
    index = built(*some(20))
    seen: list[int] = []

    class Watched:
        ntotal = 20

        def search(self, *arguments: object, **options: object) -> tuple[Vectors, Ids]:
            seen.append(faiss.omp_get_max_threads())
            return flat.search(*arguments, **options)

    flat, index._index = index._index, Watched()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        index.search(a_query(), 5)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)
    assert seen == [1]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    ids, vectors = some(300)
    index = built(ids, vectors)
    assert index.stamp == Stamp(TOKEN, int(ids.max()), 300)
    index.write(tmp_path / "v.faiss")
    again = VectorIndex.read(tmp_path / "v.faiss", 16, TOKEN)
    assert again.stamp == index.stamp
    assert again.count == index.count == 300
    for mine, theirs in zip(
        again.search(a_query(), 300), index.search(a_query(), 300), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    assert os.listdir(tmp_path) == ["v.faiss"]


def test_an_empty_index_is_written_and_read_again(tmp_path: Path) -> None:
    VectorIndex.build(16, [], Stamp(TOKEN, 0, 0)).write(tmp_path / "v.faiss")
    again = VectorIndex.read(tmp_path / "v.faiss", 16, TOKEN)
    ids, scores = again.search(a_query(), 5)
    assert (again.count, len(ids), len(scores)) == (0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is mapped")
def test_the_file_is_mapped_into_memory_and_not_read(tmp_path: Path) -> None:
    built(*some(50_000, 16)).write(tmp_path / "v.faiss")
    index = VectorIndex.read(tmp_path / "v.faiss", 16, TOKEN)
    assert str(tmp_path / "v.faiss") in Path("/proc/self/maps").read_text()
    assert index.count == 50_000


def test_a_mapped_index_outlives_its_file(tmp_path: Path) -> None:
    ids, vectors = some(100)
    path = tmp_path / "v.faiss"
    built(ids, vectors).write(path)
    index = VectorIndex.read(path, 16, TOKEN)
    built(*some(3, seed=1)).write(path)
    path.unlink()
    assert_is_oracle(index.search(a_query(), 100), a_query(), ids, vectors, 100)


def test_the_files_vectors_are_the_catalogues_bytes(tmp_path: Path) -> None:
    ids, vectors = some(20)
    built(ids, vectors).write(tmp_path / "v.faiss")
    assert vectors.tobytes() in (tmp_path / "v.faiss").read_bytes()


# -- damage --------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A file of 20 vectors: 16 dimensions, so 640 bytes of them."""
    built(*some(20)).write(tmp_path / "v.faiss")
    return tmp_path / "v.faiss"


def test_a_file_cut_short_anywhere_is_damaged(written: Path) -> None:
    whole = written.read_bytes()
    lengths = {*range(0, 200, 7), *range(200, len(whole), 41), *range(len(whole) - 60, len(whole))}
    for length in sorted(lengths):
        written.write_bytes(whole[:length])
        with pytest.raises(DamagedVectorIndex, match="cut short"):
            VectorIndex.read(written, 16, TOKEN)


def test_a_file_with_a_hole_is_damaged(written: Path) -> None:
    whole = written.read_bytes()
    for start in range(0, len(whole) - 60, 53):
        written.write_bytes(whole[:start] + whole[start + 7 :])
        with pytest.raises(DamagedVectorIndex):
            VectorIndex.read(written, 16, TOKEN)


def test_any_wrong_byte_outside_the_vectors_is_noticed(written: Path) -> None:
    whole = written.read_bytes()
    first = whole.index(some(20)[1].tobytes())
    places = [*range(first), *range(first + 640, len(whole))]
    assert len(places) > 200
    for place in places:
        for bits in (0x01, 0xFF):
            wrong = bytearray(whole)
            wrong[place] ^= bits
            written.write_bytes(wrong)
            with pytest.raises(DamagedVectorIndex):
                VectorIndex.read(written, 16, TOKEN)


@pytest.mark.parametrize("size", [0, 1, 43, 44, 45, 5000])
def test_garbage_is_damaged(written: Path, size: int) -> None:
    written.write_bytes(np.random.default_rng(size).bytes(size))
    with pytest.raises(DamagedVectorIndex, match="cut short"):
        VectorIndex.read(written, 16, TOKEN)


@settings(deadline=None, max_examples=100)
@given(
    before=st.binary(max_size=300),
    newest=st.integers(-(2**63), 2**63 - 1),
    vectors=st.integers(-(2**63), 2**63 - 1) | st.integers(0, 40),
    checksum=st.integers(0, 2**32 - 1),
)
def test_garbage_under_our_own_magic_is_damaged(
    tmp_path_factory: pytest.TempPathFactory,
    before: bytes,
    newest: int,
    vectors: int,
    checksum: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.faiss"
    stamp = vector_index._STAMP.pack(vector_index._MAGIC, TOKEN, newest, vectors, checksum)
    path.write_bytes(before + stamp)
    with pytest.raises(DamagedVectorIndex):
        VectorIndex.read(path, 16, TOKEN)


def test_what_faiss_refuses_is_damaged(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("Index type 0x12345678 not recognized")

    monkeypatch.setattr(faiss, "read_index", refuse)
    with pytest.raises(DamagedVectorIndex, match="FAISS cannot read it"):
        VectorIndex.read(written, 16, TOKEN)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(DamagedVectorIndex, match="missing"):
        VectorIndex.read(tmp_path / "v.faiss", 16, TOKEN)


def test_a_folder_in_its_place_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(DamagedVectorIndex, match="cannot be read"):
        VectorIndex.read(tmp_path, 16, TOKEN)


def test_the_file_of_another_catalogue_is_refused(written: Path) -> None:
    with pytest.raises(DamagedVectorIndex, match="another catalogue"):
        VectorIndex.read(written, 16, b"other sixteen...")


@pytest.mark.parametrize("dim", [1, 8, 15, 17, 32, 512])
def test_a_file_of_another_dimension_is_refused(written: Path, dim: int) -> None:
    with pytest.raises(DamagedVectorIndex):
        VectorIndex.read(written, dim, TOKEN)


def test_a_file_that_is_replaced_while_it_is_read_is_not_taken_for_the_old_one(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its newer rows would be found twice: in the file, and among the rows newer than it."""
    read_index = faiss.read_index

    def replace_first(*arguments: object) -> object:
        built(*some(21), token=b"the newer file..").write(written)
        return read_index(*arguments)

    monkeypatch.setattr(faiss, "read_index", replace_first)
    with pytest.raises(DamagedVectorIndex, match="replaced"):
        VectorIndex.read(written, 16, TOKEN)


# -- writing as one step -------------------------------------------------------------------------


def fail(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_as_it_was(
    written: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = written.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, step, fail)
        with pytest.raises(OSError, match="No space left"):
            built(*some(500)).write(written)
    assert written.read_bytes() == before
    assert VectorIndex.read(written, 16, TOKEN).count == 20
    assert os.listdir(written.parent) == [written.name]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on a process there")
@pytest.mark.parametrize("limit", [0, 100, 10_000, 70_000])
def test_a_disk_that_fills_up_while_faiss_writes_is_an_oserror(written: Path, limit: int) -> None:
    import resource

    before = written.read_bytes()
    index = built(*some(2000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            index.write(written)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert written.read_bytes() == before
    assert os.listdir(written.parent) == [written.name]


def test_the_file_is_on_disk_before_it_takes_the_name(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *a: [steps.append("fsync"), fsync(*a)])
    monkeypatch.setattr(os, "replace", lambda *a: [steps.append("replace"), replace(*a)])
    built(*some(30)).write(written)
    assert steps == ["fsync", "replace"]


@pytest.mark.parametrize("name", ["photos über Ærø 写真", "a b%20c?mode=ro#x"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    built(*some(20)).write(folder / "v.faiss")
    assert VectorIndex.read(folder / "v.faiss", 16, TOKEN).count == 20


@pytest.mark.skipif(sys.platform != "linux", reason="names there are text")
def test_a_folder_whose_name_is_not_utf8_is_no_obstacle(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    ids, vectors = some(100)
    built(ids, vectors).write(folder / "v.faiss")
    before = len(os.listdir("/proc/self/fd"))
    index = VectorIndex.read(folder / "v.faiss", 16, TOKEN)
    assert_is_oracle(index.search(a_query(), 100), a_query(), ids, vectors, 100)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(DamagedVectorIndex, match="missing"):
        VectorIndex.read(folder / "other.faiss", 16, TOKEN)


def test_a_search_in_several_threads_is_as_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "_WORTH_A_THREAD", 100)
    monkeypatch.setattr(vector_index.os, "cpu_count", lambda: 3)
    rng = np.random.default_rng(7)
    vectors = l2_normalise(rng.standard_normal((1000, 16))).astype(np.float16)
    ids = np.sort(rng.choice(5000, 1000, replace=False)).astype(np.int64)
    index = VectorIndex.build(16, [(ids, vectors)], Stamp(b"t" * 16, int(ids[-1]), 0))
    for k in (1, 7, 400, 2000):
        query = l2_normalise(rng.standard_normal(16))
        found, scores = index.search(query, k)
        expected, expected_scores = top_k(query, ids, vectors, k)
        assert found.tolist() == expected.tolist()
        assert np.allclose(scores, expected_scores, atol=1e-6)
