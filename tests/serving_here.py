"""A collection with names that nobody should give a file, and ``browse`` serving it in a thread."""

import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from conftest import make_picture, places_beside
from fakes import FakeEncoder, fake_spec, picture

from clipsearch.cli.commands.browse import filter_options
from clipsearch.images.thumbnails import Thumbnailer
from clipsearch.storage import collection
from clipsearch.storage.catalog import FOLDER, Store
from clipsearch.web.server import Server, Site
from clipsearch.web.session import OpenCollections

HOSTILE = [
    b"<script>document.title='owned'<!--.png",
    b'"><img src=x onerror=document.title=1>.png',
    b"' onfocus='document.title=1' autofocus '.png",
    b"two\nlines\r.png",
    b"\xff\xfe not text.png",
    "\u202egnp.turned\u2066.png".encode(),
    b"<figure><h1>out<style>*{display:none}.png",
    b"&lt;b&gt;&quot;.png",
    b"{{1+1}} ${1} %41 %.png",
    b"javascript:alert(1).png",
    b"#hash?query=1&like=0-1.png",
    ("long" * 60).encode() + b".png",
]


def make_collection(root: Path, count: int) -> Path:
    """Index ``count`` images below ``root``, the hostile ones first; none means anything."""
    root.mkdir(parents=True)
    names = [*HOSTILE, *(b"plain %03d.png" % n for n in range(count - len(HOSTILE)))][:count]
    for seed, name in enumerate(names):
        make_picture(os.path.join(os.fsencode(root), name), seed)
    with places_beside(root), Store.create(root / FOLDER, root, fake_spec()) as store:
        with store.batch():
            store.add(picture(name, seed) for seed, name in enumerate(names))
        store.update_vector_index()
        collection.calibrate(store, FakeEncoder)
    return root


@contextmanager
def served(*roots: Path, max_false_alarm: float = 0.05, strict: bool = False) -> Iterator[Server]:
    """The page of these collections, until the end of the block."""
    encoder, complaints = FakeEncoder(), list[str]()
    collections = OpenCollections([root / FOLDER for root in roots], lambda _: encoder)
    with Thumbnailer() as thumbnailer, closing(collections):
        site = Site(
            collections,
            thumbnailer,
            lambda f: filter_options(f).filter(b""),
            max_false_alarm,
            strict=strict,
        )
        with Server(site, 0, complaints.append) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield server
            finally:
                server.shutdown()
                thread.join()
    assert not complaints
