"""An index made by the version before opens, searches and updates.

``data/earlier_index`` was made with the code of commit dcdc6c6: six images of two classes, put
in with its ``Store`` and ``update`` and a ``FakeEncoder(dim=4)``, then calibrated, and evaluated
on its own folder. It is not to be made again: such indexes are out there.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_here
from fakes import DecodeHere, FakeEncoder, fake_spec, unit
from PIL import Image

from clipsearch.images import scan
from clipsearch.indexing import embed
from clipsearch.indexing.reconcile import reconcile
from clipsearch.records import Encoder
from clipsearch.storage import collection, known
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.storage.collection import Collection

PATHS = {b"%s/%d.png" % (name, n) for name in (b"ball", b"kite") for n in range(3)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The images with the index in its place."""
    root = shutil.copytree(ROOT / "tests/data/earlier_index", tmp_path / "toys")
    (root / "index").rename(root / FOLDER)
    return root


@pytest.fixture(autouse=True)
def decoding_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "DecodePool", DecodeHere)


@pytest.fixture
def reader(root: Path) -> Iterator[Store]:
    with Store.open(root / FOLDER) as store:
        yield store


def no_encoder() -> Encoder:
    raise AssertionError("there is nothing to embed")


def test_it_opens_and_searches(reader: Store) -> None:
    assert reader.spec == fake_spec(4)
    assert set(reader.known()) == PATHS
    for path, entry in reader.known().items():
        best, *others = reader.search(reader.vector(entry.id), 10)
        assert (best.path, len(others)) == (path, 5)
        assert best.score == pytest.approx(1, abs=1e-3)
    assert "earlier version" in reader.damage  # its vector file, which has no checksums
    assert reader.status().pending == 6
    assert Collection(reader).false_alarms("text") is not None
    assert not Collection(reader).is_calibrated  # for verdicts, until the next index run


def test_it_stays_tested(reader: Store, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = Collection(reader)
    assert known.domain.class_names == ("kite", "ball")
    assert known.tested == "tested"
    assert known.evaluation is not None
    assert known.evaluation.measures["top1"] == pytest.approx(4 / 6)
    assert (known.evaluation.kind, known.evaluation.images) == ("labels", 6)
    line = collection.tested_line(known)
    assert line.startswith("tested on the domain toys with 6 images on 2026-")
    assert run_here("status", root) == 0
    assert line in capsys.readouterr().out


def test_the_first_search_writes_its_vector_file_again(
    root: Path,
) -> None:
    told: list[str] = []
    with known.opened(root, None, told.append) as ((store,), _):
        assert len(store.search(unit(1, 4), 10)) == 6
    assert len(told) == 1
    assert "an earlier version of clipsearch wrote it); it was rewritten" in told[0]
    with Store.open(root / FOLDER) as reader:
        assert reader.status().pending == 0
        assert not reader.damage


def test_an_update_reuses_its_embeddings_and_adds_to_them(root: Path) -> None:
    pixels = np.full((16, 16, 3), 200, np.uint8)
    with Store.open_for_writing(root / FOLDER) as store:
        before = {path: store.vector(entry.id) for path, entry in store.known().items()}
        found = scan.find(os.fsencode(root))
        summary = reconcile(store, found, no_encoder)
        assert (summary.embedded, summary.removed, len(store.known())) == (0, 0, 6)
        Image.fromarray(pixels).save(root / "new.png")
        encoder = FakeEncoder(4)
        summary = reconcile(store, scan.find(os.fsencode(root)), lambda: encoder)
        assert (summary.added, summary.embedded, encoder.pictures) == (1, 1, 1)
        for path, vector in before.items():
            np.testing.assert_array_equal(store.vector(store.known()[path].id), vector)
        assert store.count() == 7


def test_its_folders_are_compared_once_and_passed_over_then(root: Path) -> None:
    """Its catalog is of schema 3, which had no listings."""
    with Store.open_for_writing(root / FOLDER) as store:
        assert store.listings() == {}
        assert reconcile(store, scan.find(os.fsencode(root)), no_encoder).unchanged == 6
        found = scan.find(os.fsencode(root), listed=store.listings())
        assert (found.files, found.same) == ([], {b"ball": 3, b"kite": 3})
        assert reconcile(store, found, no_encoder).unchanged == 6


def test_its_texts_are_embedded_again_since_their_order_is_unknown(root: Path) -> None:
    """What it kept was under a fingerprint that is the same in any order of the classes."""
    with Store.open_for_writing(root / FOLDER) as store:
        assert Collection(store).texts is None
        encoder = FakeEncoder(4)
        assert collection.calibrate(store, lambda: encoder)
        assert len(encoder.texts) > 500
        known = Collection(store)
        assert known.texts is not None
        of_kites = replace(known.domain, classes=known.domain.classes[:1])
        (expected,) = FakeEncoder(4).encode_texts(of_kites.prompts(0))
        np.testing.assert_allclose(known.texts.gate.classes[0], expected, atol=1e-3)
        assert known.tested == "tested"
        assert known.is_calibrated
