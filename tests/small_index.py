"""Small index folders, and what every search in them must answer."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import ROOT
from fakes import (
    assert_exact,
    picture,
    unit,
    vectors_of,
)

from clipsearch.records import EmbeddedImage, Filter, Vectors
from clipsearch.storage.catalog import Store

QUERY = unit(1_000_000)


def pictures(count: int, start: int = 0, folder: bytes = b"") -> list[EmbeddedImage]:
    return [picture(folder + b"%04d.png" % n, n) for n in range(start, start + count)]


def forest(count: int, start: int = 0) -> list[EmbeddedImage]:
    folders = (b"", b"sub/", b"sub/deep/", b"subway/")
    return [picture(folders[n % 4] + b"%d.png" % n, n) for n in range(start, start + count)]


def add(store: Store, images: list[EmbeddedImage]) -> dict[bytes, Vectors]:
    with store.batch():
        store.add(images)
    return vectors_of(images)


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Name -> modification time and content, of all that a folder holds."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.iterdir()}


def check(store: Store, vectors: dict[bytes, Vectors]) -> None:
    """Every search that this store answers is exact."""
    for seed in range(2):
        query = unit(2_000_000 + seed)
        for k in (1, 10, len(vectors) + 5):
            assert_exact(store.search(query, k), vectors, query, k)
        for under in (b"sub", b"sub/deep", b"none"):
            assert_exact(store.search(query, 7, Filter(under)), vectors, query, 7, under)


HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from fakes import picture
from clipsearch.storage.catalog import Store
store = Store.open_for_writing(Path(sys.argv[1]))
if sys.argv[3] == "spilling":  # a transaction so large that it has begun to write
    store._db.execute("PRAGMA cache_spill = 5")
    store._db.execute("PRAGMA cache_size = 5")
store._db.execute("BEGIN IMMEDIATE")
store.add(picture(b"uncommitted/%d" % n, 100_000 + n) for n in range(500))
store.remove([b"0.png"])
print("ready", flush=True)
time.sleep(60)
"""


@contextmanager
def holder(directory: Path, mode: str = "") -> Iterator["subprocess.Popen[bytes]"]:
    """Another process, in the middle of a batch."""
    here = os.fspath(ROOT / "tests")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, directory, here, mode], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()
