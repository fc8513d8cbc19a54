"""Searches are exact at every moment, whatever has become of the FAISS file."""

import os
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import (
    DIM,
    assert_exact,
    clustered,
    fake_spec,
    half,
    picture,
    texts_for,
    unit,
)
from small_index import QUERY, add, check, forest, pictures, snapshot

from clipsearch.errors import (
    ModelMismatch,
    StoreError,
)
from clipsearch.records import EmbeddedImage, ImageFile, Vectors
from clipsearch.storage.catalog import CATALOG, Store
from clipsearch.storage.vectors import embeddings, vector_file
from clipsearch.storage.vectors.embeddings import VECTORS
from clipsearch.vectors import top_k

# -- searching at every stage of life ------------------------------------------------------------


def test_search_is_exact_at_every_stage_of_a_collections_life(
    writer: Store, directory: Path
) -> None:
    vectors = add(writer, forest(120))
    check(writer, vectors)
    assert not (directory / VECTORS).exists()

    writer.update_vector_index()
    check(writer, vectors)
    with Store.open(directory) as reader:
        check(reader, vectors)
        assert reader.damage == ""

        vectors |= add(writer, forest(5, start=120))  # rows newer than the file
        check(writer, vectors)
        check(reader, vectors)

        best = [hit.path for hit in writer.search(QUERY, 60)]
        with writer.batch():
            writer.remove(best)  # and most of the file's rows are gone
        vectors = {path: vector for path, vector in vectors.items() if path not in best}
        assert_exact(writer.search(QUERY, 5), vectors, QUERY, 5)
        check(writer, vectors)
        check(reader, vectors)

        changed = [picture(path, 5000 + n) for n, path in enumerate(list(vectors)[:20])]
        vectors |= add(writer, changed)
        check(writer, vectors)
        check(reader, vectors)

        before = (directory / VECTORS).read_bytes()
        writer.update_vector_index()
        assert (directory / VECTORS).read_bytes() != before
        check(writer, vectors)
        check(reader, vectors)  # which still has the old file mapped
    with Store.open(directory) as reader:
        check(reader, vectors)
        assert reader.damage == ""


def test_search_among_equals_goes_by_id(writer: Store) -> None:
    """Identical files have equal scores: they come in the same order on every run."""
    vector = np.zeros(DIM, np.float32)
    vector[0] = 1
    first = EmbeddedImage(ImageFile(b"z", 1, 1), b"h" * 20, 1, 1, None, vector)
    add(writer, [first])
    source = writer.known()[b"z"].id
    with writer.batch():
        for name in (b"y", b"x", b"w"):
            writer.add_copy(ImageFile(name, 1, 1), source)
    for _ in range(2):
        assert [hit.path for hit in writer.search(vector, 9)] == [b"z", b"y", b"x", b"w"]
        writer.update_vector_index()


def test_nothing_is_left_when_all_is_removed(writer: Store, directory: Path) -> None:
    add(writer, forest(30))
    writer.update_vector_index()
    with writer.batch():
        writer.remove(list(writer.known()))
    assert writer.search(QUERY, 5) == []
    writer.update_vector_index()
    assert writer.search(QUERY, 5) == []
    vectors = add(writer, forest(3, start=50))
    check(writer, vectors)


def damaged(path: Path, how: str) -> None:
    whole = path.read_bytes()
    match how:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "garbage":
            path.write_bytes(random.Random(1).randbytes(5000))
        case "swapped bytes":
            path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        case "a folder":
            path.unlink()
            path.mkdir()


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "garbage", "swapped bytes", "a folder"])
def test_a_damaged_faiss_file_costs_no_result_and_is_mended(
    writer: Store, directory: Path, how: str
) -> None:
    vectors = add(writer, forest(60))
    writer.update_vector_index()
    vectors |= add(writer, forest(2, start=60))
    damaged(directory / VECTORS, how)
    with Store.open(directory) as reader:
        check(reader, vectors)
        assert reader.damage
        assert reader.status().pending == 62
    if how == "a folder":
        with pytest.raises(StoreError, match="cannot write"):
            writer.update_vector_index()
        check(writer, vectors)
        return
    writer.update_vector_index()
    with Store.open(directory) as reader:
        check(reader, vectors)
        assert not reader.damage
        assert reader.status().pending == 0


def test_the_faiss_file_of_another_collection_is_not_believed(
    writer: Store, directory: Path, tmp_path: Path
) -> None:
    vectors = add(writer, forest(60))
    with Store.create(tmp_path / "other", tmp_path, fake_spec()) as other:
        add(other, [picture(b"%d" % n, 900 + n) for n in range(60)])
        other.update_vector_index()
    shutil.copy(tmp_path / "other" / VECTORS, directory / VECTORS)
    with Store.open(directory) as reader:
        check(reader, vectors)
        assert reader.damage


def test_a_catalog_out_of_a_backup_does_not_believe_the_faiss_file_from_after_it(
    directory: Path, writer: Store
) -> None:
    """The ids it mints again are in that file already, with other images' vectors."""
    vectors = add(writer, forest(60))
    writer.update_vector_index()
    backup = (directory / CATALOG).read_bytes()
    add(writer, forest(60, start=60))
    with writer.batch():
        writer.remove([forest(1)[0].file.path])
    writer.update_vector_index()
    writer.close()

    (directory / CATALOG).write_bytes(backup)
    with Store.open(directory) as reader:
        check(reader, vectors)
    with Store.open_for_writing(directory) as again:
        for batch in range(6):
            vectors |= add(
                again, [picture(b"%d/%d" % (batch, n), 7000 + 10 * batch + n) for n in range(10)]
            )
            check(again, vectors)
        again.update_vector_index()
        check(again, vectors)
        assert not again.damage


def test_a_copy_made_between_the_two_files_is_searched_exactly(
    directory: Path, writer: Store, tmp_path: Path
) -> None:
    vectors = add(writer, forest(60))
    writer.update_vector_index()
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(directory / VECTORS, copy)
    vectors |= add(writer, forest(60, start=60))
    writer.update_vector_index()
    shutil.copy(directory / CATALOG, copy)
    with Store.open(copy) as reader:
        check(reader, vectors)
        assert reader.damage


DAMAGE = {
    "zeroes": bytes(800),
    "random bytes": random.Random(1).randbytes(800),
    "not a number": np.full(400, np.nan, np.float16).tobytes(),
    "infinite": np.full(400, np.inf, np.float16).tobytes(),
    "one bit": b"",
}


def overwrite(path: Path, place: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        old = file.read(1)
        file.seek(place)
        file.write(content or bytes([old[0] ^ 4]))


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("place", [10, 400, 1200])
def test_damaged_vectors_are_never_believed(
    writer: Store, directory: Path, content: bytes, place: int
) -> None:
    """Zeroes made the best hits vanish, and nothing was said."""
    vectors = add(writer, forest(60))  # 1,920 bytes behind a head of 134
    writer.update_vector_index()
    with Store.open(directory) as early:
        check(early, vectors)
        overwrite(directory / VECTORS, place, content)
        check(early, vectors)  # also by whoever has it open
        assert early.damage
    with Store.open(directory) as reader:
        check(reader, vectors)
        assert reader.damage == reader.status().damage == "it is damaged"
        assert reader.vector_file_problem() == "it is damaged"
    writer.update_vector_index()
    with Store.open(directory) as reader:
        check(reader, vectors)
        assert reader.damage == reader.status().damage == reader.vector_file_problem() == ""


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_list_is_never_believed(writer: Store, directory: Path, content: bytes) -> None:
    vectors = add(writer, kinds_of_pictures(2000))
    writer.update_vector_index(texts, cluster_from=1000)
    size = (directory / VECTORS).stat().st_size
    overwrite(directory / VECTORS, size - 40_000, content)
    with Store.open(directory) as reader:
        for query in texts()[:3]:
            assert_exact(reader.search(query, 10), vectors, query, 10)
        assert reader.damage == "it is damaged"
    writer.update_vector_index(texts, cluster_from=1000)
    assert writer.status().clusters is not None
    assert not writer.vector_file_problem()


def test_a_copied_file_that_is_whole_is_noted_by_the_next_update(
    writer: Store, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(writer, forest(60))
    writer.update_vector_index()
    content = (directory / VECTORS).read_bytes()
    (directory / "copy").write_bytes(content)
    os.replace(directory / "copy", directory / VECTORS)
    monkeypatch.setattr(vector_file, "ALWAYS_CHECKED", 0)
    checks: list[bool] = []
    real = vector_file._checked

    def checked(*arguments: Any, whole: bool) -> vector_file.Trailer:
        checks.append(whole)
        return real(*arguments, whole=whole)

    monkeypatch.setattr(vector_file, "_checked", checked)
    for _ in range(2):
        assert not writer.update_vector_index()
    with Store.open(directory) as reader:
        reader.search(QUERY, 3)
    assert checks == [True, False, False]


# -- damage to the catalog's own vectors ---------------------------------------------------------

NO_EMBEDDING = {
    "zeroes": bytes(2 * DIM),
    "not a number": np.full(DIM, np.nan, "<f2").tobytes(),
    "infinite": np.full(DIM, np.inf, "<f2").tobytes(),
    "too long": np.full(DIM, 2, "<f2").tobytes(),
    "cut": bytes(7),
}


@pytest.mark.parametrize("content", NO_EMBEDDING.values(), ids=NO_EMBEDDING)
@pytest.mark.parametrize("in_the_file", [True, False])
def test_a_damaged_row_of_the_catalog_is_left_out_and_told_of(
    writer: Store, directory: Path, content: bytes, in_the_file: bool
) -> None:
    vectors = add(writer, forest(60))
    if in_the_file:
        writer.update_vector_index()
    newest = max(writer.known().items(), key=lambda known: known[1].id)
    path, id = newest[0], newest[1].id
    writer._db.execute("UPDATE vectors SET vector = ? WHERE id = ?", (content, id))
    assert writer.bad_vectors() == [(id, path)]
    with pytest.raises(KeyError):
        writer.vector(id)
    if in_the_file:
        check(writer, vectors)  # which has it as it was
        assert not writer.vector_file_problem()
    writer.update_vector_index(force=True)
    without = {own: vector for own, vector in vectors.items() if own != path}
    assert_exact(writer.search(QUERY, 70), without, QUERY, 70)
    assert writer.status().left_out == writer.left_out == 1
    assert not writer.update_vector_index()
    with writer.batch():
        writer.forget([id])
    assert writer.update_vector_index()  # so that it is told of no longer
    assert writer.status().left_out == 0


def test_a_row_that_could_be_an_embedding_is_compared_with_the_file(writer: Store) -> None:
    """The file has checksums and the catalog has none: so it is the row that is damaged."""
    add(writer, forest(60))
    writer.update_vector_index()
    other = half(unit(77)).tobytes()
    writer._db.execute("UPDATE vectors SET vector = ? WHERE id IN (3, 9)", (other,))
    assert [id for id, _ in writer.bad_vectors()] == [3, 9]
    assert not writer.vector_file_problem()


# -- when the FAISS file is written --------------------------------------------------------------


def test_the_faiss_file_is_written_only_when_much_has_changed(
    writer: Store, directory: Path
) -> None:
    add(writer, pictures(100))
    writer.update_vector_index()
    first = snapshot(directory)[VECTORS]
    writer.update_vector_index()
    assert snapshot(directory)[VECTORS] == first

    add(writer, pictures(3, start=100))
    writer.update_vector_index()
    assert snapshot(directory)[VECTORS] == first
    assert writer.status().pending == 3

    with writer.batch():
        writer.remove([b"0000.png", b"0001.png"])
    writer.update_vector_index()  # 3 newer and 2 gone of 101
    assert snapshot(directory)[VECTORS] == first

    with writer.batch():
        writer.remove([b"0002.png"])
    writer.update_vector_index()  # 6 of 100
    assert snapshot(directory)[VECTORS] != first
    assert writer.status().pending == 0


def test_a_file_that_is_recent_enough_is_not_opened_to_learn_that(
    writer: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_file, "_WORTH_FAISS", 0)
    vectors = add(writer, pictures(100))
    assert writer.update_vector_index()
    with monkeypatch.context() as without_faiss:
        without_faiss.setitem(sys.modules, "clipsearch.storage.vectors.faiss_files", None)
        assert not writer.update_vector_index()
    vectors |= add(writer, pictures(1, start=100))
    assert not writer.update_vector_index()
    check(writer, vectors)


def test_a_large_collections_newer_pictures_are_bounded_in_number(
    writer: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in twenty of ten millions would take seconds to search."""
    monkeypatch.setattr(embeddings, "_MOST_NEWER", 2)
    add(writer, pictures(100))
    writer.update_vector_index()
    add(writer, pictures(2, start=100))
    assert not writer.update_vector_index()
    add(writer, pictures(1, start=102))
    assert writer.update_vector_index()


def test_a_small_collections_first_pictures_are_written_at_once(
    writer: Store, directory: Path
) -> None:
    add(writer, pictures(1))
    writer.update_vector_index()
    assert (directory / VECTORS).is_file()
    assert writer.status().pending == 0


def test_a_faiss_file_that_cannot_be_written_loses_nothing(
    writer: Store, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = add(writer, forest(60))
    writer.update_vector_index()
    before = snapshot(directory)[VECTORS]
    vectors |= add(writer, forest(60, start=60))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, step, fail)
            with pytest.raises(StoreError, match="No space left") as caught:
                writer.update_vector_index()
        assert "No image is lost" in caught.value.hint
        assert snapshot(directory)[VECTORS] == before
        check(writer, vectors)
        with Store.open(directory) as reader:
            check(reader, vectors)
            assert not reader.damage
    writer.update_vector_index()
    assert writer.status().pending == 0


# -- clusters ------------------------------------------------------------------------------------


def kinds_of_pictures(count: int, seed: int = 0, name: bytes = b"") -> list[EmbeddedImage]:
    """Images that fall into clusters."""
    return [
        replace(picture(name + b"%d.png" % n, n), vector=vector)
        for n, vector in enumerate(clustered(count, seed=seed))
    ]


def no_texts() -> Vectors:
    raise AssertionError("there is nothing to measure")


def texts() -> Vectors:
    return texts_for(100)


def recall(store: Store, vectors: dict[bytes, Vectors]) -> float:
    paths, rows = list(vectors), half(np.stack(list(vectors.values())))
    shares = []
    for query in texts()[1::2]:
        best, _ = top_k(query, np.arange(len(paths)), rows, 10)
        found = {hit.path for hit in store.search(query, 10)}
        shares.append(len(found & {paths[n] for n in best}) / 10)
    return float(np.mean(shares))


@pytest.mark.parametrize(
    ("cluster_from", "clustered_at"), [(1999, True), (2000, True), (2001, False)]
)
def test_a_collection_is_ordered_by_cluster_from_a_certain_size_on(
    writer: Store, directory: Path, cluster_from: int, clustered_at: bool
) -> None:
    vectors = add(writer, kinds_of_pictures(2000))
    queries = texts if clustered_at else no_texts
    told: list[tuple[str, int, int]] = []
    writer.update_vector_index(
        queries, cluster_from=cluster_from, progress=lambda *what: told.append(what)
    )
    assert told[0][0] == "writing vectors"
    assert (("finding clusters", 2000, 2000) in told) == clustered_at
    assert all(0 <= done <= total == 2000 for _, done, total in told)
    assert told == sorted(told, key=lambda what: (what[0] != "writing vectors", what[1]))
    with Store.open(directory) as reader:
        clusters = reader.status().clusters
        if clustered_at:
            assert clusters is not None
            assert clusters.lists > clusters.probed > 0
            assert clusters.recall >= 0.99
            assert recall(reader, vectors) == pytest.approx(clusters.recall)
        else:
            assert clusters is None
            assert_exact(reader.search(texts()[0], 10), vectors, texts()[0], 10)
        assert_exact(reader.search(QUERY, 10, exact=True), vectors, QUERY, 10)


def test_texts_are_asked_for_only_where_a_file_is_to_be_written(writer: Store) -> None:
    add(writer, kinds_of_pictures(2000))
    writer.update_vector_index(texts, cluster_from=1000)
    clusters = writer.status().clusters
    writer.update_vector_index(no_texts, cluster_from=1000)
    add(writer, kinds_of_pictures(50, seed=3, name=b"few"))
    writer.update_vector_index(no_texts, cluster_from=1000)
    status = writer.status()
    assert (status.clusters, status.pending) == (clusters, 50)


def test_a_file_that_was_mended_without_texts_is_ordered_by_the_next_update_that_has_them(
    writer: Store, directory: Path
) -> None:
    vectors = add(writer, kinds_of_pictures(2000))
    writer.update_vector_index(texts, cluster_from=1000)
    (directory / VECTORS).unlink()
    writer.update_vector_index()
    assert writer.status().clusters is None
    assert_exact(writer.search(texts()[0], 10), vectors, texts()[0], 10)
    writer.update_vector_index(texts, cluster_from=1000)
    assert writer.status().clusters is not None


def test_clusters_that_are_not_worth_it_are_not_tried_at_every_update(writer: Store) -> None:
    vectors = add(writer, pictures(60))
    writer.update_vector_index(lambda: np.stack([unit(n) for n in range(40)]), cluster_from=50)
    clusters = writer.status().clusters
    assert clusters is not None
    assert clusters.lists == 0
    check(writer, vectors)
    writer.update_vector_index(no_texts, cluster_from=50)


def test_with_clusters_what_is_newer_is_found_and_what_is_gone_is_not(writer: Store) -> None:
    vectors = add(writer, kinds_of_pictures(2000))
    writer.update_vector_index(texts, cluster_from=1000)
    assert writer.status().clusters is not None
    newer = add(writer, kinds_of_pictures(60, seed=2, name=b"newer"))
    vectors |= newer
    gone = [hit.path for query in texts()[:6] for hit in writer.search(query, 12)]
    with writer.batch():
        writer.remove(gone)
    for path in gone:
        vectors.pop(path, None)
    assert recall(writer, vectors) >= 0.98
    for path, vector in newer.items():
        if path in vectors:
            assert writer.search(vector, 1)[0].path.startswith(b"newer")
    for query in texts()[:6]:
        assert len(writer.search(query, 10)) == 10
        assert_exact(writer.search(query, 10, exact=True), vectors, query, 10)


def test_a_model_that_fails_before_the_clusters_are_made_costs_nothing(
    writer: Store, directory: Path
) -> None:
    vectors = add(writer, forest(60))
    writer.update_vector_index()
    before = snapshot(directory)

    def fail() -> Vectors:
        raise ModelMismatch("other weights")

    with pytest.raises(ModelMismatch):
        writer.update_vector_index(fail, cluster_from=50)
    assert snapshot(directory) == before
    check(writer, vectors)
