"""What has settled between two looks, and of what happens in folders one is told."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import make_picture
from fakes import DecodeHere, FakeEncoder, OtherEncoder, fake_spec, rebuild

from clipsearch.errors import ImageError
from clipsearch.images import decode
from clipsearch.indexing import embed, watch
from clipsearch.indexing.changes import IndexSummary, diff
from clipsearch.indexing.update import UpdateOptions
from clipsearch.indexing.watch import Watched, happenings, settled
from clipsearch.models import registry
from clipsearch.models.choice import ModelChoice
from clipsearch.models.load import Encoders
from clipsearch.records import Found, ImageFile, KnownImage, ModelFiles, Scope
from clipsearch.storage.catalog import FOLDER, Store

A, B, C = (ImageFile(name, 10, 1) for name in (b"a.png", b"b.png", b"c.png"))


def known(*files: ImageFile) -> dict[bytes, KnownImage]:
    return {file.path: KnownImage(n, *file[1:3], False) for n, file in enumerate(files)}


def test_what_both_looks_saw_is_taken_as_it_is() -> None:
    found, moving = settled(Found([A, B]), Found([A, B]), known(A))
    assert (found.files, moving) == ([A, B], set())


@pytest.mark.parametrize(
    ("before", "now", "catalog"),
    [
        ([A], [A, B], [A]),  # it has just come
        ([A, B._replace(size=5)], [A, B], [A]),  # it is growing
        ([A, B._replace(mtime_ns=2)], [A, B], [A]),
        ([A, B], [A, B._replace(size=99)], [A, B]),  # it is being written again
        ([A, B], [A], [A, B]),  # it has just gone,
        ([A, B], [A, C], [A, B]),  # or is being renamed, which is told from its content
    ],
)
def test_what_has_not_settled_is_left_as_the_catalog_knows_it(
    before: list[ImageFile], now: list[ImageFile], catalog: list[ImageFile]
) -> None:
    found, moving = settled(Found(before), Found(now), known(*catalog))
    changes = diff(found.files, known(*catalog))
    assert (changes.added, changes.changed, changes.missing) == ([], [], [])
    assert changes.unchanged == len(catalog)
    assert moving == {file.path for file in set(before) ^ set(now)}


def test_folders_that_cannot_be_read_and_links_are_passed_on() -> None:
    seen = Found([A], [(b"locked", "Permission denied")], links=3)
    assert settled(seen, seen, {})[0] == seen


def test_a_rebuild_with_another_model_is_gone_on_with_in_that_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New images are embedded by the model that the index has by then."""
    monkeypatch.setattr(watch, "QUIET_SECONDS", 0)
    monkeypatch.setattr(embed, "DecodePool", DecodeHere)
    monkeypatch.setattr(registry, "locate", lambda spec: ModelFiles(spec, Path("weights")))
    towers: dict[str, FakeEncoder] = {"fake": FakeEncoder(), "other": OtherEncoder()}

    def encoders(choice: ModelChoice, files: ModelFiles) -> Encoders:
        tower = towers[files.spec.name]
        return Encoders(lambda: tower, lambda: tower)

    monkeypatch.setattr(ModelChoice, "encoders", encoders)
    monkeypatch.setattr(watch, "load_text_encoder", lambda files, load: load())
    root = tmp_path / "photos"
    root.mkdir()
    make_picture(root / "0.png", 0)
    Store.create(root / FOLDER, root, fake_spec()).close()
    watched = Watched(root, UpdateOptions())
    kept = watch._kept_encoders(ModelChoice(), lambda _: None)

    def look() -> IndexSummary | None:
        return watched.look_again(kept, pytest.fail, watch._no_bar)[0]

    assert look() is not None
    rebuild(root / FOLDER, fake_spec(fingerprint="e" * 64, name="other"), OtherEncoder())
    make_picture(root / "1.png", 1)
    summary = look()
    assert summary is not None
    assert (summary.added, summary.unchanged) == (1, 1)
    assert (towers["fake"].pictures, towers["other"].pictures) == (1, 1)


def next_of(told: Iterator[set[Path]], folder: Path) -> None:
    """Wait until ``folder`` and no other is told of."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        happened = next(told)
        if happened:
            assert happened == {folder}
            while next(told):  # the system may tell of one thing several times
                pass
            return
    raise AssertionError(f"nothing was told of {folder}")


@pytest.mark.process
@pytest.mark.parametrize("poll", [None, 0.2])
def test_what_happens_to_pictures_is_told_and_nothing_else(
    tmp_path: Path, poll: float | None
) -> None:
    pytest.importorskip("watchfiles")
    one, two, index = tmp_path / "one", tmp_path / "two", tmp_path / "one" / "index"
    for folder in (one, two, index, one / ".clipsearch"):
        folder.mkdir()
    told = happenings([one, two], [index], poll)
    assert next(told) == {one, two}  # for what was before
    make_picture(one / "a.png")
    next_of(told, one)
    for name in ("one/text.txt", "one/.clipsearch/b.png", "one/index/c.png", "one/.hidden.png"):
        (tmp_path / name).write_bytes(b"no picture of ours")
    make_picture(two / "d.PNG")
    next_of(told, two)
    (two / "d.PNG").unlink()
    next_of(told, two)


@pytest.mark.process
def test_a_folder_that_was_away_is_told_of_when_it_is_back(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles")
    root = tmp_path / "photos"
    root.mkdir()
    told = happenings([root], [], None)
    assert next(told) == {root}
    root.rename(tmp_path / "away")
    next_of(told, root)
    (tmp_path / "away").rename(root)
    next_of(told, root)
    make_picture(root / "a.png")
    next_of(told, root)


# -- a watched folder ----------------------------------------------------------------------------


@pytest.fixture
def look(
    photos: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, shared_cache: None
) -> Callable[[], IndexSummary]:
    """One update after another of six images, without those in ``sub``."""
    monkeypatch.setattr(watch, "QUIET_SECONDS", 0)
    monkeypatch.setattr(embed, "DecodePool", DecodeHere)
    options = UpdateOptions(ModelChoice(str(tiny_model), offline=True), exclude=["sub/"])
    watched = Watched(photos, options)

    def encoders(files: ModelFiles) -> Encoders:
        return Encoders(lambda: FakeEncoder(files.spec.dim), lambda: FakeEncoder(files.spec.dim))

    def once() -> IndexSummary:
        summary, more = watched.look_again(encoders, lambda message: None, watch._no_bar)
        assert summary is not None
        assert not more
        return summary

    return once


def test_a_watched_folder_keeps_to_what_is_excluded_now(
    look: Callable[[], IndexSummary], photos: Path
) -> None:
    assert look().added == 4
    make_picture(photos / "sub" / "new.png", 50)
    assert (look().added, look().unchanged) == (0, 4)
    with Store.open_for_writing(photos / FOLDER) as store, store.batch():
        store.set_scope(Scope(("*.webp",)))  # as another run of index leaves it
    summary = look()
    assert (summary.added, summary.removed) == (3, 1)
    with Store.open(photos / FOLDER) as store:
        assert store.scope == Scope(("*.webp",))


def test_what_failed_is_not_tried_again_with_every_change(
    look: Callable[[], IndexSummary], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(path: bytes, *_: object) -> None:
        raise ImageError("the decoder crashed on it", kind="crash")

    monkeypatch.setattr(decode, "decode", crash)
    first, second = look(), look()
    assert (len(first.failed), first.waiting) == (4, 4)
    assert (second.failed, second.still_failed, second.waiting) == ([], 4, 4)
