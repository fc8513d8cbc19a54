"""The whole flow that ``index``, ``watch`` and the Python API share, without the command line."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import make_picture
from fakes import DecodeHere, FakeEncoder, fake_spec, other_stat
from filelock import FileLock
from small_index import snapshot

from clipsearch.domain import taxonomy
from clipsearch.errors import CollectionGone, IndexLocked, UsageError
from clipsearch.indexing import embed
from clipsearch.indexing.update import UpdateOptions, place_of, update
from clipsearch.models.choice import ModelChoice, Notify
from clipsearch.models.load import Encoders
from clipsearch.records import IndexSummary, ModelFiles
from clipsearch.storage import known
from clipsearch.storage.catalog import CATALOG, FOLDER, Store
from clipsearch.storage.collection import Collection
from clipsearch.storage.lock import LOCK


@pytest.fixture(autouse=True)
def decode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "DecodePool", DecodeHere)


def run(folder: Path, options: UpdateOptions) -> tuple[IndexSummary, list[str]]:
    """One update; and what was embedded: pictures, texts."""
    used: list[str] = []

    def encoders(files: ModelFiles) -> Encoders:
        def load(what: str) -> FakeEncoder:
            used.append(what)
            return FakeEncoder(files.spec.dim)

        return Encoders(lambda: load("texts"), lambda: load("pictures"))

    return update(folder, options, encoders=encoders), used


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


# -- two first runs at once ------------------------------------------------------------------------


def test_an_index_that_another_first_run_has_made_meanwhile_is_brought_up_to_date(
    photos: Path, options: UpdateOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ModelChoice.files

    def slowly(choice: ModelChoice, notify: Notify) -> ModelFiles:
        monkeypatch.undo()
        monkeypatch.setattr(embed, "DecodePool", DecodeHere)
        assert run(photos, options)[0].added == 6  # while the first run finds its model
        return files(choice, notify)

    monkeypatch.setattr(ModelChoice, "files", slowly)
    summary, _ = run(photos, options)
    assert (summary.added, summary.unchanged) == (0, 6)


def test_the_second_first_run_is_told_of_the_first_or_waits_for_it(
    photos: Path, options: UpdateOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first holds the lock already, and has committed nothing yet."""
    (photos / FOLDER).mkdir()
    (photos / FOLDER / CATALOG).touch()
    first = FileLock(photos / FOLDER / LOCK)
    first.acquire()
    with pytest.raises(IndexLocked, match="another clipsearch is writing"):
        run(photos, options)
    told: list[str] = []

    def notify(message: str) -> None:
        told.append(message)
        first.release()
        run(photos, options)

    encoders = Encoders(lambda: FakeEncoder(32), lambda: FakeEncoder(32))
    done = update(photos, replace(options, wait=True), encoders=lambda _: encoders, notify=notify)
    assert (done.added, done.unchanged) == (0, 6)
    assert len(told) == 1
    assert told[0].endswith("; waiting for it")


# -- somebody else's index -------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users of that kind there")
def test_nothing_is_written_to_somebody_elses_index_above(
    photos: Path, options: UpdateOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As anybody could put one into /tmp."""
    Store.create(tmp_path / FOLDER, tmp_path, fake_spec()).close()
    before = snapshot(tmp_path / FOLDER)
    lstat = os.lstat

    def strangers(path: Path) -> os.stat_result:
        found = lstat(path)
        above = os.fspath(path) == os.fspath(tmp_path / FOLDER)
        return other_stat(found, uid=4242) if above else found

    monkeypatch.setattr(os, "lstat", strangers)
    assert run(photos, options)[0].added == 6
    assert Store.exists(photos / FOLDER)
    assert snapshot(tmp_path / FOLDER) == before
    assert place_of(tmp_path, None) == tmp_path / FOLDER  # the very folder that was named
