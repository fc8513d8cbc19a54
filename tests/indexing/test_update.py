"""The whole flow that ``index``, ``watch`` and the Python API share, without the command line."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TINY_CONFIG, make_picture, save_snapshot
from fakes import DecodeHere, FakeEncoder, fake_spec, other_stat
from filelock import FileLock
from small_index import snapshot

from clipsearch.domain import taxonomy
from clipsearch.errors import (
    CollectionGone,
    IndexDamaged,
    IndexLocked,
    IndexNotFound,
    IndexUnreadable,
    UsageError,
)
from clipsearch.indexing import embed
from clipsearch.indexing.changes import IndexSummary
from clipsearch.indexing.update import UpdateOptions, place_of, update
from clipsearch.models.choice import ModelChoice, Notify
from clipsearch.models.load import Encoders
from clipsearch.records import ModelFiles, Scope
from clipsearch.search.answer import answer
from clipsearch.search.query import Query, SearchOptions, Text
from clipsearch.storage import known
from clipsearch.storage.catalog import CATALOG, FOLDER, Store
from clipsearch.storage.collection import Collection
from clipsearch.storage.lock import LOCK


@pytest.fixture(autouse=True)
def decode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "DecodePool", DecodeHere)


def run(
    folder: Path, options: UpdateOptions, notify: Callable[[str], object] = print
) -> tuple[IndexSummary, list[str]]:
    """One update; and what was embedded: images, texts."""
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


def test_pictures_are_searchable_before_the_calibration(
    photos: Path, options: UpdateOptions
) -> None:
    found: list[int] = []

    def encoders(files: ModelFiles) -> Encoders:
        def fake() -> FakeEncoder:
            return FakeEncoder(files.spec.dim)

        def load_text() -> FakeEncoder:  # for the calibration, which begins now
            with Store.open(photos / FOLDER) as store:
                collection = Collection(store)
                assert not collection.is_calibrated
                query = Query((Text("a cat"),))
                hits = answer([collection], query, SearchOptions(k=9), Encoders(fake, fake)).hits
                found.append(len(hits))
            return fake()

        return Encoders(load_text, fake)

    update(photos, options, encoders=encoders)
    assert found == [6]


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
    assert "recovered 6 images from it; the others are embedded again" in said[0]
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
    assert said == [
        f"the index at {tmp_path / 'index'} belonged to {photos}; it now belongs to {moved}"
    ]
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
    with pytest.raises(UsageError, match=f"belongs to {photos}, not to {copy}") as caught:
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
    with pytest.raises(UsageError, match="is inside its own folder"):
        run(tmp_path / "other", replace(options, rehome=True, index=photos / FOLDER))


def test_what_is_missing_stays_unless_pruned(photos: Path, options: UpdateOptions) -> None:
    run(photos, options)
    for path in [*photos.glob("*.*"), *photos.glob("sub/*")]:
        if path.is_file():
            path.unlink()
    with pytest.raises(CollectionGone, match="6 of 6 indexed images are missing"):
        run(photos, options)
    assert run(photos, replace(options, prune=True))[0].removed == 6


def test_what_cannot_be_indexed_is_an_error(
    photos: Path, tmp_path: Path, options: UpdateOptions
) -> None:
    with pytest.raises(UsageError, match="missing does not exist"):
        run(tmp_path / "missing", options)
    run(photos, options)
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="belongs to"):
        run(tmp_path / "other", replace(options, index=photos / FOLDER))
    with FileLock(photos / FOLDER / "writer.lock"), pytest.raises(IndexLocked):
        run(photos, options)


# -- what is kept for later runs -----------------------------------------------------------------


def indexed(folder: Path) -> set[bytes]:
    with Store.open(folder / FOLDER) as store:
        return set(store.known())


def scope(folder: Path) -> Scope:
    with Store.open(folder / FOLDER) as store:
        return store.scope


def test_what_was_excluded_stays_excluded(photos: Path, options: UpdateOptions) -> None:
    run(photos, replace(options, exclude=["sub/"]))
    again, used = run(photos, options)
    assert (again.added, again.unchanged, used) == (0, 4, [])
    assert indexed(photos) == {b"a.png", b"b.jpg", b"c.png", b"d.webp"}
    make_picture(photos / "new.png", 50)
    make_picture(photos / "sub" / "new.png", 51)
    assert run(photos, options)[0].added == 1


def test_another_glob_adds_to_those_that_are_kept(photos: Path, options: UpdateOptions) -> None:
    run(photos, replace(options, exclude=["sub/"]))
    summary, _ = run(photos, replace(options, exclude=["*.webp", "sub/"]))
    assert (summary.removed, scope(photos)) == (1, Scope(("sub/", "*.webp")))
    run(photos, replace(options, exclude=["*.jpg"], no_exclude=True))
    assert scope(photos) == Scope(("*.jpg",))
    assert indexed(photos) == {b"a.png", b"c.png", b"d.webp", b"sub/e.png"}
    run(photos, replace(options, no_exclude=True))
    assert scope(photos) == Scope(())
    assert len(indexed(photos)) == 6


def test_the_limit_of_pixels_is_kept_until_another_is_given(
    photos: Path, options: UpdateOptions
) -> None:
    make_picture(photos / "large.png", 50, size=(60, 50))
    first, _ = run(photos, replace(options, max_pixels=2000))
    assert (first.added, len(first.failed)) == (6, 1)
    make_picture(photos / "large too.png", 51, size=(60, 50))
    again, _ = run(photos, options)
    assert (again.still_failed, [path for path, _ in again.failed]) == (1, [b"large too.png"])
    raised, _ = run(photos, replace(options, max_pixels=4000))
    assert (raised.added, raised.failed, scope(photos)) == (2, [], Scope((), max_pixels=4000))


def test_an_interrupted_first_run_has_kept_what_it_was_told(
    photos: Path, options: UpdateOptions
) -> None:
    def stop(doing: str, done: int, total: int) -> None:
        if doing == "embedding":
            raise KeyboardInterrupt

    mine = replace(taxonomy.load(taxonomy.DEFAULT), name="mine")
    told = replace(options, exclude=["sub/"], max_pixels=4000, domain=mine)
    with pytest.raises(KeyboardInterrupt):
        update(
            photos, told, encoders=lambda files: Encoders(FakeEncoder, FakeEncoder), progress=stop
        )
    run(photos, options)
    assert len(indexed(photos)) == 4
    assert scope(photos) == Scope(("sub/",), 4000)
    with Store.open(photos / FOLDER) as store:
        assert Collection(store).domain.name == "mine"


def test_a_rebuild_keeps_what_is_excluded(photos: Path, options: UpdateOptions) -> None:
    run(photos, replace(options, exclude=["sub/"]))
    summary, _ = run(photos, replace(options, rebuild=True, exclude=["*.webp"]))
    assert (summary.added, scope(photos)) == (3, Scope(("sub/", "*.webp")))


def test_a_folder_that_is_excluded_is_not_indexed_by_its_name(
    photos: Path, options: UpdateOptions
) -> None:
    run(photos, replace(options, exclude=["sub"]))
    with pytest.raises(UsageError, match="sub is excluded from the index of"):
        run(photos / "sub", options)
    assert run(photos / "sub", replace(options, no_exclude=True))[0].added == 2


def test_a_damaged_scope_is_said_again_and_not_taken_for_none(
    photos: Path, options: UpdateOptions
) -> None:
    run(photos, replace(options, exclude=["sub/"]))
    with Store.open_for_writing(photos / FOLDER) as store, store.batch():
        store.attach("scope", '{"exclude": "sub/", "max_pixels": null}')
    with pytest.raises(IndexUnreadable, match="list of excluded files") as caught:
        run(photos, options)
    assert "--no-exclude" in caught.value.hint
    assert len(indexed(photos)) == 4
    run(photos, replace(options, no_exclude=True, exclude=["sub/"]))
    assert (len(indexed(photos)), scope(photos)) == (4, Scope(("sub/",)))


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
