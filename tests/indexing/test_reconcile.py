"""A store follows its folder, and embeds as little as possible on the way."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import make_picture
from fakes import (
    DecodeHere,
    FakeEncoder,
    assert_exact,
    fake_spec,
    forget_origins,
    half,
    picture,
    unit,
    unsynchronised,
)
from PIL import Image

from clipsearch.domain import taxonomy
from clipsearch.errors import (
    BadCheckpoint,
    CollectionGone,
    FailureKind,
    ImageError,
    WeightsNotFound,
)
from clipsearch.images import decode as decoding
from clipsearch.images import scan
from clipsearch.images.decode import decode, read_origin
from clipsearch.images.limits import Limits
from clipsearch.images.pool import DecodePool
from clipsearch.indexing import embed
from clipsearch.indexing import reconcile as room
from clipsearch.indexing.changes import IndexSummary
from clipsearch.indexing.reconcile import reconcile
from clipsearch.records import Encoder, Found, ImageFile, Origin, Preprocessing, Scope, Vectors
from clipsearch.storage.catalog import CATALOG, FOLDER, Store
from clipsearch.storage.vectors.embeddings import VECTORS


@pytest.fixture(autouse=True)
def decode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting processes takes longer than all else here; one test below does it."""
    for module in (embed, room):
        monkeypatch.setattr(module, "DecodePool", DecodeHere)


def no_encoder() -> Encoder:
    raise AssertionError("there is nothing to embed")


class Collection:
    """A folder of real images, its index, and what is true of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / FOLDER
        Store.create(self.directory, root, fake_spec()).close()
        self.encoder = FakeEncoder()

    def find(self, under: bytes = b"") -> Found:
        return scan.find(os.fsencode(self.root), under=under)

    def index(
        self,
        load_encoder: Callable[[], Encoder] | None = None,
        *,
        found: Found | None = None,
        under: bytes = b"",
        prune: bool = False,
        scope: Scope | None = None,
        try_failed: bool = True,
    ) -> IndexSummary:
        """One run; what it embeds is counted again. scope: kept from now on."""
        self.encoder.batches.clear()
        load = load_encoder or (lambda: self.encoder)
        with unsynchronised(Store.open_for_writing(self.directory)) as store:
            if scope is not None:
                with store.batch():
                    store.set_scope(scope)
            found = found or scan.find(
                os.fsencode(self.root),
                exclude=store.scope.exclude,
                under=under,
                listed=store.listings(under),
            )
            return reconcile(store, found, load, under=under, prune=prune, try_failed=try_failed)

    def index_without_model(self, **options: bytes) -> IndexSummary:
        """One run that must not need the model."""
        summary = self.index(no_encoder, **options)
        assert summary.embedded == 0
        return summary

    def truth(self, *failed: bytes) -> dict[bytes, Vectors]:
        """The vector that each image on disk should have, by decoding and embedding it."""
        vectors = {}
        for file in self.find().files:
            if file.path in failed:
                continue
            path = os.path.join(os.fsencode(self.root), file.path)
            pixels = decode(path, fake_spec().preprocessing).pixels
            vectors[file.path] = FakeEncoder().encode_images(pixels[np.newaxis])[0]
        return vectors

    def check(self, *failed: bytes) -> None:
        """The index says what is true: of each file its own vector, and nothing of any other."""
        files = {file.path: file for file in self.find().files if file.path not in failed}
        with Store.open(self.directory) as store:
            known = store.known()
            assert {path for path, entry in known.items() if entry.failed} == set(failed)
            assert set(known) - set(failed) == set(files)
            truth = self.truth(*failed)
            for path, file in files.items():
                assert (known[path].size, known[path].mtime_ns) == (file.size, file.mtime_ns)
                np.testing.assert_array_equal(store.vector(known[path].id), half(truth[path]))
            assert_exact(store.search(unit(1), 10), truth, unit(1), 10)
            assert not store.damage

    def add(self, name: str, seed: int) -> Path:
        """A new image, or another one in its place, with a time of its own."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_picture(path, seed)
        later(path, seed)
        return path


def later(path: Path, seconds: int) -> None:
    """Give a file a time of its own: two writes can fall into one tick of the system's clock."""
    os.utime(path, ns=(0, 1_600_000_000_000_000_000 + seconds * 1_000_000_000))


@pytest.fixture
def collection(photos: Path) -> Collection:
    """Six images, not yet indexed."""
    return Collection(photos)


@pytest.fixture
def indexed(collection: Collection) -> Collection:
    """Six images, indexed."""
    collection.index()
    return collection


def counts(summary: IndexSummary) -> dict[str, int]:
    """All counts that are not zero."""
    numbers = {
        name: getattr(summary, name)
        for name in ("added", "changed", "moved", "removed", "unchanged")
    }
    numbers |= {"still_failed": summary.still_failed, "waiting": summary.waiting}
    numbers |= {"embedded": summary.embedded}
    numbers |= {"failed": len(summary.failed), "unreadable": len(summary.unreadable)}
    return {name: number for name, number in numbers.items() if number}


# -- one run after another -----------------------------------------------------------------------


def test_the_first_run_embeds_every_picture(collection: Collection) -> None:
    assert counts(collection.index()) == {"added": 6, "embedded": 6}
    collection.check()


def test_the_second_run_needs_no_model_and_writes_nothing(indexed: Collection) -> None:
    before = {name: (indexed.directory / name).read_bytes() for name in (CATALOG, VECTORS)}
    assert counts(indexed.index_without_model()) == {"unchanged": 6}
    for name, content in before.items():
        assert (indexed.directory / name).read_bytes() == content


def test_a_folder_without_pictures_is_indexed_well(tmp_path: Path) -> None:
    empty = Collection(tmp_path)
    assert counts(empty.index_without_model()) == {}
    empty.check()


def test_an_added_file_is_embedded_alone(indexed: Collection) -> None:
    indexed.add("sub/new.png", 50)
    assert counts(indexed.index()) == {"added": 1, "embedded": 1, "unchanged": 6}
    indexed.check()


def test_a_changed_file_gets_its_new_vector(indexed: Collection) -> None:
    indexed.add("a.png", 51)
    assert counts(indexed.index()) == {"changed": 1, "embedded": 1, "unchanged": 5}
    indexed.check()


def test_a_changed_file_of_the_same_size_gets_its_new_vector(indexed: Collection) -> None:
    bitmap = indexed.add("a.bmp", 52)
    indexed.index()
    size = bitmap.stat().st_size
    indexed.add("a.bmp", 53)
    assert bitmap.stat().st_size == size
    assert counts(indexed.index()) == {"changed": 1, "embedded": 1, "unchanged": 6}
    indexed.check()


def test_a_touched_file_is_not_embedded_again(indexed: Collection) -> None:
    later(indexed.root / "a.png", 1)
    assert counts(indexed.index_without_model()) == {"unchanged": 6}
    indexed.check()
    indexed.index_without_model()


@pytest.mark.parametrize("new", ["z.png", "sub/a.png", "fresh/folder/a.png", "a.jpeg"])
def test_a_moved_file_is_not_embedded_again(indexed: Collection, new: str) -> None:
    (indexed.root / new).parent.mkdir(parents=True, exist_ok=True)
    (indexed.root / "a.png").rename(indexed.root / new)
    assert counts(indexed.index_without_model()) == {"moved": 1, "unchanged": 5}
    indexed.check()


def test_a_file_that_is_moved_onto_another_is_not_embedded_again(indexed: Collection) -> None:
    later(indexed.root / "a.png", 1)
    (indexed.root / "a.png").replace(indexed.root / "c.png")
    assert counts(indexed.index_without_model()) == {"moved": 1, "unchanged": 4}
    indexed.check()


def test_a_copied_file_is_not_embedded_again(indexed: Collection) -> None:
    shutil.copy(indexed.root / "a.png", indexed.root / "sub" / "copy.png")
    assert counts(indexed.index_without_model()) == {"added": 1, "unchanged": 6}
    indexed.check()


def test_a_file_that_is_copied_over_another_is_not_embedded_again(indexed: Collection) -> None:
    shutil.copy(indexed.root / "a.png", indexed.root / "c.png")
    later(indexed.root / "c.png", 1)
    assert counts(indexed.index_without_model()) == {"changed": 1, "unchanged": 5}
    indexed.check()


def test_a_deleted_file_is_forgotten(indexed: Collection) -> None:
    (indexed.root / "a.png").unlink()
    assert counts(indexed.index_without_model()) == {"removed": 1, "unchanged": 5}
    indexed.check()


def test_a_file_that_returns_is_found_again(indexed: Collection) -> None:
    content = (indexed.root / "a.png").read_bytes()
    (indexed.root / "a.png").unlink()
    indexed.index()
    (indexed.root / "a.png").write_bytes(content)
    assert counts(indexed.index()) == {"added": 1, "embedded": 1, "unchanged": 5}
    indexed.check()


@pytest.mark.parametrize("together", [True, False])
def test_two_identical_files_are_both_found(collection: Collection, together: bool) -> None:
    if not together:
        collection.index()
    shutil.copy(collection.root / "a.png", collection.root / "sub" / "same.png")
    collection.index()
    collection.check()
    with Store.open(collection.directory) as store:
        first, second = store.search(collection.truth()[b"a.png"], 2)
    assert {first.path, second.path} == {b"a.png", b"sub/same.png"}
    assert first.score == pytest.approx(second.score, abs=1e-6)


def test_swapped_names_get_swapped_vectors(collection: Collection) -> None:
    first, second = collection.add("a.png", 60), collection.add("c.png", 61)
    collection.index()
    first.rename(collection.root / "x")
    second.rename(first)
    (collection.root / "x").rename(second)
    collection.index()
    assert collection.encoder.pictures <= 1
    collection.check()


def test_names_that_all_move_on_by_one_keep_their_pictures(tmp_path: Path) -> None:
    chain = Collection(tmp_path)
    paths = [chain.add(f"IMG_{n}.png", 70 + n) for n in range(6)]
    chain.index()
    for path, onto in reversed(list(zip(paths, [*paths[1:], tmp_path / "IMG_6.png"], strict=True))):
        path.rename(onto)
    chain.add("IMG_0.png", 99)
    chain.index()
    chain.check()


def test_a_renamed_folder_is_embedded_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_FILES_PER_COMMIT", 25)
    many = Collection(tmp_path)
    for n in range(60):
        many.add(f"old/{n}.png", n)
    shutil.copy(tmp_path / "old" / "7.png", tmp_path / "old" / "same.png")
    many.index()
    (tmp_path / "old").rename(tmp_path / "new")
    assert counts(many.index_without_model()) == {"moved": 61}
    many.check()


def test_many_changes_at_once(indexed: Collection) -> None:
    root = indexed.root
    indexed.add("new.png", 80)
    indexed.add("a.png", 81)
    later(root / "b.jpg", 2)
    (root / "c.png").rename(root / "moved.png")
    (root / "d.webp").unlink()
    shutil.copy(root / "sub" / "e.png", root / "copy.png")
    summary = indexed.index()
    assert (summary.added, summary.changed, summary.moved, summary.removed) == (2, 1, 1, 1)
    assert (summary.unchanged, summary.embedded, summary.failed) == (3, 2, [])
    indexed.check()
    assert counts(indexed.index_without_model()) == {"unchanged": 7}


def test_the_decoders_own_processes_do_the_same(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "DecodePool", DecodePool)
    (collection.root / "bad.png").write_bytes(b"not a picture")
    summary = collection.index()
    assert counts(summary) == {"added": 6, "embedded": 6, "failed": 1}
    collection.check(b"bad.png")


# -- images of an older index ------------------------------------------------------------------


@pytest.fixture
def older(indexed: Collection) -> Collection:
    """Six indexed images, two with a camera, in an index of schema version 2."""
    for name in ("a.png", "b.jpg"):
        exif = Image.Exif()
        exif[0x0110] = f"Camera of {name}"
        exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0), 3: "W", 4: (4.0, 5.0, 6.0)})
        Image.open(indexed.root / name).save(indexed.root / name, exif=exif)
    indexed.index()
    with closing(sqlite3.connect(indexed.directory / CATALOG)) as catalog, catalog:
        forget_origins(catalog)
    return indexed


def cameras(collection: Collection) -> dict[bytes, str | None]:
    with Store.open(collection.directory) as store:
        hits = store.search(unit(1), 20)
    for hit in hits:
        there = pytest.approx((1.034167, -4.085), abs=1e-6) if hit.camera else (None, None)
        assert (hit.latitude, hit.longitude) == there
    return {hit.path: hit.camera for hit in hits if hit.camera}


BOTH = {b"a.png": "Camera of a.png", b"b.jpg": "Camera of b.jpg"}


def reads(monkeypatch: pytest.MonkeyPatch, last: int = 1000) -> list[bytes]:
    """The names of the headers that are read from now on; after ``last`` of them Ctrl-C comes."""
    names: list[bytes] = []

    def read(path: bytes) -> Origin:
        names.append(os.path.basename(path))
        if len(names) > last:
            raise KeyboardInterrupt
        return read_origin(path)

    monkeypatch.setattr(decoding, "read_origin", read)
    return names


def test_cameras_and_places_are_read_once_and_nothing_is_embedded(
    older: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cameras(older) == {}
    names = reads(monkeypatch)
    summary = older.index_without_model()
    assert (summary.unchanged, summary.looked_at, len(names)) == (6, 6, 6)
    assert cameras(older) == BOTH
    older.check()
    before = (older.directory / CATALOG).read_bytes()
    assert older.index_without_model().looked_at == 0
    assert len(names) == 6  # those without EXIF are not looked at again
    assert (older.directory / CATALOG).read_bytes() == before


def test_what_was_read_before_a_kill_is_kept(
    older: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_FILES_PER_COMMIT", 2)
    monkeypatch.setattr(room, "_READERS", 1)
    with monkeypatch.context() as patched:
        reads(patched, last=4)
        with pytest.raises(KeyboardInterrupt):
            older.index_without_model()
    with Store.open(older.directory) as store:
        assert store.unseen() == 2
    names = reads(monkeypatch)
    assert older.index_without_model().looked_at == 2
    assert sorted(names) == [b"e.png", b"f.jpg"]
    assert cameras(older) == BOTH


def test_moved_copied_and_changed_pictures_of_an_older_index_are_read_too(
    older: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    (older.root / "a.png").rename(older.root / "moved.png")
    shutil.copy(older.root / "b.jpg", older.root / "copy.jpg")
    older.add("c.png", 90)
    (older.root / "d.webp").unlink()
    names = reads(monkeypatch)
    summary = older.index()
    assert (summary.moved, summary.added, summary.changed, summary.removed) == (1, 1, 1, 1)
    assert sorted(names) == [b"b.jpg", b"copy.jpg", b"e.png", b"f.jpg", b"moved.png"]
    expected = {b"moved.png": "a.png", b"b.jpg": "b.jpg", b"copy.jpg": "b.jpg"}
    assert cameras(older) == {path: f"Camera of {name}" for path, name in expected.items()}
    older.check()
    older.index_without_model()
    assert len(names) == 5


def test_only_the_part_that_is_indexed_is_looked_at(
    older: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = reads(monkeypatch)
    assert older.index_without_model(under=b"sub").looked_at == 2
    assert older.index_without_model().looked_at == 4
    assert len(names) == 6


def test_a_picture_that_cannot_be_read_is_looked_at_the_next_time(
    older: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_one(path: bytes) -> Origin:
        if path.endswith(b"a.png"):
            raise PermissionError(path)
        return read_origin(path)

    with monkeypatch.context() as patched:
        patched.setattr(decoding, "read_origin", refuse_one)
        assert older.index_without_model().looked_at == 5
    assert older.index_without_model().looked_at == 1
    assert cameras(older) == BOTH


def test_a_copy_has_its_originals_camera(indexed: Collection) -> None:
    exif = Image.Exif()
    exif[0x0110] = "M10"
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0), 3: "W", 4: (4.0, 5.0, 6.0)})
    Image.open(indexed.root / "a.png").save(indexed.root / "a.png", exif=exif)
    indexed.index()
    shutil.copy(indexed.root / "a.png", indexed.root / "copy.png")
    indexed.index_without_model()
    assert cameras(indexed) == {b"a.png": "M10", b"copy.png": "M10"}


# -- files that are no images ------------------------------------------------------------------


def test_a_failed_file_is_remembered_with_its_reason_and_not_tried_again(
    collection: Collection,
) -> None:
    (collection.root / "bad.png").write_bytes(b"not a picture")
    (collection.root / "empty.jpg").write_bytes(b"")
    summary = collection.index()
    assert counts(summary) == {"added": 6, "embedded": 6, "failed": 2}
    assert dict(summary.failed)[b"empty.jpg"] == "the file is empty"
    collection.check(b"bad.png", b"empty.jpg")
    with Store.open(collection.directory) as store:
        assert store.status().failed == sorted(summary.failed)
    assert counts(collection.index_without_model()) == {"unchanged": 6, "still_failed": 2}


def test_a_failed_file_that_changes_is_tried_again(collection: Collection) -> None:
    (collection.root / "bad.png").write_bytes(b"not a picture")
    collection.index()
    (collection.root / "bad.png").write_bytes(b"still no picture")
    assert counts(collection.index()) == {"unchanged": 6, "failed": 1}
    collection.add("bad.png", 90)
    assert counts(collection.index()) == {"changed": 1, "embedded": 1, "unchanged": 6}
    collection.check()


@pytest.fixture
def unlucky(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> list[FailureKind]:
    """What the decoder of ``a.png`` does next, as long as the list has something; it is indexed."""
    ahead: list[FailureKind] = []

    def decode_or_fail(path: bytes, prepared: Preprocessing, limit: int | None) -> object:
        if path.endswith(b"a.png") and ahead:
            raise ImageError("out of luck", kind=ahead.pop(0))
        return decode(path, prepared, limit)

    monkeypatch.setattr(decoding, "decode", decode_or_fail)
    return ahead


@pytest.mark.parametrize("kind", ["time", "crash", "memory"])
def test_a_picture_that_failed_by_chance_is_decoded_by_the_next_run(
    collection: Collection, unlucky: list[FailureKind], kind: FailureKind
) -> None:
    unlucky.append(kind)
    summary = collection.index()
    assert counts(summary) == {"added": 5, "embedded": 5, "failed": 1, "waiting": 1}
    collection.check(b"a.png")
    assert counts(collection.index()) == {"added": 1, "embedded": 1, "unchanged": 5}
    collection.check()


def test_a_picture_that_fails_each_time_costs_three_runs_and_no_more(
    collection: Collection, unlucky: list[FailureKind]
) -> None:
    unlucky += ["crash", "time", "crash", "crash"]
    tried = [counts(collection.index()) for _ in range(4)]
    assert tried[0] == {"added": 5, "embedded": 5, "failed": 1, "waiting": 1}
    assert tried[1] == {"unchanged": 5, "failed": 1, "waiting": 1}
    assert tried[2] == {"unchanged": 5, "failed": 1}
    assert tried[3] == {"unchanged": 5, "still_failed": 1}
    assert len(unlucky) == 1
    later(collection.root / "a.png", 1)  # another file, as far as one can tell
    assert counts(collection.index()) == {"unchanged": 5, "failed": 1, "waiting": 1}


def test_what_is_not_to_be_tried_again_now_waits(
    collection: Collection, unlucky: list[FailureKind]
) -> None:
    unlucky += ["crash", "crash"]
    collection.index()
    summary = collection.index(no_encoder, try_failed=False)
    assert counts(summary) == {"unchanged": 5, "still_failed": 1, "waiting": 1}
    assert len(unlucky) == 1


def test_a_picture_that_was_too_large_is_decoded_under_a_higher_limit(
    collection: Collection,
) -> None:
    collection.index(scope=Scope((), max_pixels=48 * 40 - 1))
    assert counts(collection.index_without_model()) == {"still_failed": 6}
    assert counts(collection.index(scope=Scope((), max_pixels=100))) == {"still_failed": 6}
    assert counts(collection.index(scope=Scope((), max_pixels=48 * 40))) == {
        "added": 6,
        "embedded": 6,
    }
    collection.check()


def test_what_cannot_be_read_is_tried_once_by_each_version_of_the_decoders(
    collection: Collection, unlucky: list[FailureKind], monkeypatch: pytest.MonkeyPatch
) -> None:
    unlucky += ["content", "content"]
    collection.index()
    collection.index_without_model()
    newer = Limits(10**8, "pillow 99")
    monkeypatch.setattr(Limits, "here", lambda max_pixels=None: newer)
    assert counts(collection.index()) == {"unchanged": 5, "failed": 1}
    assert counts(collection.index_without_model()) == {"unchanged": 5, "still_failed": 1}
    monkeypatch.setattr(Limits, "here", lambda max_pixels=None: Limits(10**8, "pillow 100"))
    assert counts(collection.index()) == {"added": 1, "embedded": 1, "unchanged": 5}


def test_a_failure_that_an_earlier_version_did_not_explain_is_tried_once(
    collection: Collection,
) -> None:
    (collection.root / "bad.png").write_bytes(b"not a picture")
    collection.index()
    with closing(sqlite3.connect(collection.directory / CATALOG)) as catalog, catalog:
        catalog.execute("UPDATE images SET failure = NULL")
    assert counts(collection.index()) == {"unchanged": 6, "failed": 1}
    assert counts(collection.index_without_model()) == {"unchanged": 6, "still_failed": 1}


def test_a_picture_that_turns_undecodable_is_found_no_more(indexed: Collection) -> None:
    (indexed.root / "a.png").write_bytes(b"overwritten")
    assert counts(indexed.index()) == {"unchanged": 5, "failed": 1}
    indexed.check(b"a.png")


def test_a_failed_file_that_is_deleted_is_forgotten(collection: Collection) -> None:
    (collection.root / "bad.png").write_bytes(b"not a picture")
    collection.index()
    (collection.root / "bad.png").unlink()
    assert counts(collection.index_without_model()) == {"removed": 1, "unchanged": 6}
    collection.check()


def test_a_file_that_cannot_be_read_is_told_and_tried_again(collection: Collection) -> None:
    (collection.root / "denied.png").mkdir()  # opening it fails, as a lack of rights does
    found = collection.find()
    found.files.append(ImageFile(b"denied.png", 5, 5))
    summary = collection.index(found=found)
    assert counts(summary) == {"added": 6, "embedded": 6, "unreadable": 1}
    assert summary.unreadable[0][0] == b"denied.png"
    with Store.open(collection.directory) as store:
        assert b"denied.png" not in store.known()


def test_a_file_that_is_deleted_during_the_run_is_no_failure(collection: Collection) -> None:
    found = collection.find()
    (collection.root / "c.png").unlink()
    assert counts(collection.index(found=found)) == {"added": 5, "embedded": 5}
    collection.check()


def test_a_file_that_changes_during_the_run_is_looked_at_again(collection: Collection) -> None:
    found = collection.find()
    collection.add("c.png", 91)
    collection.index(found=found)
    collection.index()
    collection.check()
    assert counts(collection.index_without_model()) == {"unchanged": 6}


# -- what is missing, and what only seems to be --------------------------------------------------


def test_pictures_in_a_folder_that_cannot_be_listed_are_kept(
    indexed: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse(path: bytes) -> object:
        if os.path.basename(path) == b"sub":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    (indexed.root / "a.png").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", refuse)
        summary = indexed.index_without_model()
    assert counts(summary) == {"removed": 1, "unchanged": 3, "unreadable": 1}
    assert summary.unreadable == [(b"sub", "Permission denied")]
    indexed.check()


def filled(root: Path, count: int) -> tuple[Collection, list[ImageFile]]:
    """A collection of so many images that need not exist, and the walk that would see them."""
    collection = Collection(root)
    pictures = [picture(b"%04d.png" % n, n) for n in range(count)]
    with Store.open_for_writing(collection.directory) as store, store.batch():
        store.add(pictures)
    return collection, [image.file for image in pictures]


@pytest.mark.parametrize(
    ("count", "missing"),
    [(30, 21), (30, 30), (100, 21), (110, 23), (1000, 201), (3, 3), (1, 1)],
)
def test_losing_much_at_once_removes_nothing_unless_told_to(
    tmp_path: Path, count: int, missing: int
) -> None:
    collection, files = filled(tmp_path, count)
    left = Found(files[missing:])
    with pytest.raises(CollectionGone, match=f"{missing} of {count}") as caught:
        collection.index(no_encoder, found=left)
    assert "--prune" in caught.value.hint
    with Store.open(collection.directory) as store:
        assert len(store.known()) == count
    assert collection.index(no_encoder, found=left, prune=True).removed == missing
    with Store.open(collection.directory) as store:
        assert set(store.known()) == {file.path for file in left.files}


@pytest.mark.parametrize(
    ("count", "missing"), [(30, 20), (21, 20), (100, 20), (110, 22), (1000, 200), (3, 2)]
)
def test_losing_little_is_tidying_up(tmp_path: Path, count: int, missing: int) -> None:
    collection, files = filled(tmp_path, count)
    assert collection.index(no_encoder, found=Found(files[missing:])).removed == missing


def test_pictures_of_folders_that_are_the_same_count_as_there(tmp_path: Path) -> None:
    """Of 204 images three are gone, and later 21, while nothing else has changed."""
    collection, _ = filled(tmp_path, 180)
    more = [picture(b"%s/%d.png" % (name, n), n) for name, n in ((b"a", 1), (b"a", 2), (b"b", 3))]
    more += [picture(b"c/%d.png" % n, n) for n in range(21)]
    with Store.open_for_writing(collection.directory) as store:
        with store.batch():
            store.add(more)
        store.list_folders([b"", b"a", b"c"])
    left = Found([], same={b"": 180, b"c": 21})
    summary = collection.index(no_encoder, found=left)
    assert (summary.removed, summary.unchanged) == (3, 201)
    assert collection.index(no_encoder, found=Found([], same={b"": 180})).removed == 21


def test_a_disk_that_is_not_mounted_costs_nothing(indexed: Collection) -> None:
    truth = indexed.truth()
    for path in truth:
        (indexed.root / os.fsdecode(path)).unlink()
    with pytest.raises(CollectionGone):
        indexed.index(no_encoder)
    with Store.open(indexed.directory) as store:
        assert_exact(store.search(unit(1), 10), truth, unit(1), 10)


def test_only_the_folder_that_was_asked_for_is_brought_up_to_date(indexed: Collection) -> None:
    indexed.add("new outside.png", 92)
    indexed.add("sub/new inside.png", 93)
    indexed.add("subway/new.png", 94)
    (indexed.root / "a.png").unlink()
    (indexed.root / "sub" / "e.png").unlink()
    summary = indexed.index(under=b"sub")
    assert counts(summary) == {"added": 1, "embedded": 1, "removed": 1, "unchanged": 1}
    with Store.open(indexed.directory) as store:
        assert set(store.known()) == {
            *(b"a.png", b"b.jpg", b"c.png", b"d.webp", b"sub/f.jpg", b"sub/new inside.png")
        }
    assert counts(indexed.index()) == {"added": 2, "embedded": 2, "removed": 1, "unchanged": 5}
    indexed.check()


def test_a_file_that_moves_into_the_folder_asked_for_is_known_at_both_places_until_the_rest_is_seen(
    indexed: Collection,
) -> None:
    (indexed.root / "a.png").rename(indexed.root / "sub" / "a.png")
    indexed.index(under=b"sub")
    with Store.open(indexed.directory) as store:
        assert {b"a.png", b"sub/a.png"} <= set(store.known())
    assert counts(indexed.index_without_model()) == {"removed": 1, "unchanged": 6}
    indexed.check()


# -- batch by batch ------------------------------------------------------------------------------


@pytest.fixture
def thirty(tmp_path: Path) -> Collection:
    """Thirty images, not yet indexed."""
    collection = Collection(tmp_path)
    for n in range(30):
        collection.add(f"{n:02}.png", n)
    return collection


@pytest.mark.parametrize(
    ("batch_size", "batches"),
    [
        (1, [1] * 30),
        (3, [3] * 10),
        (4, [4] * 7 + [2]),
        (5, [4, 5, 5, 5, 5, 5, 1]),
        (16, [4, 8, 16, 2]),
        (64, [4, 8, 16, 2]),
    ],
)
def test_batches_grow_from_four_to_what_suits_the_device(
    thirty: Collection, batch_size: int, batches: list[int]
) -> None:
    thirty.encoder.batch_size = batch_size
    thirty.index()
    assert thirty.encoder.batches == batches
    thirty.check()


def test_every_batch_is_there_for_readers_as_soon_as_it_is_done(thirty: Collection) -> None:
    seen: list[int] = []

    def look() -> None:
        with Store.open(thirty.directory) as reader:
            seen.append(len(reader.known()))
            assert len(reader.search(unit(1), 99)) == seen[-1]

    thirty.encoder.before_batch = look
    thirty.index()
    assert seen == [0, 4, 12, 28]


def test_a_model_that_gives_up_in_the_middle_loses_at_most_its_batch(thirty: Collection) -> None:
    def give_up() -> None:
        if len(thirty.encoder.batches) == 2:
            raise BadCheckpoint("the device gave up")

    thirty.encoder.before_batch = give_up
    (thirty.root / "00.png").write_bytes(b"no picture")
    with pytest.raises(BadCheckpoint):
        thirty.index()
    with Store.open(thirty.directory) as store:
        known = store.known()
        assert sum(not entry.failed for entry in known.values()) == 12
        truth = thirty.truth(b"00.png")
        expected = {path: truth[path] for path, entry in known.items() if not entry.failed}
        assert_exact(store.search(unit(1), 99), expected, unit(1), 99)

    thirty.encoder.before_batch = lambda: None
    summary = thirty.index()
    assert thirty.encoder.pictures == 17
    assert counts(summary) == {"added": 17, "embedded": 17, "unchanged": 12, "still_failed": 1}
    thirty.check(b"00.png")


def test_a_model_that_cannot_be_loaded_leaves_what_needs_none(indexed: Collection) -> None:
    def not_here() -> Encoder:
        raise WeightsNotFound("not on this machine")

    (indexed.root / "a.png").rename(indexed.root / "moved.png")
    (indexed.root / "c.png").unlink()
    indexed.add("new.png", 95)
    with pytest.raises(WeightsNotFound):
        indexed.index(not_here)
    with Store.open(indexed.directory) as store:
        assert set(store.known()) == {
            *(b"moved.png", b"b.jpg", b"d.webp", b"sub/e.png", b"sub/f.jpg")
        }
    assert counts(indexed.index()) == {"added": 1, "embedded": 1, "unchanged": 5}
    indexed.check()


def test_the_model_is_loaded_once(thirty: Collection) -> None:
    loaded: list[Encoder] = []

    def load() -> Encoder:
        loaded.append(thirty.encoder)
        return thirty.encoder

    thirty.index(load)
    assert len(loaded) == 1


def test_progress_ends_where_it_should(thirty: Collection) -> None:
    (thirty.root / "00.png").write_bytes(b"no picture")
    calls: list[tuple[str, int, int]] = []
    with Store.open_for_writing(thirty.directory) as store:
        reconcile(
            store,
            thirty.find(),
            lambda: thirty.encoder,
            progress=lambda *call: calls.append(call),
        )
    assert calls[0] == ("loading the model", 0, 30)
    embedding = [done for doing, done, _ in calls if doing == "embedding"]
    assert embedding == sorted(embedding)
    assert embedding[0] == 0
    assert embedding[-1] == 30


def test_pictures_above_the_pixel_limit_fail_with_the_reason(collection: Collection) -> None:
    summary = collection.index(scope=Scope((), max_pixels=48 * 40 - 1))
    assert counts(summary) == {"failed": 6}
    assert "48 x 40 pixels" in summary.failed[0][1]


def test_names_that_are_not_utf8_are_indexed(collection: Collection) -> None:
    name = b"caf\xe9\n.png"
    try:
        make_picture(os.path.join(os.fsencode(collection.root), name), 96)
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    collection.index()
    collection.check()
    with Store.open(collection.directory) as store:
        assert name in store.known()


# -- what is excluded ----------------------------------------------------------------------------


def test_pictures_that_are_excluded_go_even_if_they_are_many(tmp_path: Path) -> None:
    many = Collection(tmp_path)
    for n in range(30):
        many.add(f"private/{n}.png", n)
    many.add("a.png", 99)
    many.index()
    summary = many.index(no_encoder, scope=Scope(("private/",)))
    assert counts(summary) == {"removed": 30, "unchanged": 1}
    with Store.open(many.directory) as store:
        assert list(store.known()) == [b"a.png"]


def test_what_is_missing_is_still_guarded_where_something_is_excluded(tmp_path: Path) -> None:
    many = Collection(tmp_path)
    for n in range(30):
        many.add(f"old/{n}.png", n)
    many.add("private/a.png", 99)
    many.index()
    shutil.rmtree(tmp_path / "old")
    with pytest.raises(CollectionGone, match="30 of 30 indexed images are missing"):
        many.index(no_encoder, scope=Scope(("private",)))
    with Store.open(many.directory) as store:
        assert len(store.known()) == 31


# -- clusters ------------------------------------------------------------------------------------


def with_clusters(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a single image on."""
    monkeypatch.setattr(
        store, "update_vector_index", partial(store.update_vector_index, cluster_from=1)
    )


def test_a_large_collection_is_measured_with_the_domains_class_prompts(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = Collection(photos)
    loaded: list[FakeEncoder] = []

    def load() -> Encoder:
        loaded.append(collection.encoder)
        return collection.encoder

    with Store.open_for_writing(collection.directory) as store:
        with_clusters(store, monkeypatch)
        reconcile(store, collection.find(), load)
        domain = taxonomy.load(taxonomy.DEFAULT)
        assert len(loaded) == 1
        assert collection.encoder.texts == [
            domain.prompts(index)[0] for index in range(len(domain.classes))
        ]
        clusters = store.status().clusters
        assert clusters is not None
        assert clusters.queries == len(domain.classes) // 2
        reconcile(store, collection.find(), no_encoder)  # nothing new, and nothing to measure


def test_a_model_is_loaded_for_clusters_alone_if_they_are_missing(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = Collection(photos)
    collection.index()
    assert collection.encoder.texts == []
    with Store.open_for_writing(collection.directory) as store:
        with_clusters(store, monkeypatch)
        summary = reconcile(store, collection.find(), lambda: collection.encoder)
        assert summary.embedded == 0
        assert collection.encoder.texts
        assert store.status().clusters is not None
