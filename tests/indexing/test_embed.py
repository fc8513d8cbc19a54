"""Embeddings of files: looked up where the index has the content, made again where it has not."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import make_picture
from fakes import DecodeHere, FakeEncoder, fake_spec

from clipsearch.images import scan
from clipsearch.indexing import embed
from clipsearch.indexing.embed import Embedded, embeddings_of, unchanged
from clipsearch.indexing.reconcile import reconcile
from clipsearch.records import Encoder
from clipsearch.storage.catalog import Store


@pytest.fixture(autouse=True)
def decode_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "DecodePool", DecodeHere)


@pytest.fixture
def store(photos: Path) -> Iterator[Store]:
    """The six images, indexed."""
    with Store.create(photos / ".clipsearch", photos, fake_spec()) as made:
        reconcile(made, scan.find(os.fsencode(photos)), FakeEncoder)
        yield made


def run(root: Path, paths: list[str], store: Store | None, encoder: FakeEncoder) -> Embedded:
    encoded = [os.fsencode(path) for path in paths]
    return embeddings_of(
        os.fsencode(root), encoded, fake_spec(), store, lambda: encoder, lambda *_: None
    )


def never() -> Encoder:
    raise AssertionError("there is nothing to embed")


def test_what_the_index_has_needs_no_model(store: Store, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    shutil.copy(photos / "sub/e.png", tmp_path / "set/renamed.png")
    found = embeddings_of(
        os.fsencode(tmp_path),
        [b"set/renamed.png", os.fsencode(photos / "a.png")],
        store.spec,
        store,
        never,
        lambda *_: None,
    )
    assert (found.rows, found.reused, found.failed) == ((0, 1), 2, ())
    known = store.known()
    for vector, path in zip(found.vectors, (b"sub/e.png", b"a.png"), strict=True):
        np.testing.assert_array_equal(vector, store.vector(known[path].id))
    with open(photos / "sub/e.png", "rb") as file:
        assert found.hashes[0] == scan.content_hash(file)


def test_the_others_are_embedded_in_batches_and_in_order(photos: Path) -> None:
    names = ["sub/f.jpg", "a.png", "c.png", "d.webp", "b.jpg"]
    encoder = FakeEncoder(batch_size=2)
    found = run(photos, names, None, encoder)
    assert (found.rows, found.reused) == ((0, 1, 2, 3, 4), 0)
    assert encoder.batches == [2, 2, 1]
    for row, name in enumerate(names):
        alone = run(photos, [name], None, FakeEncoder())
        np.testing.assert_array_equal(found.vectors[row], alone.vectors[0])
        assert found.hashes[row] == alone.hashes[0]


def test_old_and_new_together_keep_their_places(store: Store, photos: Path) -> None:
    make_picture(photos / "new.png", seed=50)
    encoder = FakeEncoder()
    found = run(photos, ["b.jpg", "new.png", "a.png"], store, encoder)
    assert (found.rows, found.reused, encoder.pictures) == ((0, 1, 2), 2, 1)
    alone = run(photos, ["new.png"], None, FakeEncoder())
    np.testing.assert_array_equal(found.vectors[1], alone.vectors[0])


def test_what_cannot_be_decoded_is_named(store: Store, photos: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"no picture")
    found = run(photos, ["gone.png", "a.png", "broken.jpg"], store, FakeEncoder())
    assert found.rows == (1,)
    assert len(found.vectors) == len(found.hashes) == 1
    (gone, why), (broken, reason) = found.failed
    assert (gone, why) == (b"gone.png", "No such file or directory")
    assert broken == b"broken.jpg"
    assert "not an image" in reason


def test_nothing_at_all(photos: Path) -> None:
    found = run(photos, [], None, FakeEncoder())
    assert found.rows == ()
    assert found.vectors.shape == (0, fake_spec().dim)


def test_unchanged_files_are_known_by_size_and_time(store: Store, photos: Path) -> None:
    (photos / "a.png").touch()
    make_picture(photos / "b.jpg", seed=9, size=(90, 90))
    make_picture(photos / "new.png", seed=50)
    files = scan.find(os.fsencode(photos)).files
    ids = {path: image.id for path, image in store.known().items()}
    kept = {b"c.png", b"d.webp", b"sub/e.png", b"sub/f.jpg"}
    assert unchanged(store, files, b"") == {path: ids[path] for path in kept}
    below = scan.find(os.fsencode(photos), under=b"sub").files
    assert unchanged(store, below, b"sub").keys() == {b"sub/e.png", b"sub/f.jpg"}


@pytest.mark.skipif(os.name == "nt", reason="needs FIFOs")
def test_what_may_never_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    found = run(tmp_path, ["fifo.png", "/dev/zero"], None, FakeEncoder())
    assert [reason for _, reason in found.failed] == ["not a regular file"] * 2
