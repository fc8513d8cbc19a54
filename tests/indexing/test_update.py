"""The whole flow that ``index``, ``watch`` and the Python API share, without the command line."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import make_picture
from fakes import DecodeHere, FakeEncoder
from filelock import FileLock

from clipsearch.domain import taxonomy
from clipsearch.errors import CollectionGone, IndexLocked, IndexUnreadable, UsageError
from clipsearch.indexing import embed
from clipsearch.indexing.update import UpdateOptions, update
from clipsearch.models.choice import ModelChoice
from clipsearch.models.load import Encoders
from clipsearch.records import IndexSummary, ModelFiles, Scope
from clipsearch.storage import known
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.storage.collection import Collection


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
    with pytest.raises(IndexUnreadable, match="what is excluded") as caught:
        run(photos, options)
    assert "--no-exclude" in caught.value.hint
    assert len(indexed(photos)) == 4
    run(photos, replace(options, no_exclude=True, exclude=["sub/"]))
    assert (len(indexed(photos)), scope(photos)) == (4, Scope(("sub/",)))
