"""The whole flow that ``index``, ``watch`` and the Python API share, without the command line."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TINY_CONFIG, make_picture, save_snapshot
from fakes import DecodeHere, FakeEncoder
from filelock import FileLock

from clipsearch.domain import taxonomy
from clipsearch.errors import CollectionGone, IndexDamaged, IndexLocked, IndexNotFound, UsageError
from clipsearch.indexing import embed
from clipsearch.indexing.update import UpdateOptions, update
from clipsearch.models.choice import ModelChoice
from clipsearch.models.load import Encoders
from clipsearch.records import IndexSummary, ModelFiles
from clipsearch.storage import known
from clipsearch.storage.catalog import CATALOG, FOLDER, Store
from clipsearch.storage.collection import Collection


@pytest.fixture(autouse=True)
def decode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "DecodePool", DecodeHere)


def run(
    folder: Path, options: UpdateOptions, notify: Callable[[str], object] = print
) -> tuple[IndexSummary, list[str]]:
    """One update; and what was embedded: pictures, texts."""
    used: list[str] = []

    def encoders(files: ModelFiles) -> Encoders:
        def load(what: str) -> FakeEncoder:
            used.append(what)
            return FakeEncoder(files.spec.dim)

        return Encoders(lambda: load("texts"), lambda: load("pictures"))

    return update(folder, options, encoders=encoders, notify=notify), used


@pytest.fixture
def options(tiny_model: Path) -> UpdateOptions:
    return UpdateOptions(ModelChoice(str(tiny_model), offline=True))


def test_a_folder_is_indexed_and_calibrated(photos: Path, options: UpdateOptions) -> None:
    summary, used = run(photos, options)
    assert (summary.added, sorted(used)) == (6, ["pictures", "texts"])
    assert known.remembered() == {photos / FOLDER: photos}
    with Store.open(photos / FOLDER) as store:
        assert store.count() == 6
        assert not store.vector_file_problem()
        assert Collection(store).false_alarms("text") is not None
    again, used = run(photos, options)
    assert (again.unchanged, again.embedded, used) == (6, 0, [])


def test_a_subfolder_updates_the_index_that_holds_it(photos: Path, options: UpdateOptions) -> None:
    run(photos, options)
    make_picture(photos / "new.png", 50)
    make_picture(photos / "sub" / "new.png", 51)
    summary, _ = run(photos / "sub", options)
    assert (summary.added, summary.unchanged) == (1, 2)
    assert not (photos / "sub" / FOLDER).exists()


def test_a_rebuild_keeps_what_it_cannot_make_again(photos: Path, options: UpdateOptions) -> None:
    everyday = taxonomy.load(taxonomy.DEFAULT)
    run(photos, replace(options, domain=replace(everyday, name="mine")))
    with Store.open_for_writing(photos / FOLDER) as store, store.batch():
        store.attach("probe:x", b"kept")
    summary, _ = run(photos, replace(options, rebuild=True))
    assert (summary.added, summary.unchanged) == (6, 0)
    with Store.open(photos / FOLDER) as store:
        assert Collection(store).domain.name == "mine"
        assert store.attachment("probe:x") == b"kept"


def test_a_rebuild_saves_what_can_be_read_of_a_damaged_catalog(
    photos: Path, options: UpdateOptions, tmp_path: Path
) -> None:
    def damage() -> bytes:
        with sqlite3.connect(catalog) as db:
            db.execute("DELETE FROM meta WHERE key = 'created_at'")
        db.close()
        return catalog.read_bytes()

    run(photos, options)
    catalog = photos / FOLDER / CATALOG
    damaged = damage()
    with pytest.raises(IndexDamaged) as caught:
        run(photos, options)
    assert "clipsearch index FOLDER --rebuild" in caught.value.hint
    assert catalog.read_bytes() == damaged

    (photos / "a.png").unlink()
    make_picture(photos / "new.png", 50)
    said: list[str] = []
    summary, used = run(photos, replace(options, rebuild=True), said.append)
    assert (summary.unchanged, summary.embedded, used) == (5, 1, ["pictures"])
    assert "6 pictures were saved from it, and the others are embedded again" in said[0]
    assert (photos / FOLDER / "catalog.damaged-1.sqlite3").read_bytes() == damaged
    with Store.open(photos / FOLDER) as store:
        assert (store.root, store.sqlite_problems(), store.bad_vectors()) == (photos, [], [])

    damage()
    other = ModelChoice(str(save_snapshot(tmp_path / "other", TINY_CONFIG, 1)), offline=True)
    summary, _ = run(photos, replace(options, model=other, rebuild=True))
    assert summary.embedded == 6


@pytest.mark.parametrize("named", [True, False])
def test_a_moved_folder_keeps_its_index_that_lies_elsewhere(
    photos: Path, tmp_path: Path, options: UpdateOptions, named: bool
) -> None:
    index = tmp_path / "index" if named else None  # it is remembered
    options = replace(options, index=tmp_path / "index")
    run(photos, options)
    moved, said = tmp_path / "moved", list[str]()
    photos.rename(moved)
    summary, used = run(moved, replace(options, index=index), said.append)
    assert (summary.unchanged, summary.embedded, used) == (6, 0, [])
    assert said == [f"the index at {tmp_path / 'index'} was of {photos}, and is now of {moved}"]
    assert not (moved / FOLDER).exists()
    assert known.remembered() == {tmp_path / "index": moved}
    with Store.open(tmp_path / "index") as store:
        assert store.root == moved


def test_another_folder_takes_an_index_over_only_if_asked(
    photos: Path, tmp_path: Path, options: UpdateOptions
) -> None:
    options = replace(options, index=tmp_path / "index")
    run(photos, options)
    copy = Path(shutil.copytree(photos, tmp_path / "copy"))
    with pytest.raises(UsageError, match=f"is that of {photos}, not of {copy}") as caught:
        run(copy, options)
    assert "--rehome" in caught.value.hint
    photos.rename(tmp_path / "away")
    for n, name in enumerate(["b.jpg", "sub/f.jpg"]):
        make_picture(copy / name, 90 + n)
    with pytest.raises(UsageError, match=r"which is gone, and .* does not have the same") as caught:
        run(copy, options)
    assert "--rehome" in caught.value.hint
    with Store.open(tmp_path / "index") as store:
        assert store.root == photos
    summary, _ = run(copy, replace(options, rehome=True))
    assert (summary.unchanged, summary.embedded) == (4, 2)


def test_a_folder_that_may_not_be_read_is_said_to_be_so_before_an_index_is_made(
    photos: Path, options: UpdateOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shut(path: object) -> None:  # root may read everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", shut)
    with pytest.raises(UsageError, match=f"cannot read the folder {photos}: Permission") as caught:
        run(photos, options)
    assert "Check its permissions" in caught.value.hint
    assert not (photos / FOLDER).exists()


def test_what_cannot_be_rehomed_is_an_error(
    photos: Path, tmp_path: Path, options: UpdateOptions
) -> None:
    with pytest.raises(UsageError, match="needs --index DIR"):
        run(photos, replace(options, rehome=True))
    with pytest.raises(IndexNotFound):
        run(photos, replace(options, rehome=True, index=tmp_path / "index"))
    run(photos, options)
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="lies in its own folder"):
        run(tmp_path / "other", replace(options, rehome=True, index=photos / FOLDER))


def test_what_is_missing_stays_unless_pruned(photos: Path, options: UpdateOptions) -> None:
    run(photos, options)
    for path in [*photos.glob("*.*"), *photos.glob("sub/*")]:
        if path.is_file():
            path.unlink()
    with pytest.raises(CollectionGone, match="6 of 6 indexed pictures are missing"):
        run(photos, options)
    assert run(photos, replace(options, prune=True))[0].removed == 6


def test_what_cannot_be_indexed_is_an_error(
    photos: Path, tmp_path: Path, options: UpdateOptions
) -> None:
    with pytest.raises(UsageError, match="missing does not exist"):
        run(tmp_path / "missing", options)
    run(photos, options)
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="is that of"):
        run(tmp_path / "other", replace(options, index=photos / FOLDER))
    with FileLock(photos / FOLDER / "writer.lock"), pytest.raises(IndexLocked):
        run(photos, options)
