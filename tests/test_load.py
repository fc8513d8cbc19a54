"""Large collections: the whole program within bounded memory, and no step that is quadratic."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import wait_and_watch
from fakes import fake_spec
from PIL import Image

from clipsearch.records import EmbeddedImage, ImageFile, Vectors
from clipsearch.search.embed import Embedded
from clipsearch.search.query import SearchOptions
from clipsearch.search.rank import rank_each
from clipsearch.storage import collection
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.storage.collection import Collection
from clipsearch.vectors import l2_normalise

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="counts memory as POSIX does"),
]

DIM = 512


@pytest.mark.process
def test_a_hundred_thousand_pictures_are_indexed_within_bounded_memory(
    tmp_path: Path, tiny_model: Path
) -> None:
    count = 100_000
    root = tmp_path / "photos"
    for n in range(count):
        if n % 1000 == 0:
            folder = root / f"{n // 1000:03}"
            folder.mkdir(parents=True)
        colour = ((n * 7) % 256, (n // 256) % 256, (n * 31) % 256)
        Image.new("RGB", (16, 16 + n % 9), colour).save(folder / f"{n:06}.bmp")
    for options in (["--model", tiny_model], []):
        with open(tmp_path / "err", "wb") as err:
            command = [sys.executable, "-m", "clipsearch", "index", root, *options]
            process = subprocess.Popen(command, stderr=err)
            peak = wait_and_watch(process)
        said = (tmp_path / "err").read_text()
        assert process.returncode == 0, said
        assert peak < 1.5 * 2**30
    assert f"{count:,} unchanged" in said
    with Store.open(root / FOLDER) as store:
        assert store.status().images == count


def rows(count: int) -> Iterator[EmbeddedImage]:
    random = np.random.default_rng(0)
    for n in range(count):
        if n % 10_000 == 0:
            vectors = l2_normalise(random.standard_normal((10_000, DIM)))
        file = ImageFile(b"%03d/%07d.jpg" % (n // 5000, n), 1, n)
        yield EmbeddedImage(file, n.to_bytes(20, "big"), 640, 480, None, vectors[n % 10_000])


class Texts:
    """Texts at random."""

    def encode_texts(self, texts: object) -> Vectors:
        size = len(texts)  # type: ignore[arg-type]
        return l2_normalise(np.random.default_rng(size).standard_normal((size, DIM)))


def test_a_million_rows_are_opened_searched_and_added_to(tmp_path: Path) -> None:
    count = 1_000_000
    root = tmp_path / "photos"
    root.mkdir()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Store.create(root / FOLDER, root, fake_spec(dim=DIM)) as store:
        source = rows(count)
        for _ in range(count // 10_000):
            with store.batch():
                store.add(next(source) for _ in range(10_000))
        store.update_vector_index()
        collection.calibrate(store, Texts)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 1.5 * 2**30  # the vectors alone are 1 GB, and mapped
    query = Texts().encode_texts(["one"])[0]
    with Store.open(root / FOLDER) as store:
        (ranking,) = rank_each([Collection(store)], [Embedded(query)], SearchOptions(all=True))
        assert len(ranking.hits) == 10
        started = time.monotonic()
        (ranking,) = rank_each([Collection(store)], [Embedded(query)], SearchOptions(all=True))
        assert time.monotonic() - started < 5  # no promise, but a scan in Python takes minutes
        assert store.status().images == count
        (best,) = store.search(store.vector(ranking.hits[3].id), 1)
        assert best.id == ranking.hits[3].id
    with Store.open_for_writing(root / FOLDER) as store:
        with store.batch():
            store.add([next(rows(1))])
        started = time.monotonic()
        store.update_vector_index()
        assert not collection.calibrate(store, Texts)
        assert time.monotonic() - started < 10  # nothing is written again for one image
