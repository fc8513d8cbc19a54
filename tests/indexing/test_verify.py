"""Damage is found, named and mended; what is not damage is told apart from it."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import make_picture
from fakes import DecodeHere, FakeEncoder, fake_spec

from clipsearch.images import scan
from clipsearch.indexing import embed, verify
from clipsearch.indexing.reconcile import reconcile
from clipsearch.indexing.verify import Problem
from clipsearch.records import Encoder
from clipsearch.storage.catalog import CATALOG, FOLDER, Store
from clipsearch.storage.vectors.embeddings import VECTORS


@pytest.fixture
def root(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images, indexed with an encoder that is a hash."""
    monkeypatch.setattr(embed, "DecodePool", DecodeHere)
    with Store.create(photos / FOLDER, photos, fake_spec()) as store:
        reconcile(store, scan.find(os.fsencode(photos)), FakeEncoder)
    return photos


def no_encoder() -> Encoder:
    raise AssertionError("there is nothing to make again")


def problems(
    root: Path, sample: int = 99, encoder: Callable[[], Encoder] = FakeEncoder
) -> list[Problem]:
    with Store.open(root / FOLDER) as store:
        return list(verify.verify(store, scan.find(os.fsencode(root)), encoder, sample))


def edit(root: Path, statement: str, *values: object) -> None:
    catalog = sqlite3.connect(root / FOLDER / CATALOG)
    with catalog:
        catalog.execute(statement, values)
    catalog.close()


def mend(root: Path) -> list[str]:
    with Store.open_for_writing(root / FOLDER) as store:
        found = scan.find(os.fsencode(root))
        return verify.repair(store, list(verify.verify(store, found, FakeEncoder, 99)))


def test_a_whole_index_has_no_problem(root: Path) -> None:
    assert problems(root) == []
    assert problems(root, sample=0, encoder=no_encoder) == []
    with Store.open(root / FOLDER) as store:
        assert list(verify.verify(store, None, no_encoder, 99)) == []


def test_a_folder_that_has_changed_is_behind_and_not_damaged(root: Path) -> None:
    make_picture(root / "new.png", 50)
    make_picture(root / "a.png", 51)
    (root / "b.jpg").unlink()
    texts = {problem.text for problem in problems(root) if problem.kind == "behind"}
    assert texts == {
        f"1 file {what} since the last run of index" for what in ("new", "changed", "missing")
    }
    assert {problem.kind for problem in problems(root)} == {"behind"}


NONSENSE = {
    "another image's": "(SELECT vector FROM vectors WHERE id = 2)",
    "zero": "zeroblob(32)",
    "short": "x'0102'",
    "not a number": "x'" + "007e" * 16 + "'",
    "infinite": "x'" + "007c" * 16 + "'",
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
def test_a_wrong_embedding_is_found_forgotten_and_made_again(root: Path, nonsense: str) -> None:
    edit(root, f"UPDATE vectors SET vector = {nonsense} WHERE id = 5")
    with Store.open(root / FOLDER) as store:
        (path,) = [path for path, known in store.known().items() if known.id == 5]
    found = [problem for problem in problems(root) if problem.kind == "embedding"]
    assert [(problem.path, problem.id) for problem in found] == [(path, 5)]
    assert any("removed 1 image" in line for line in mend(root))
    with Store.open_for_writing(root / FOLDER) as store:
        assert path not in store.known()
        summary = reconcile(store, scan.find(os.fsencode(root)), FakeEncoder)
    assert (summary.added, summary.unchanged) == (1, 5)
    assert problems(root) == []


def test_a_picture_without_an_embedding_is_found(root: Path) -> None:
    edit(root, "DELETE FROM vectors WHERE id = 3")
    (problem,) = [problem for problem in problems(root) if problem.id == 3]
    assert "missing" in problem.text


def test_a_wrong_bit_in_the_vector_file_is_found(root: Path) -> None:
    path = root / FOLDER / VECTORS
    content = bytearray(path.read_bytes())
    with Store.open(root / FOLDER) as store:
        at = content.index(store._db.execute("SELECT vector FROM vectors").fetchone()[0])
    content[at + 5] ^= 1
    path.write_bytes(content)
    (problem,) = problems(root)
    assert problem == Problem("vector file", "it is damaged")
    assert mend(root) == ["the vector file was written again"]
    assert problems(root) == []


@pytest.mark.parametrize("damage", ["missing", "cut", "garbage"])
def test_a_vector_file_that_cannot_be_used_is_written_anew(root: Path, damage: str) -> None:
    path = root / FOLDER / VECTORS
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(whole[:-20] if damage == "cut" else os.urandom(len(whole)))
    (problem,) = problems(root)
    assert problem.kind == "vector file"
    assert mend(root) == ["the vector file was written again"]
    assert problems(root) == []


def test_an_empty_index_is_whole(tmp_path: Path) -> None:
    with Store.create(tmp_path / FOLDER, tmp_path, fake_spec()) as store:
        store.update_vector_index()
        assert list(verify.verify(store, None, no_encoder, 99)) == []


def test_a_picture_that_cannot_be_read_any_more_is_not_compared(root: Path) -> None:
    stat = (root / "a.png").stat()
    (root / "a.png").write_bytes(b"x" * stat.st_size)
    os.utime(root / "a.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert problems(root) == []


@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
def test_what_can_be_read_of_a_damaged_catalog_is_saved(tmp_path: Path, at: float) -> None:
    """A page of it is overwritten, as a failing disk would do."""
    from fakes import picture, vectors_of

    pictures = [picture(b"%d.png" % n, n) for n in range(2000)]
    root = tmp_path / "photos"
    root.mkdir()
    with Store.create(root / FOLDER, root, fake_spec()) as store, store.batch():
        store.add(pictures)
        store.attach("domain", "kept")
    catalog = root / FOLDER / CATALOG
    content = bytearray(catalog.read_bytes())
    start = int(at * len(content)) // 4096 * 4096
    content[start : start + 4096] = b"\xa5" * 4096
    catalog.write_bytes(content)
    with Store.open(root / FOLDER) as store:
        (problem, *_) = verify.verify(store, None, no_encoder, 0)
        assert problem.kind == "catalog"
        with Store.create(tmp_path / "saved", root, store.spec) as saved:
            count = saved.salvage(catalog, pictures=True)
            assert 1500 < count <= 2000
            assert saved.attachment("domain") == "kept"
            assert saved.sqlite_problems() == []
            assert saved.bad_vectors() == []
            truth = vectors_of(pictures)
            known = saved.known()
            assert len(known) == count
            for path, entry in list(known.items())[::50]:
                assert float(saved.vector(entry.id) @ truth[path]) > 0.999


def test_saving_nothing_is_no_crash(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    edit(copy, "DROP TABLE vectors")
    with Store.create(tmp_path / "saved", copy, fake_spec()) as saved:
        assert saved.salvage(copy / FOLDER / CATALOG, pictures=True) == 0
