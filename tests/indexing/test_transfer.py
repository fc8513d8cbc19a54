"""Embeddings go out in clip-retrieval's layout, and come in only where they belong."""

import base64
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_picture
from fakes import DIM, DecodeHere, FakeEncoder, fake_spec, half, unit, unsynchronised
from PIL import Image

from clipsearch.errors import ExchangeError
from clipsearch.images import scan
from clipsearch.images.decode import decode
from clipsearch.indexing import embed
from clipsearch.indexing.reconcile import reconcile
from clipsearch.indexing.transfer import check as checking
from clipsearch.indexing.transfer import export as exporting
from clipsearch.indexing.transfer import import_
from clipsearch.indexing.transfer.check import check
from clipsearch.indexing.transfer.export import export
from clipsearch.indexing.transfer.import_ import Imported, Matched
from clipsearch.indexing.transfer.layout import Export, Kind, read
from clipsearch.records import EVERYTHING, EmbeddedImage, Filter, ImageFile
from clipsearch.storage.catalog import FOLDER, Store

ODD = b"sub/caf\xe9 \xff.png"


def quiet(doing: str, done: int, total: int) -> None: ...


@pytest.fixture(autouse=True)
def decode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (import_, checking, embed):
        monkeypatch.setattr(room, "DecodePool", DecodeHere)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images, one with a camera, one with a name that is not UTF-8."""
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    for n, name in enumerate([b"a.png", b"b.jpg", b"c.png", b"d.webp", b"sub/e.png", b"sub/f.jpg"]):
        make_picture(os.path.join(os.fsencode(root), name), seed=n)
    make_picture(os.path.join(os.fsencode(root), ODD), seed=9)
    exif = Image.Exif()
    exif[0x0110] = "M10"
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 30.0, 0.0), 3: "W", 4: (4.0, 0.0, 0.0)})
    Image.open(root / "a.png").save(root / "a.png", exif=exif)
    return root


@pytest.fixture
def store(photos: Path) -> Iterator[Store]:
    with Store.create(photos / FOLDER, photos, fake_spec()) as opened:
        reconcile(unsynchronised(opened), scan.find(os.fsencode(photos)), FakeEncoder)
        yield opened


def stored(store: Store) -> dict[bytes, EmbeddedImage]:
    return {image.file.path: image for image in store.whole(store.ids())}


# -- export --------------------------------------------------------------------------------------


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["path_bytes"] = row["path_bytes"] and base64.b64decode(row["path_bytes"])
    return rows


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_an_export_has_each_embedding_beside_its_picture(
    store: Store, photos: Path, tmp_path: Path, kind: Kind
) -> None:
    assert export(store, tmp_path / "out", kind, EVERYTHING, quiet) == 7
    files = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.*"))
    assert [str(file) for file in files] == [
        "clipsearch.json",
        "img_emb/img_emb_0.npy",
        f"metadata/metadata_0.{kind}",
    ]
    vectors = np.load(tmp_path / "out" / files[1])
    assert (vectors.dtype, vectors.shape) == (np.float16, (7, DIM))
    known = stored(store)
    for vector, row in zip(vectors, rows_of(tmp_path / "out" / files[2]), strict=True):
        path = row["path_bytes"] or os.fsencode(row["image_path"])
        image = known.pop(os.path.relpath(path, os.fsencode(photos)))
        np.testing.assert_array_equal(vector, half(image.vector))
        assert (row["width"], row["height"], row["taken_at"]) == (48, 40, None)
        assert row["content_hash"] == image.content_hash.hex()
        origin = (row["camera"], row["latitude"], row["longitude"])
        assert origin == (image.camera, image.latitude, image.longitude)
        assert origin == (("M10", 1.5, -4.0) if image.file.path == b"a.png" else (None,) * 3)
        assert (row["path_bytes"] is not None) == (image.file.path == ODD)
        assert "\N{REPLACEMENT CHARACTER}" not in row["image_path"] or image.file.path == ODD
    assert known == {}
    told = json.loads((tmp_path / "out" / "clipsearch.json").read_text())
    assert told["fingerprint"] == fake_spec().fingerprint
    assert (told["model"], told["dim"], told["rows"]) == ("fake", DIM, [7])
    assert told["root"] == str(photos)


def test_many_embeddings_are_in_many_files_that_sort(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.batch():
        for n in range(60):
            file = ImageFile(b"%d.png" % n, 1, 1)
            store.add([EmbeddedImage(file, b"h", 1, 1, None, unit(n))])
    monkeypatch.setattr(exporting, "_ROWS_PER_SHARD", 6)
    assert export(store, tmp_path / "out", "jsonl", EVERYTHING, quiet) == 67
    found = read(tmp_path / "out")
    names = [shard.embeddings.name for shard in found.shards]
    assert names == sorted(names) == [f"img_emb_{n:02d}.npy" for n in range(12)]
    assert [shard.rows for shard in found.shards] == [6] * 11 + [1]
    vectors = np.concatenate([np.load(shard.embeddings) for shard in found.shards])
    np.testing.assert_array_equal(vectors, np.concatenate(list(store.all_vectors())))


def test_only_what_a_filter_lets_through_is_written(store: Store, tmp_path: Path) -> None:
    assert export(store, tmp_path / "out", "jsonl", Filter(under=b"sub", name="*.jpg"), quiet) == 1
    assert [
        Path(row["image_path"]).name for row in rows_of(tmp_path / "out/metadata/metadata_0.jsonl")
    ] == ["f.jpg"]
    assert export(store, tmp_path / "none", "jsonl", Filter(name="nothing"), quiet) == 0
    assert not (tmp_path / "none").exists()


def test_nothing_is_overwritten(store: Store, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    (tmp_path / "file").write_text("x")
    for name, said in {
        "full": "is not empty",
        "file": "is not a folder",
        "missing/out": "does not exist",
    }.items():
        with pytest.raises(ExchangeError, match=said):
            export(store, tmp_path / name, "jsonl", EVERYTHING, quiet)
    assert sorted(os.listdir(tmp_path)) == ["file", "full", "photos"]
    (tmp_path / "empty").mkdir()
    assert export(store, tmp_path / "empty", "jsonl", EVERYTHING, quiet) == 7


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_export_that_fails_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(exporting, "write_manifest", fail)
    with pytest.raises((ExchangeError, KeyboardInterrupt)):
        export(store, tmp_path / "out", "parquet", EVERYTHING, quiet)
    assert os.listdir(tmp_path) == ["photos"]


# -- what an export must be ----------------------------------------------------------------------


def foreign(folder: Path, *shards: tuple[Any, list[str]]) -> Path:
    """As clip-retrieval writes it: no manifest, and paths as text alone."""
    (folder / "img_emb").mkdir(parents=True, exist_ok=True)
    (folder / "metadata").mkdir(exist_ok=True)
    for n, (vectors, paths) in enumerate(shards):
        np.save(folder / f"img_emb/img_emb_{n}.npy", vectors)
        table = pa.table({"image_path": paths, "caption": paths})
        pq.write_table(table, folder / f"metadata/metadata_{n}.parquet")
    return folder


def some(count: int = 2) -> Any:
    return np.stack([unit(n) for n in range(count)]).astype(np.float16)


def replaced(array: Any, value: float) -> Any:
    array[1] = value
    return array


def manifest(folder: Path, **changes: object) -> None:
    told = {"version": 1, "model": "m", "name": "m", "fingerprint": "f", "root": "/"}
    told |= {"rows": [2, 2], **changes}
    kept = {key: value for key, value in told.items() if value is not None}
    (folder / "clipsearch.json").write_text(json.dumps(kept))


BROKEN: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no folder": ("is not a folder", shutil.rmtree),
    "nothing": ("there are no embeddings", lambda f: shutil.rmtree(f / "img_emb")),
    "no metadata": (
        "img_emb_1.npy has no counterpart in metadata",
        lambda f: (f / "metadata/metadata_1.parquet").unlink(),
    ),
    "no embeddings": (
        "metadata_0.parquet has no counterpart in img_emb",
        lambda f: (f / "img_emb/img_emb_0.npy").unlink(),
    ),
    "a row too many": (
        "img_emb_1.npy has 3 rows, and .*metadata_1.parquet has 2",
        lambda f: np.save(f / "img_emb/img_emb_1.npy", some(3)),
    ),
    "two lengths": (
        r"different lengths: \[8, 16\]",
        lambda f: np.save(f / "img_emb/img_emb_1.npy", some()[:, :8]),
    ),
    "not a number": (
        "row 1 of .*img_emb_1.npy is not an embedding",
        lambda f: np.save(f / "img_emb/img_emb_1.npy", replaced(some(), np.nan)),
    ),
    "infinite": (
        "row 1 of .*img_emb_1.npy is not an embedding",
        lambda f: np.save(f / "img_emb/img_emb_1.npy", replaced(some(), np.inf)),
    ),
    "zero": (
        "row 1 of .*img_emb_1.npy is not an embedding",
        lambda f: np.save(f / "img_emb/img_emb_1.npy", replaced(some(), 0)),
    ),
    "integers": (
        "img_emb_1.npy is not a table of floating-point numbers",
        lambda f: np.save(f / "img_emb/img_emb_1.npy", np.ones((2, DIM), np.int64)),
    ),
    "a cube": (
        "is not a table of floating-point numbers",
        lambda f: np.save(f / "img_emb/img_emb_1.npy", np.ones((2, DIM, 1))),
    ),
    "objects": (
        "is not a file of embeddings",
        lambda f: np.save(f / "img_emb/img_emb_1.npy", np.array([[{}]]), allow_pickle=True),
    ),
    "a header that is none": (
        "is not a file of embeddings",
        lambda f: (f / "img_emb/img_emb_1.npy").write_bytes(
            (f / "img_emb/img_emb_1.npy").read_bytes().replace(b"}", b"{")
        ),
    ),
    "a cut file": (
        "is not a file of embeddings",
        lambda f: os.truncate(f / "img_emb/img_emb_1.npy", 140),
    ),
    "an empty file": (
        "is not a file of embeddings",
        lambda f: os.truncate(f / "img_emb/img_emb_1.npy", 0),
    ),
    "cut metadata": (
        "cannot read .*metadata_1.parquet",
        lambda f: os.truncate(f / "metadata/metadata_1.parquet", 50),
    ),
    "no paths": (
        "row 0 of .*metadata_1.parquet has no image_path",
        lambda f: pq.write_table(pa.table({"x": [1, 2]}), f / "metadata/metadata_1.parquet"),
    ),
    "a path that is none": (
        "row 1 of .*metadata_1.parquet has no image_path",
        lambda f: pq.write_table(
            pa.table({"image_path": ["a", None]}), f / "metadata/metadata_1.parquet"
        ),
    ),
    "a FIFO": (
        "metadata_1.parquet has no counterpart in img_emb",
        lambda f: (
            (f / "img_emb/img_emb_1.npy").unlink(),
            os.mkfifo(f / "img_emb/img_emb_1.npy"),
            os.mkfifo(f / "clipsearch.json"),
        ),
    ),
    "two of one number": (
        "have the same number",
        lambda f: np.save(f / "img_emb/img_emb_01.npy", some()),
    ),
    "JSON that is none": (
        "cannot read .*metadata_2.jsonl",
        lambda f: (
            np.save(f / "img_emb/img_emb_2.npy", some()),
            (f / "metadata/metadata_2.jsonl").write_text('{"image_path": "a"}\n{"image_\n'),
        ),
    ),
    "JSON of another kind": (
        "row 1 of .*metadata_2.jsonl has no image_path",
        lambda f: (
            np.save(f / "img_emb/img_emb_2.npy", some()),
            (f / "metadata/metadata_2.jsonl").write_text('{"image_path": "a"}\n[]\n'),
        ),
    ),
    "bytes that are none": (
        "row 0 of .*metadata_1.parquet has an invalid path_bytes",
        lambda f: pq.write_table(
            pa.table({"image_path": ["a", "b"], "path_bytes": [1, 2]}),
            f / "metadata/metadata_1.parquet",
        ),
    ),
    "a hash that is none": (
        "row 1 of .*metadata_1.parquet has an invalid content_hash",
        lambda f: pq.write_table(
            pa.table({"image_path": ["a", "b"], "content_hash": ["00", "x"]}),
            f / "metadata/metadata_1.parquet",
        ),
    ),
    "JSON without end": (
        "cannot read .*metadata_2.jsonl",
        lambda f: (
            np.save(f / "img_emb/img_emb_2.npy", some()),
            (f / "metadata/metadata_2.jsonl").write_text("[" * 100_000),
        ),
    ),
    "a manifest that is empty": ("lacks the entry model", lambda f: manifest(f, model=None)),
    "a manifest that is none": (
        "cannot read .*clipsearch.json",
        lambda f: (f / "clipsearch.json").write_text("junk"),
    ),
    "a manifest of another kind": ("not in the format of export", lambda f: manifest(f, name=7)),
    "a root that is no path": ("cannot read", lambda f: manifest(f, root="\ud800")),
    "a newer manifest": ("written by a newer clipsearch", lambda f: manifest(f, version=2)),
    "a shard less than there were": (
        r"lists \[2, 2, 2\] rows in the shards, not \[2, 2\]",
        lambda f: manifest(f, rows=[2, 2, 2]),
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_hold_together_is_an_error_that_says_where(tmp_path: Path, case: str) -> None:
    folder = foreign(tmp_path / "in", (some(), ["a", "b"]), (some(), ["c", "d"]))
    assert read(folder).rows == 4
    manifest(folder)
    assert read(folder).rows == 4
    (folder / "clipsearch.json").unlink()
    said, spoil = BROKEN[case]
    spoil(folder)
    with pytest.raises(ExchangeError, match=said):
        read(folder)


def test_an_export_of_another_model_is_refused_by_what_it_tells(
    store: Store, tmp_path: Path
) -> None:
    export(store, tmp_path / "out", "jsonl", EVERYTHING, quiet)
    ours = read(tmp_path / "out")
    import_.require_model(ours, fake_spec())
    with pytest.raises(ExchangeError, match="are from fake, not from other"):
        import_.require_model(ours, fake_spec(name="other", fingerprint="e" * 64))
    theirs = read(foreign(tmp_path / "in", (some(), ["a", "b"])))
    with pytest.raises(ExchangeError, match="16 dimensions, but fake makes 32"):
        import_.require_model(theirs, fake_spec(dim=32))


# -- whose is it? --------------------------------------------------------------------------------


def matched(exported: Export, root: Path, known: Store | None = None) -> Matched:
    found = scan.find(os.fsencode(root))
    where = os.fsencode(root)
    return import_.match(exported, where, where, found, known.known() if known else {})


def test_a_path_may_be_absolute_or_relative_to_the_folder_or_to_here(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(photos)
    paths = [
        *(str(photos / "a.png"), "b.jpg", "photos/c.png", f"{tmp_path}/link/d.webp"),
        *("sub/../sub/e.png", "./sub//f.jpg"),
        *("a.png", "/etc/passwd", "../photos/missing.png", "nul\0.png", "", "sub", "x" * 5000),
    ]
    found = matched(read(foreign(tmp_path / "in", (some(13), paths))), photos)
    assert [(row.file.path, row.row) for row in found.wanted] == [
        *((b"a.png", 0), (b"b.jpg", 1), (b"c.png", 2), (b"d.webp", 3)),
        *((b"sub/e.png", 4), (b"sub/f.jpg", 5)),
    ]
    assert found.duplicates == (b"a.png",)
    assert list(found.missing) == [os.fsencode(path) for path in paths[7:]]


def test_a_link_out_of_the_folder_leads_to_no_picture(photos: Path, tmp_path: Path) -> None:
    make_picture(tmp_path / "outside.png")
    (photos / "out").symlink_to(tmp_path)
    found = matched(read(foreign(tmp_path / "in", (some(1), ["out/outside.png"]))), photos)
    assert (found.wanted, found.missing) == ((), (b"out/outside.png",))


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_folder_that_was_moved_is_known_again(store: Store, tmp_path: Path, kind: Kind) -> None:
    export(store, tmp_path / "out", kind, EVERYTHING, quiet)
    moved = Path(shutil.copytree(store.root, tmp_path / "elsewhere" / "pictures"))
    found = matched(read(tmp_path / "out"), moved)
    assert {row.file.path for row in found.wanted} == set(stored(store))
    assert found.missing == found.duplicates == ()


def test_what_the_index_has_is_not_imported_again(store: Store, tmp_path: Path) -> None:
    export(store, tmp_path / "out", "jsonl", EVERYTHING, quiet)
    make_picture(store.root / "b.jpg", 77)
    os.utime(store.root / "b.jpg", (1, 1))
    found = matched(read(tmp_path / "out"), store.root, store)
    assert [row.file.path for row in found.wanted] == [b"b.jpg"]
    assert found.known == 6


# -- is it its own? ------------------------------------------------------------------------------


def truth(root: Path, path: str, encoder: FakeEncoder) -> Any:
    pixels = decode(os.fspath(root / path), fake_spec().preprocessing).pixels
    return encoder.encode_images(pixels[np.newaxis])[0]


PATHS = ["a.png", "b.jpg", "c.png", "d.webp", "sub/e.png", "sub/f.jpg"]


def theirs(folder: Path, photos: Path, paths: list[str], scale: float = 1.0) -> Export:
    vectors = np.stack([truth(photos, path, FakeEncoder()) for path in paths]) * scale
    return read(foreign(folder, (vectors[:3], paths[:3]), (vectors[3:], paths[3:])))


def checked(exported: Export, photos: Path, sample: int = 20) -> int:
    rows = matched(exported, photos).wanted
    root = os.fsencode(photos)
    return check(exported, root, rows, fake_spec(), FakeEncoder, sample, quiet)


def test_embeddings_that_are_their_pictures_own_pass(photos: Path, tmp_path: Path) -> None:
    exported = theirs(tmp_path / "in", photos, PATHS, scale=7.5)
    assert checked(exported, photos) == 6
    assert checked(exported, photos, sample=2) == 2


@pytest.mark.parametrize("wrong", ["another model's", "the next image's", "one of them"])
def test_an_embedding_that_is_not_its_pictures_own_is_an_error(
    photos: Path, tmp_path: Path, wrong: str
) -> None:
    paths = PATHS if wrong != "the next image's" else [*PATHS[1:], PATHS[0]]
    vectors = np.stack([truth(photos, path, FakeEncoder()) for path in paths])
    if wrong == "another model's":
        vectors = some(6)
    if wrong == "one of them":
        vectors[4] = vectors[0]
    exported = read(foreign(tmp_path / "in", (vectors, PATHS)))
    with pytest.raises(ExchangeError, match="are not from fake, or belong to other images"):
        checked(exported, photos)


def test_pictures_that_others_show_otherwise_are_not_compared_nor_imported(
    photos: Path, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photos / "b.jpg").save(photos / "b.jpg", exif=exif)
    Image.new("RGBA", (40, 40), (200, 0, 0, 90)).save(photos / "c.png")
    vectors = np.stack([truth(photos, path, FakeEncoder()) for path in PATHS])
    vectors[1], vectors[2] = unit(1), unit(2)
    exported = read(foreign(tmp_path / "in", (vectors, PATHS)))
    assert checked(exported, photos) == 4
    with Store.create(tmp_path / "index", photos, fake_spec()) as new:
        done = import_.add(new, matched(exported, photos), quiet)
        assert (done.added, sorted(done.left), done.failed) == (4, [b"b.jpg", b"c.png"], [])
        assert set(stored(new)) == {os.fsencode(path) for path in PATHS} - set(done.left)


def test_without_a_picture_to_compare_nothing_is_believed(photos: Path, tmp_path: Path) -> None:
    exported = theirs(tmp_path / "in", photos, PATHS)
    for path in PATHS:
        (photos / path).write_bytes(b"no picture")
    with pytest.raises(ExchangeError, match="can be compared"):
        checked(exported, photos)


# -- import --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_what_was_exported_is_imported_as_it_was(store: Store, tmp_path: Path, kind: Kind) -> None:
    export(store, tmp_path / "out", kind, EVERYTHING, quiet)
    moved = tmp_path / "moved"
    shutil.copytree(store.root, moved, ignore=shutil.ignore_patterns(FOLDER))
    exported = read(tmp_path / "out")
    with Store.create(moved / FOLDER, moved, fake_spec()) as new:
        done = import_.add(new, matched(exported, moved), quiet)
        assert done == Imported(added=7)
        new.update_vector_index()
        before, after = stored(store), stored(new)
        assert after.keys() == before.keys()
        for path, image in after.items():
            np.testing.assert_array_equal(image.vector, before[path].vector)
            for fact in ("content_hash", "width", "height", "camera", "latitude", "longitude"):
                assert getattr(image, fact) == getattr(before[path], fact)
        hits = [(hit.path, hit.score) for hit in new.search(unit(3), 7)]
        assert hits == [(hit.path, hit.score) for hit in store.search(unit(3), 7)]
        assert new.bad_vectors() == []
        summary = reconcile(new, scan.find(os.fsencode(moved)), FakeEncoder)
        assert (summary.unchanged, summary.embedded, summary.looked_at) == (7, 0, 0)


def test_a_picture_that_changed_since_it_was_exported_is_left_to_index(
    store: Store, tmp_path: Path
) -> None:
    export(store, tmp_path / "out", "parquet", EVERYTHING, quiet)
    moved = tmp_path / "moved"
    shutil.copytree(store.root, moved, ignore=shutil.ignore_patterns(FOLDER))
    make_picture(moved / "a.png", 50)
    (moved / "b.jpg").replace(moved / "c.png")
    exported = read(tmp_path / "out")
    assert checked(exported, moved) == 4
    with Store.create(moved / FOLDER, moved, fake_spec()) as new:
        done = import_.add(new, matched(exported, moved), quiet)
        assert (done.added, sorted(done.left), done.failed) == (4, [b"a.png", b"c.png"], [])
        summary = reconcile(new, scan.find(os.fsencode(moved)), FakeEncoder)
        assert (summary.unchanged, summary.embedded) == (4, 2)
        for path, image in stored(new).items():
            own = truth(moved, os.fsdecode(path), FakeEncoder())
            np.testing.assert_array_equal(half(image.vector), half(own))


def test_embeddings_of_any_length_become_unit_vectors(photos: Path, tmp_path: Path) -> None:
    exported = theirs(tmp_path / "in", photos, PATHS, scale=7.5)
    with Store.create(tmp_path / "index", photos, fake_spec()) as new:
        import_.add(new, matched(exported, photos), quiet)
        for path, image in stored(new).items():
            own = truth(photos, os.fsdecode(path), FakeEncoder())
            np.testing.assert_allclose(image.vector, own, atol=1e-3)
        assert new.bad_vectors() == []


def test_a_file_that_cannot_be_read_is_named_and_left_out(photos: Path, tmp_path: Path) -> None:
    exported = theirs(tmp_path / "in", photos, PATHS)
    (photos / "a.png").write_bytes(b"no picture")
    rows = matched(exported, photos)
    (photos / "b.jpg").unlink()
    with Store.create(tmp_path / "index", photos, fake_spec()) as new:
        done = import_.add(new, rows, quiet)
        assert done.added == len(stored(new)) == 4
    assert dict(done.failed) == {
        b"a.png": "not an image in any format that clipsearch reads",
        b"b.jpg": "No such file or directory",
    }


def test_what_was_imported_before_a_kill_is_kept(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_, "_FILES_PER_COMMIT", 2)
    exported = theirs(tmp_path / "in", photos, PATHS)

    def interrupted(doing: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with Store.create(tmp_path / "index", photos, fake_spec()) as new:
        with pytest.raises(KeyboardInterrupt):
            import_.add(new, matched(exported, photos), interrupted)
        assert len(stored(new)) == 4
        rest = matched(exported, photos, new)
        assert (len(rest.wanted), rest.known) == (2, 4)
        assert import_.add(new, rest, quiet).added == 2
        assert set(stored(new)) == {os.fsencode(path) for path in PATHS}
