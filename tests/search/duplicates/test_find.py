"""Duplicates: what was planted is found, in the right groups, and nothing is offered that changed.

Images are of two kinds: `scene` draws one that differs for each seed, and `frame` another
image that the encoder of these tests takes for the same.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes import DecodeHere, fake_spec, other_stat
from PIL import Image, ImageEnhance

from clipsearch.errors import CollectionGone
from clipsearch.images import scan
from clipsearch.indexing import embed
from clipsearch.indexing.reconcile import reconcile
from clipsearch.records import EVERYTHING, Filter, Pixels, Vectors
from clipsearch.search.duplicates import find, likeness
from clipsearch.search.duplicates.find import Duplicates
from clipsearch.search.duplicates.likeness import Likeness
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.vectors import l2_normalise

SCENES = 12


class ColourEncoder:
    """Sees the mean color of an image and nothing else: what is alike to it need not be."""

    batch_size = 8

    def encode_images(self, pixels: Pixels) -> Vectors:
        means = pixels.reshape(len(pixels), -1, 3).mean(axis=1) - 127.5
        return l2_normalise(np.pad(means, ((0, 0), (0, 13))) + 1e-3)

    def encode_texts(self, texts):
        raise AssertionError("no text is embedded")


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Soft shapes of one color on another, as different from other seeds' as can be."""
    random = np.random.default_rng(seed)
    colours = np.array([[255, 40, 40], [40, 255, 40], [40, 40, 255], [230, 230, 30]])
    shapes = random.random((9, 12, 1)) * colours[seed % 4] / (1 + 0.15 * (seed // 4))
    picture = Image.fromarray(shapes.astype(np.uint8))
    return picture.resize(size, Image.Resampling.BICUBIC)


def frame(seed: int) -> Image.Image:
    """A different image of the same mean color."""
    return scene(seed).transpose(Image.Transpose.FLIP_LEFT_RIGHT)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An indexed folder. Not to be changed: ``root`` is a copy."""
    folder = tmp_path_factory.mktemp("made") / "photos"
    (folder / "sub").mkdir(parents=True)
    for seed in range(SCENES):
        scene(seed).save(folder / f"{seed:02}.png")
    scene(0).save(folder / "sub/00 saved again.jpg", quality=70)
    scene(0).resize((200, 150)).save(folder / "sub/00 small.jpg")
    scene(1).crop((10, 8, 320, 240)).save(folder / "sub/01 cropped.jpg")
    ImageEnhance.Brightness(scene(2)).enhance(1.1).save(folder / "02 brighter.png")
    scene(3, (640, 480)).save(folder / "sub/03 large.png")
    frame(4).save(folder / "04 frame.png")
    shutil.copy2(folder / "05.png", folder / "sub/05 copy.png")
    shutil.copy2(folder / "00.png", folder / "sub/00 copy.png")
    with (
        pytest.MonkeyPatch.context() as patch,
        Store.create(folder / FOLDER, folder, fake_spec()) as store,
    ):
        patch.setattr(embed, "DecodePool", DecodeHere)
        reconcile(store, scan.find(os.fsencode(folder)), ColourEncoder)
    return folder


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(embed, "DecodePool", DecodeHere)
    monkeypatch.setattr(find, "DecodePool", DecodeHere)
    monkeypatch.setattr(likeness, "DecodePool", DecodeHere)
    return Path(shutil.copytree(made, tmp_path / "photos"))


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    with Store.open_for_writing(root / FOLDER) as opened:
        yield opened


def measured(store: Store) -> Likeness:
    return likeness.measure(store, ColourEncoder, lambda doing, done, total: None)


def near(store: Store, only: Filter = EVERYTHING, agreement: float | None = 0.8) -> Duplicates:
    return find.near([store], only, 0.99, agreement, lambda doing, done, total: None)


def names(found: Duplicates) -> list[tuple[str, list[str]]]:
    return [
        (group.kind, [os.fsdecode(member.image.path) for member in group.members])
        for group in found.groups
    ]


def members(found: Duplicates) -> list[list[str]]:
    """Of each group, whichever of them is the best."""
    return sorted(sorted(paths) for _, paths in names(found))


PLANTED = [
    (
        "near-duplicates",
        ["00.png", "sub/00 copy.png", "sub/00 saved again.jpg", "sub/00 small.jpg"],
    ),
    ("near-duplicates", ["01.png", "sub/01 cropped.jpg"]),
    ("near-duplicates", ["02 brighter.png", "02.png"]),
    ("copies", ["05.png", "sub/05 copy.png"]),
    ("near-duplicates", ["sub/03 large.png", "03.png"]),
]
PLANTED_MEMBERS = sorted(sorted(paths) for _, paths in PLANTED)


def test_what_was_planted_is_found_and_nothing_else(store: Store) -> None:
    found = near(store)
    assert members(found) == PLANTED_MEMBERS
    assert [kind for kind, _ in names(found)] == [kind for kind, _ in PLANTED]
    assert names(found)[0] == PLANTED[0]
    assert names(found)[4] == PLANTED[4]
    assert (found.images, found.stale) == (SCENES + 8, ())


def test_the_best_has_most_pixels_then_most_bytes_then_is_the_oldest(store: Store) -> None:
    for group in near(store).groups:
        keys = [
            (-one.image.width * one.image.height, -one.image.size, one.image.mtime_ns)
            for one in group.members
        ]
        assert keys == sorted(keys)
        assert group.members[0].similarity == 1
        assert all(0.99 <= one.similarity <= 1 for one in group.members)
        assert group.spare_bytes == sum(one.image.size for one in group.members[1:])


def test_without_a_look_other_pictures_are_taken_for_the_same(store: Store) -> None:
    found = names(near(store, agreement=None))
    groups = {paths[0]: (kind, set(paths)) for kind, paths in found}
    assert any({"04.png", "04 frame.png"} <= paths for _, paths in groups.values())
    assert "alike" in {kind for kind, _ in groups.values()}


def test_copies_alone_need_no_embedding(store: Store) -> None:
    found = find.copies([store], EVERYTHING)
    assert names(found) == [
        ("copies", ["00.png", "sub/00 copy.png"]),
        ("copies", ["05.png", "sub/05 copy.png"]),
    ]
    assert [group.similarity for group in found.groups] == [1, 1]


def test_filters_restrict_what_is_compared(store: Store) -> None:
    assert names(near(store, Filter(b"sub"))) == [
        ("near-duplicates", ["sub/00 copy.png", "sub/00 saved again.jpg", "sub/00 small.jpg"])
    ]
    assert near(store, Filter(b"none")) == Duplicates((), 0, ())


def test_files_that_are_gone_or_have_changed_are_in_no_group(store: Store, root: Path) -> None:
    (root / "sub/05 copy.png").unlink()
    scene(50).save(root / "01.png")
    status = (root / "00.png").stat()
    os.utime(root / "00.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    found = near(store)
    assert names(found)[1] == (
        "near-duplicates",
        ["sub/00 copy.png", "sub/00 saved again.jpg", "sub/00 small.jpg"],
    )
    listed = {path for _, paths in names(found) for path in paths}
    assert not listed & {"05.png", "sub/05 copy.png", "01.png", "sub/01 cropped.jpg", "00.png"}
    stale = {os.path.basename(os.fsdecode(path)) for path in found.stale}
    assert stale == {"05 copy.png", "01.png", "00.png"}
    copies = find.copies([store], EVERYTHING)
    assert copies.groups == ()
    assert len(copies.stale) == 2


def test_a_link_in_a_pictures_place_is_no_member(store: Store, root: Path) -> None:
    (root / "sub/05 copy.png").unlink()
    (root / "sub/05 copy.png").symlink_to(root / "05.png")
    assert names(find.copies([store], EVERYTHING)) == [("copies", ["00.png", "sub/00 copy.png"])]


def test_other_content_of_the_same_size_and_time_is_seen_by_the_look(
    store: Store, root: Path
) -> None:
    path = root / "sub/01 cropped.jpg"
    status, data = path.stat(), bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "01.png" not in {paths[0] for _, paths in names(near(store))}


def test_a_file_in_two_collections_is_no_copy_of_itself(store: Store, root: Path) -> None:
    inner = root / "sub"
    with Store.create(inner / FOLDER, inner, fake_spec()) as other:
        reconcile(other, scan.find(os.fsencode(inner)), ColourEncoder)
        stores = [store, other]
        found = find.near(stores, EVERYTHING, 0.99, 0.8, lambda doing, done, total: None)
        paths = [member.path for group in found.groups for member in group.members]
        assert len(paths) == len(set(paths)) == sum(len(paths) for _, paths in PLANTED)
        assert len(find.copies(stores, EVERYTHING).groups) == 2


# -- what near-duplicates are like -------------------------------------------------------------


def test_what_is_measured_finds_what_was_planted(store: Store) -> None:
    found = measured(store)
    assert (found.images, found.sample) == (SCENES + 8, SCENES + 8)
    assert 0.9 < found.similarity < 1
    assert found.others_agree < found.agreement < found.copies_agree
    assert found.neighbours >= 0.5  # this encoder takes many for the same
    groups = find.near(
        [store], EVERYTHING, found.similarity, found.agreement, lambda doing, done, total: None
    )
    assert len(groups.groups) >= 4
    for group in members(groups):  # one in twenty near-duplicates may be missed
        assert any(set(group) <= set(planted) for planted in PLANTED_MEMBERS)
    assert measured(store) == found  # the same images, the same changes


def test_it_is_kept_for_its_model_until_much_has_changed(store: Store, root: Path) -> None:
    assert likeness.kept(store) is None
    found = measured(store)
    likeness.keep(store, found)
    assert likeness.kept(store) == found
    assert not likeness.is_outdated(found, store)
    known = store.known()
    with store.batch():
        store.remove(sorted(known)[:4])
    assert not likeness.is_outdated(found, store)
    with store.batch():
        store.remove(sorted(known)[4:8])
    assert likeness.is_outdated(found, store)
    store.spec = fake_spec(fingerprint="e" * 64)
    assert likeness.kept(store) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": 1}'])
def test_a_damaged_record_counts_as_none(store: Store, text: str) -> None:
    with store.batch():
        store.attach("likeness", text)
    assert likeness.kept(store) is None


def test_pictures_that_cannot_be_read_are_left_out_of_the_sample(store: Store, root: Path) -> None:
    for path in sorted(root.glob("*.png"))[:5]:
        path.unlink()
    assert measured(store).sample == SCENES + 8 - 5
    shutil.rmtree(root / "sub")
    for path in root.glob("*.png"):
        path.unlink()
    with pytest.raises(CollectionGone, match="none of the images"):
        measured(store)


# -- one file under several paths ----------------------------------------------------------------


def indexed(folder: Path, directory: Path) -> Store:
    store = Store.create(directory, folder, fake_spec())
    reconcile(store, scan.find(os.fsencode(folder)), ColourEncoder)
    return store


def test_hard_links_are_one_file_and_a_copy_of_it_is_another(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "linked"
    folder.mkdir()
    shutil.copy2(root / "06.png", folder / "b.png")
    os.link(folder / "b.png", folder / "a.png")
    os.link(folder / "b.png", folder / "c.png")
    with indexed(folder, tmp_path / "index") as store:
        for found in (find.copies([store], EVERYTHING), near(store)):
            assert found.groups == ()
            assert found.stale == ()
        shutil.copy2(root / "06.png", folder / "d.png")
        reconcile(store, scan.find(os.fsencode(folder)), ColourEncoder)
        for found in (find.copies([store], EVERYTHING), near(store)):
            assert names(found) == [("copies", ["a.png", "d.png"])]


def test_a_share_that_is_mounted_twice_has_no_copies_of_itself(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two devices, on which a file has one number and one time of change."""
    shutil.copytree(root / "sub", tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=os.link)
    lstat = os.lstat

    def two_devices(path: bytes) -> os.stat_result:
        found = lstat(path)
        return other_stat(found, device=found.st_dev + (b"/two/" in os.fsencode(path)))

    with (
        indexed(tmp_path / "one", tmp_path / "index of one") as one,
        indexed(tmp_path / "two", tmp_path / "index of two") as two,
    ):
        monkeypatch.setattr(os, "lstat", two_devices)
        found = find.copies([one, two], EVERYTHING)
        monkeypatch.undo()
    assert (found.groups, found.stale, found.images) == ((), (), 12)
