"""The FAISS file: exact, whole or not at all, and never trusted blindly."""

import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
from fakes import clustered, texts_for
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.records import Vectors
from clipsearch.storage.vectors import blocks, faiss_files, vector_file
from clipsearch.storage.vectors.new_vector_file import NewVectorFile
from clipsearch.storage.vectors.vector_file import (
    DamagedVectorIndex,
    Half,
    Ids,
    Stamp,
    VectorIndex,
)
from clipsearch.vectors import l2_normalise, top_k

TOKEN = b"sixteen bytes..."
TRAILER = vector_file._STAMP.size + vector_file._CHECKSUM.size + 4
"""Bytes of what is ours behind a file of one block."""
NOWHERE = np.empty(0, np.int64)


@pytest.fixture(scope="module", params=[0, 10**9], ids=["FAISS", "numpy"], autouse=True)
def searched_by(request: pytest.FixtureRequest) -> Iterator[str]:
    """Everything here holds whoever searches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_file, "_WORTH_FAISS", request.param)
        yield "numpy" if request.param else "FAISS"


def some(n: int, dim: int = 16, seed: int = 0) -> tuple[Ids, Half]:
    """Ids that are neither dense nor sorted, and unit vectors."""
    random = np.random.default_rng(seed)
    ids = random.permutation(np.unique(random.integers(1, 10**12, 2 * n))[:n]).astype(np.int64)
    assert len(ids) == n
    return ids, l2_normalise(random.standard_normal((n, dim))).astype("<f2")


def write(path: Path, ids: Ids, vectors: Half, token: bytes = TOKEN) -> None:
    """A file written in two unequal chunks."""
    cut = len(ids) // 3
    with NewVectorFile(path, vectors.shape[1], token) as file:
        file.write([(ids[:cut], vectors[:cut]), (ids[cut:], vectors[cut:])])
        file.replace()


def built(ids: Ids, vectors: Half) -> VectorIndex:
    """An index whose file is gone, as if it had been built in memory."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        write(Path(folder) / "v.faiss", ids, vectors)
        return VectorIndex.read(Path(folder) / "v.faiss", vectors.shape[1], TOKEN)


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


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    ids, vectors = some(300)
    write(tmp_path / "v.faiss", ids, vectors)
    index = VectorIndex.read(tmp_path / "v.faiss", 16, TOKEN)
    assert index.stamp == Stamp(TOKEN, int(ids.max()), 300, left_out=0)
    assert index.count == 300
    assert index.cluster_search is None
    assert_is_oracle(index.search(a_query(), 300), a_query(), ids, vectors, 300)
    assert os.listdir(tmp_path) == ["v.faiss"]


@pytest.mark.parametrize(("n", "dim"), [(0, 16), (1, 1), (300, 16), (20, 512)])
def test_the_file_begins_with_what_faiss_itself_would_write(
    tmp_path: Path, n: int, dim: int
) -> None:
    """A FAISS that changes its format is noticed here."""
    ids, vectors = some(n, dim)
    fp16, inner_product = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIDMap(faiss.IndexScalarQuantizer(dim, fp16, inner_product))
    if n:
        index.add_sa_codes(vectors.view(np.uint8), ids)
    faiss.write_index(index, str(tmp_path / "faiss's own"))
    write(tmp_path / "v.faiss", ids, vectors)
    whole = (tmp_path / "v.faiss").read_bytes()
    own = (tmp_path / "faiss's own").read_bytes()
    assert whole.startswith(own)
    assert len(whole) - len(own) == TRAILER


def test_an_empty_index_is_written_and_read_again(tmp_path: Path) -> None:
    write(tmp_path / "v.faiss", *some(0))
    for index in (VectorIndex.read(tmp_path / "v.faiss", 16, TOKEN), VectorIndex.empty(16)):
        ids, scores = index.search(a_query(), 5)
        assert (index.count, len(ids), len(scores)) == (0, 0, 0)
        assert index.stamp.newest_id == 0


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is mapped")
def test_a_large_file_is_mapped_into_memory_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_file, "_WORTH_FAISS", 50_000)
    write(tmp_path / "v.faiss", *some(50_000, 16))
    index = VectorIndex.read(tmp_path / "v.faiss", 16, TOKEN)
    assert str(tmp_path / "v.faiss") in Path("/proc/self/maps").read_text()
    assert index.count == 50_000


def test_a_mapped_index_outlives_its_file(tmp_path: Path) -> None:
    ids, vectors = some(100)
    path = tmp_path / "v.faiss"
    write(path, ids, vectors)
    index = VectorIndex.read(path, 16, TOKEN)
    write(path, *some(3, seed=1))
    path.unlink()
    assert_is_oracle(index.search(a_query(), 100), a_query(), ids, vectors, 100)


def test_the_files_vectors_are_the_catalogs_bytes(tmp_path: Path) -> None:
    ids, vectors = some(20)
    write(tmp_path / "v.faiss", ids, vectors)
    assert vectors.tobytes() in (tmp_path / "v.faiss").read_bytes()


# -- damage --------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A file of 20 vectors: 16 dimensions, so 640 bytes of them."""
    write(tmp_path / "v.faiss", *some(20))
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


def test_any_wrong_byte_is_noticed(written: Path) -> None:
    whole = written.read_bytes()
    for place in [*range(0, len(whole) - TRAILER, 3), *range(len(whole) - TRAILER, len(whole))]:
        for bits in (0x01, 0xFF):
            wrong = bytearray(whole)
            wrong[place] ^= bits
            written.write_bytes(wrong)
            with pytest.raises(DamagedVectorIndex):
                VectorIndex.read(written, 16, TOKEN)


@pytest.fixture
def of_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of 3,000 vectors in 30 blocks, which are more than are always checked."""
    monkeypatch.setattr(vector_file, "ALWAYS_CHECKED", 2999)
    monkeypatch.setattr(blocks, "BLOCK", 4096)
    monkeypatch.setattr(blocks, "_MAPPED", 2)
    write(tmp_path / "v.faiss", *some(3000))
    return tmp_path / "v.faiss"


def overwritten(path: Path, place: int, content: bytes) -> None:
    """In place, with the times set back as `rsync --inplace -t` does."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(("noted", "most"), [(True, 2999), (False, 2999), (True, 3000)])
def test_the_vectors_of_a_large_file_are_checked_unless_it_is_the_noted_one(
    of_many: Path, monkeypatch: pytest.MonkeyPatch, noted: bool, most: int
) -> None:
    monkeypatch.setattr(vector_file, "ALWAYS_CHECKED", most)
    read: list[int] = []
    real = blocks._sum
    monkeypatch.setattr(blocks, "_sum", lambda block: read.append(len(block)) or real(block))
    identity = vector_file.identity_of(of_many.stat()) if noted else b""
    VectorIndex.read(of_many, 16, TOKEN, identity)
    assert len(read) == (1 + 7 if noted and most < 3000 else 30)  # the head, and the ids
    read.clear()
    VectorIndex.read(of_many, 16, TOKEN, identity, whole=True)
    assert len(read) == 30


@pytest.mark.skipif(sys.platform == "win32", reason="there is no time of change there")
@pytest.mark.parametrize("place", [200, 50_000, 90_000])
def test_whoever_writes_into_a_large_file_is_noticed(of_many: Path, place: int) -> None:
    identity = vector_file.identity_of(of_many.stat())
    overwritten(of_many, place, bytes(800))
    with pytest.raises(DamagedVectorIndex, match="it is damaged"):
        VectorIndex.read(of_many, 16, TOKEN, identity)


def test_an_index_in_use_knows_that_its_file_was_written_into(of_many: Path) -> None:
    index = VectorIndex.read(of_many, 16, TOKEN)
    assert not index.is_altered(of_many)
    overwritten(of_many, 50_000, bytes(800))
    assert index.is_altered(of_many)
    write(of_many, *some(3))
    assert not index.is_altered(of_many)  # what is mapped is the old one
    of_many.unlink()
    assert not index.is_altered(of_many)


@pytest.mark.parametrize("size", [0, 1, 83, 84, 115, 116, 117, 5000])
def test_garbage_is_damaged(written: Path, size: int) -> None:
    written.write_bytes(np.random.default_rng(size).bytes(size))
    with pytest.raises(DamagedVectorIndex, match="cut short"):
        VectorIndex.read(written, 16, TOKEN)


@settings(deadline=None, max_examples=100)
@given(
    before=st.binary(max_size=300),
    size=st.just(None) | st.integers(-(2**63), 2**63 - 1),
    newest=st.integers(-(2**63), 2**63 - 1),
    vectors=st.integers(-(2**63), 2**63 - 1) | st.integers(0, 40),
    lists=st.just(0) | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9),
    checksum=st.just(None) | st.integers(0, 2**32 - 1),
)
def test_garbage_under_our_own_magic_is_damaged(
    tmp_path_factory: pytest.TempPathFactory,
    before: bytes,
    size: int | None,
    newest: int,
    vectors: int,
    lists: int,
    checksum: int | None,
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.faiss"
    size = len(before) - 4 if size is None else size
    of_file = (vector_file._MAGIC, size, 16, TOKEN, newest, vectors, 0)
    stamp = vector_file._STAMP.pack(*of_file, lists, 3, 170, 0.99, 0.1)
    right = zlib.crc32(before[-4:] + stamp)
    packed = vector_file._CHECKSUM.pack(right if checksum is None else checksum)
    path.write_bytes(before + stamp + packed)
    with pytest.raises(DamagedVectorIndex):
        VectorIndex.read(path, 16, TOKEN)


def test_what_faiss_refuses_is_damaged(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_file, "_WORTH_FAISS", 0)

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


def test_the_file_of_another_catalog_is_refused(written: Path) -> None:
    with pytest.raises(DamagedVectorIndex, match="another catalog"):
        VectorIndex.read(written, 16, b"other sixteen...")


@pytest.mark.parametrize("dim", [1, 8, 15, 17, 32, 512])
def test_a_file_of_another_dimension_is_refused(written: Path, dim: int) -> None:
    with pytest.raises(DamagedVectorIndex):
        VectorIndex.read(written, dim, TOKEN)


def test_a_file_that_is_replaced_while_it_is_read_is_not_taken_for_the_old_one(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its newer rows would be found twice: in the file, and among the rows newer than it."""
    monkeypatch.setattr(vector_file, "_WORTH_FAISS", 0)
    read_index = faiss.read_index

    def replace_first(*arguments: object) -> object:
        write(written, *some(21), token=b"the newer file..")
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
            write(written, *some(500))
    assert written.read_bytes() == before
    assert VectorIndex.read(written, 16, TOKEN).count == 20
    assert os.listdir(written.parent) == [written.name]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on a process there")
@pytest.mark.parametrize("limit", [0, 100, 10_000, 70_000])
def test_a_disk_that_fills_up_on_the_way_is_an_oserror(written: Path, limit: int) -> None:
    import resource

    before = written.read_bytes()
    ids, vectors = some(2000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(written, ids, vectors)
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
    write(written, *some(30))
    assert steps == ["fsync", "replace"]


@pytest.mark.parametrize("name", ["photos über Ærø 写真", "a b%20c?mode=ro#x"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    write(folder / "v.faiss", *some(20))
    assert VectorIndex.read(folder / "v.faiss", 16, TOKEN).count == 20


@pytest.mark.skipif(sys.platform != "linux", reason="names there are text")
def test_a_folder_whose_name_is_not_utf8_is_no_obstacle(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    ids, vectors = some(100)
    write(folder / "v.faiss", ids, vectors)
    before = len(os.listdir("/proc/self/fd"))
    index = VectorIndex.read(folder / "v.faiss", 16, TOKEN)
    assert_is_oracle(index.search(a_query(), 100), a_query(), ids, vectors, 100)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(DamagedVectorIndex, match="missing"):
        VectorIndex.read(folder / "other.faiss", 16, TOKEN)


def test_a_search_in_several_threads_is_as_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_files, "_WORTH_A_THREAD", 100)
    monkeypatch.setattr(vector_file.os, "cpu_count", lambda: 3)
    rng = np.random.default_rng(7)
    vectors = l2_normalise(rng.standard_normal((1000, 16))).astype(np.float16)
    ids = np.sort(rng.choice(5000, 1000, replace=False)).astype(np.int64)
    index = built(ids, vectors)
    for k in (1, 7, 400, 2000):
        query = l2_normalise(rng.standard_normal(16))
        found, scores = index.search(query, k)
        expected, expected_scores = top_k(query, ids, vectors, k)
        assert found.tolist() == expected.tolist()
        assert np.allclose(scores, expected_scores, atol=1e-6)


# -- clusters ------------------------------------------------------------------------------------


def inverted(path: Path, ids: Ids, vectors: Half, queries: Vectors) -> VectorIndex:
    """A file that is put into an inverted file, if that is worth it, and read."""
    with NewVectorFile(path, vectors.shape[1], TOKEN) as file:
        file.write([(ids, vectors)])
        file.invert(queries)
        file.replace()
    assert os.listdir(path.parent) == [path.name]
    return VectorIndex.read(path, vectors.shape[1], TOKEN)


@pytest.fixture(scope="module")
def collection() -> tuple[Ids, Half]:
    """4,000 images of 40 kinds, under ids in no order."""
    vectors = clustered(4000).astype("<f2")
    return np.random.default_rng(1).permutation(10 * np.arange(4000)).astype(np.int64), vectors


@pytest.fixture
def by_cluster(tmp_path: Path, collection: tuple[Ids, Half]) -> VectorIndex:
    index = inverted(tmp_path / "v.faiss", *collection, texts_for(100))
    assert index.cluster_search is not None
    assert index.cluster_search.lists > 1
    return index


def test_a_file_in_the_order_of_clusters_holds_the_same_under_the_same_ids(
    by_cluster: VectorIndex, collection: tuple[Ids, Half]
) -> None:
    ids, vectors = collection
    assert by_cluster.stamp == Stamp(TOKEN, int(ids.max()), 4000, left_out=0)
    for seed in range(5):
        query = a_query(seed=seed)
        for k in (1, 10, 20, 21, 5000):
            found = by_cluster.search(query, k, exact=True)
            assert_is_oracle(found, query, ids, vectors, k)


def test_the_inverted_file_begins_with_what_faiss_itself_would_write(
    by_cluster: VectorIndex, collection: tuple[Ids, Half], tmp_path: Path
) -> None:
    """A FAISS that changes its format is noticed here."""
    assert by_cluster._inverted is not None
    mapped = by_cluster._inverted._index
    own = faiss.IndexIVFScalarQuantizer(
        mapped.quantizer,
        16,
        mapped.nlist,
        faiss.ScalarQuantizer.QT_fp16,
        faiss.METRIC_INNER_PRODUCT,
        False,
    )
    own.cp, own.is_trained = mapped.cp, True
    ids, vectors = collection
    labels = mapped.quantizer.search(vectors.astype(np.float32), 1)[1][:, 0]
    lists = own.invlists
    for label, id, vector in zip(labels, ids, vectors, strict=True):
        code = vector.view(np.uint8)
        lists.add_entry(int(label), int(id), faiss.swig_ptr(code))
    own.ntotal = len(ids)
    faiss.write_index(own, str(tmp_path / "faiss's own"))
    own_bytes = (tmp_path / "faiss's own").read_bytes()
    whole = (tmp_path / "v.faiss").read_bytes()
    assert len(whole) - len(own_bytes) == TRAILER
    assert whole.startswith(own_bytes)


@pytest.mark.parametrize("share", [0.001, 0.3, 1.0])
def test_with_clusters_too_a_filter_is_exact(
    by_cluster: VectorIndex, collection: tuple[Ids, Half], share: float
) -> None:
    ids, vectors = collection
    named = np.random.default_rng(3).random(4000) < share
    for query in texts_for(5, seed=8):
        found = by_cluster.search(query, 10, ids[named])
        assert_is_oracle(found, query, ids[named], vectors[named], 10)


@pytest.mark.process
def test_the_recall_that_is_claimed_is_what_a_brute_force_search_confirms(
    by_cluster: VectorIndex, collection: tuple[Ids, Half]
) -> None:
    ids, vectors = collection

    def recall(queries: Vectors) -> float:
        shares = []
        for query in queries:
            found, scores = by_cluster.search(query, 10)
            own = dict(zip(ids.tolist(), vectors.astype(np.float32) @ query, strict=True))
            np.testing.assert_allclose(scores, [own[id] for id in found.tolist()], atol=2e-6)
            assert scores.tolist() == sorted(scores, reverse=True)
            shares.append(len({*found} & {*top_k(query, ids, vectors, 10)[0]}) / 10)
        return float(np.mean(shares))

    claimed = by_cluster.cluster_search
    assert claimed is not None
    assert claimed.queries == 50
    assert claimed.recall >= 0.99
    assert recall(texts_for(100)[1::2]) == pytest.approx(claimed.recall, abs=1e-9)
    assert recall(texts_for(200, seed=77)) >= 0.97  # texts that nothing was chosen with


def test_rows_outside_the_nearest_clusters_are_not_read(by_cluster: VectorIndex) -> None:
    claimed = by_cluster.cluster_search
    assert claimed is not None
    statistics = faiss.cvar.indexIVF_stats
    statistics.reset()
    for query in texts_for(100)[1::2]:
        by_cluster.search(query, 10)
    assert statistics.ndis / 50 / by_cluster.count == pytest.approx(claimed.scanned)
    assert claimed.scanned <= 0.5


def test_whoever_asks_for_more_than_the_clusters_hold_gets_it(
    by_cluster: VectorIndex, collection: tuple[Ids, Half], monkeypatch: pytest.MonkeyPatch
) -> None:
    query = texts_for(1, seed=5)[0]
    assert_is_oracle(by_cluster.search(query, 21), query, *collection, 21)
    monkeypatch.setattr(vector_file, "_CLUSTERS_UP_TO", 10_000)
    assert_is_oracle(by_cluster.search(query, 3999), query, *collection, 3999)


def test_clusters_that_are_not_worth_it_are_told_of_and_not_used(tmp_path: Path) -> None:
    """Vectors without any order: the best ten of a query may be anywhere."""
    ids, vectors = some(500, 64)
    queries = some(40, 64, seed=2)[1].astype(np.float32)
    index = inverted(tmp_path / "v.faiss", ids, vectors, queries)
    told = index.cluster_search
    assert told is not None
    assert (told.lists, told.queries) == (0, 20)
    assert told.scanned > 0.5
    assert vectors.tobytes() in (tmp_path / "v.faiss").read_bytes()
    for query in queries[:5]:
        assert_is_oracle(index.search(query, 10), query, ids, vectors, 10)


@pytest.mark.parametrize("n", [1, 2, 3, 9, 10, 11])
def test_a_handful_of_vectors_is_found_whole(tmp_path: Path, n: int) -> None:
    ids, vectors = some(n)
    index = inverted(tmp_path / "v.faiss", ids, vectors, texts_for(4))
    assert_is_oracle(index.search(a_query(), n), a_query(), ids, vectors, n)


def test_identical_vectors_make_one_cluster_that_is_not_worth_it(tmp_path: Path) -> None:
    ids, _ = some(300)
    vectors = np.tile(a_query().astype("<f2"), (300, 1))
    index = inverted(tmp_path / "v.faiss", ids, vectors, texts_for(4))
    assert_is_oracle(index.search(a_query(), 7), a_query(), ids, vectors, 7)


def test_any_wrong_byte_in_an_inverted_file_is_noticed(
    by_cluster: VectorIndex, tmp_path: Path
) -> None:
    written = tmp_path / "v.faiss"
    whole = written.read_bytes()
    for place in [*range(100), *range(100, len(whole), 997), *range(len(whole) - 99, len(whole))]:
        wrong = bytearray(whole)
        wrong[place] ^= 1
        # A new file in its place: what is mapped must not change.
        written.unlink()
        written.write_bytes(wrong)
        with pytest.raises(DamagedVectorIndex):
            VectorIndex.read(written, 16, TOKEN)


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (faiss_files, "Clusters"),
        (NewVectorFile, "_write_lists"),
        (blocks, "sums"),
        (os, "fsync"),
        (os, "replace"),
    ],
)
def test_an_ordering_that_fails_leaves_the_old_file_as_it_was(
    written: Path,
    collection: tuple[Ids, Half],
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    step: str,
) -> None:
    def order(file: NewVectorFile) -> None:
        file.invert(texts_for(100))
        file.replace()

    before = written.read_bytes()
    with NewVectorFile(written, 16, TOKEN) as file, monkeypatch.context() as patched:
        file.write([collection])
        patched.setattr(owner, step, fail)
        with pytest.raises(OSError, match="No space left"):
            order(file)
    assert written.read_bytes() == before
    assert os.listdir(written.parent) == [written.name]


def test_what_a_killed_writer_left_is_not_taken_and_is_cleaned_away(tmp_path: Path) -> None:
    for name in ("v.faiss.new", "v.faiss.inverted"):
        (tmp_path / name).write_bytes(b"half a file")
    write(tmp_path / "v.faiss", *some(20))
    assert VectorIndex.read(tmp_path / "v.faiss", 16, TOKEN).count == 20
    assert os.listdir(tmp_path) == ["v.faiss"]


WRITE_MUCH = r"""
import re, sys
from pathlib import Path
from threading import Event, Thread
import numpy as np
from clipsearch.storage.vectors.new_vector_file import NewVectorFile

def anonymous():
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1])

def watch():
    global peak
    while not done.wait(0.005):
        peak = max(peak, anonymous())

path, invert = Path(sys.argv[1]), sys.argv[2] == "inverted"
random = np.random.default_rng(0)
vectors = random.standard_normal((10_000, 512), np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
half = vectors.astype(np.float16)
before = peak = anonymous()
done = Event()
watcher = Thread(target=watch)
watcher.start()
with NewVectorFile(path, 512, b"t" * 16) as file:
    file.write((np.arange(n, n + 10_000), half) for n in range(0, 300_000, 10_000))
    if invert:
        file.invert(vectors[:300])
    file.replace()
done.set()
watcher.join()
print(peak - before)
"""


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory is taken")
@pytest.mark.parametrize("form", ["flat", pytest.param("inverted", marks=pytest.mark.slow)])
def test_writing_takes_a_small_part_of_the_vectors_own_memory(tmp_path: Path, form: str) -> None:
    """300,000 x 512 in fp16 are 307 MB, of which no copy is ever held."""
    path = tmp_path / "v.faiss"
    done = subprocess.run(
        [sys.executable, "-c", WRITE_MUCH, path, form],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert path.stat().st_size > 307_000_000
    assert int(done.stdout) < 150_000  # kB
