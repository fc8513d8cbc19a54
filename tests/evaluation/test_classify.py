"""Which images are classified, and with which embeddings."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes import DecodeHere, FakeEncoder, fake_spec

from clipsearch.evaluation import classify
from clipsearch.images import scan
from clipsearch.indexing import embed
from clipsearch.indexing.reconcile import reconcile
from clipsearch.storage.catalog import Store


@pytest.fixture
def store(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The six images, indexed."""
    monkeypatch.setattr(embed, "DecodePool", DecodeHere)
    with Store.create(photos / ".clipsearch", photos, fake_spec()) as made:
        reconcile(made, scan.find(os.fsencode(photos)), FakeEncoder)
        yield made


def test_a_picture_that_a_writer_changes_meanwhile_is_embedded(store: Store, photos: Path) -> None:
    pictures = classify.indexed(store, photos)
    gone, damaged = pictures[0].id, pictures[1].id
    with store.batch():
        store._db.execute("DELETE FROM images WHERE id = ?", (gone,))
        store._db.execute("UPDATE vectors SET vector = x'00' WHERE id = ?", (damaged,))
    encoder = FakeEncoder()
    kept, vectors, failed = classify.embeddings(
        pictures, store.spec, store, lambda: encoder, lambda *_: None
    )
    assert (kept, failed) == (pictures, ())
    assert np.isfinite(vectors).all()
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


def test_what_cannot_be_listed_is_told(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "locked").mkdir()
    scandir = os.scandir

    def refusing(path: bytes) -> Iterator["os.DirEntry[bytes]"]:
        if path.endswith(b"locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    pictures, unreadable = classify.gathered([photos], None)
    assert len(pictures) == 6
    assert unreadable == [(os.fsencode(photos / "locked"), "Permission denied")]
