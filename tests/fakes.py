"""Stand-ins for the slow parts, and the plain truth that an index is compared with.

The encoder is a hash: fast, deterministic, and different for every image. The decoder pool
decodes for real, but in this process. `Model` knows nothing of SQLite and FAISS: it is a dict.
"""

import hashlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from clipsearch.errors import ImageError
from clipsearch.images.pool import Outcome, Wanted, Whole
from clipsearch.paths import absolute
from clipsearch.records import (
    EmbeddedImage,
    Hit,
    ImageFile,
    ModelSpec,
    Pixels,
    Preprocessing,
    TextEncoder,
    Vectors,
)
from clipsearch.storage import collection
from clipsearch.storage.catalog import REBUILD, Store
from clipsearch.vectors import l2_normalise, top_k

DIM = 16

ESCAPES = "\x1b[2Jred\x07\x9b1m\r\n\u202etxt.exe\u2066\u200f\u2028\ufeff\udce9\x7f\0"
"""What a terminal would obey, and what turns writing around."""


def fake_spec(dim: int = DIM, fingerprint: str = "f" * 64, name: str = "fake") -> ModelSpec:
    """A model that exists only here; its images are 8 x 8."""
    preprocessing = Preprocessing((8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return ModelSpec(name, None, "0" * 64, {"embed_dim": dim}, preprocessing, fingerprint)


def unit(seed: int | bytes, dim: int = DIM) -> Vectors:
    """A unit vector `(dim,)`, the same for the same seed."""
    if isinstance(seed, bytes):
        seed = int.from_bytes(hashlib.blake2b(seed, digest_size=8).digest())
    return l2_normalise(np.random.default_rng(seed).standard_normal(dim))


def picture(path: bytes, seed: int, *, dim: int = DIM, mtime_ns: int = 1) -> EmbeddedImage:
    """An image as the catalog takes it; its content and its vector follow from the seed."""
    content = hashlib.blake2b(b"%d" % seed, digest_size=20).digest()
    file = ImageFile(path, 1000 + seed, mtime_ns)
    return EmbeddedImage(file, content, 40 + seed % 7, 30, None, unit(seed, dim))


def clustered(count: int, dim: int = DIM, kinds: int = 40, seed: int = 0) -> Vectors:
    """Embeddings of images of so many kinds `(count, dim)`: each close to its kind's own."""
    random = np.random.default_rng(seed)
    near = _kinds(dim, kinds)[random.integers(0, kinds, count)]
    return l2_normalise(near + 0.05 * random.standard_normal((count, dim)))


def texts_for(count: int, dim: int = DIM, kinds: int = 40, seed: int = 1) -> Vectors:
    """Embeddings of texts `(count, dim)` for `clustered`: all of them shifted in one direction."""
    random = np.random.default_rng(seed)
    near = _kinds(dim, kinds)[random.integers(0, kinds, count)]
    return l2_normalise(near + unit(7, dim) + 0.05 * random.standard_normal((count, dim)))


def _kinds(dim: int, kinds: int) -> Vectors:
    return l2_normalise(np.random.default_rng(100).standard_normal((kinds, dim)))


def unsynchronised(store: Store) -> Store:
    """The same store, which no longer waits for the disk: no test pulls the plug."""
    store._db.execute("PRAGMA synchronous = OFF")
    return store


def forget_origins(catalog: sqlite3.Connection) -> None:
    """Make a catalog one of schema version 2, which knew no cameras, places and failures."""
    for column in ("camera", "latitude", "longitude", "failure"):
        catalog.execute(f"ALTER TABLE images DROP COLUMN {column}")
    catalog.execute("DROP TABLE archived")
    catalog.execute("DROP TABLE folders")
    catalog.execute("PRAGMA user_version = 2")


def other_stat(
    status: os.stat_result, *, uid: int | None = None, device: int | None = None
) -> os.stat_result:
    """What is known of a file, but for its owner or its device."""
    facts, more = status.__reduce__()[1]
    changed = {stat.ST_UID: uid, stat.ST_DEV: device}
    wanted = [fact if changed.get(n) is None else changed[n] for n, fact in enumerate(facts)]
    return os.stat_result(wanted, more)


class FakeEncoder:
    """Embeds pixels as a hash of them, and remembers what it was asked for."""

    def __init__(self, dim: int = DIM, batch_size: int = 16) -> None:
        self.dim = dim
        self.batch_size = batch_size
        self.batches: list[int] = []
        """How many images each batch had."""
        self.texts: list[str] = []
        self.before_batch: Callable[[], None] = lambda: None
        """Called with each batch, before it is counted."""

    @property
    def pictures(self) -> int:
        """How many images were embedded in all."""
        return sum(self.batches)

    def encode_images(self, pixels: Pixels) -> Vectors:
        self.before_batch()
        self.batches.append(len(pixels))
        return np.stack([unit(one.tobytes(), self.dim) for one in pixels])

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        self.texts += texts
        return np.stack([unit(text.encode(), self.dim) for text in texts])

    def for_many_texts(self) -> None:
        """Nothing faster."""


class OtherEncoder(FakeEncoder):
    """Another model of the same dimension: what it says means nothing to the first."""

    def encode_images(self, pixels: Pixels) -> Vectors:
        return -super().encode_images(pixels)[:, ::-1]

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return -super().encode_texts(texts)[:, ::-1]


def rebuild(directory: Path, spec: ModelSpec, encoder: TextEncoder) -> None:
    """Put an index of the same images by another model in the place of this one.

    encoder: an ``OtherEncoder``, in whose space the new embeddings lie.
    """
    with (
        Store.open_for_writing(directory) as old,
        Store.create(directory / REBUILD, old.root, spec) as new,
    ):
        with new.batch():
            new.add(replace(image, vector=-image.vector[::-1]) for image in old.whole(old.ids()))
        collection.calibrate(new, lambda: encoder)
        new.update_vector_index(force=True)
        old.replace_with(new)


class DecodeHere:
    """What `DecodePool` does, without other processes and in the order of the files."""

    def __init__(
        self,
        root: bytes,
        files: Sequence[ImageFile],
        wanted: Wanted,
        *,
        max_pixels: int | None,
        ahead: int,
        workers: int | None = None,
    ) -> None:
        self._root = root
        self._files = files
        self._wanted, self._max_pixels = wanted, max_pixels

    def __enter__(self) -> "DecodeHere":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def __iter__(self) -> Iterator[tuple[ImageFile, Outcome]]:
        from clipsearch.images import decode  # here, since it is slow to load

        for file in self._files:
            source = file.span or absolute(self._root, file.path)
            try:
                match self._wanted:
                    case None:
                        yield file, decode.see(source, self._max_pixels)
                    case "origin":
                        yield file, decode.read_origin(source)
                    case Whole(longest):
                        yield file, decode.decode_whole(source, longest, self._max_pixels)
                    case Preprocessing() as prepared:
                        yield file, decode.decode(source, prepared, self._max_pixels)
            except (ImageError, OSError) as error:
                yield file, error


def assert_exact(
    hits: Sequence[Hit],
    vectors: Mapping[bytes, Vectors],
    query: Vectors,
    k: int,
    under: bytes = b"",
) -> None:
    """The hits are what numpy finds among these images, up to the rounding of a score.

    Images whose scores are closer than that may change places; but every hit must have its own
    image's score, and be as good as the one that numpy has at its rank.
    """
    paths = [path for path in vectors if not under or path.startswith(under + b"/")]
    rows = np.zeros((len(paths), len(query)), np.float16)
    for row, path in enumerate(paths):
        rows[row] = vectors[path]
    ranks, scores = top_k(query, np.arange(len(paths)), rows, k)
    own = dict(zip(paths, rows.astype(np.float32) @ query, strict=True))
    assert len(hits) == len(ranks)
    assert len({hit.path for hit in hits}) == len({hit.id for hit in hits}) == len(hits)
    assert {hit.path for hit in hits} <= set(paths)
    np.testing.assert_allclose([hit.score for hit in hits], scores, rtol=0, atol=2e-6)
    np.testing.assert_allclose(
        [hit.score for hit in hits], [own[hit.path] for hit in hits], rtol=0, atol=2e-6
    )
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def vectors_of(images: Iterable[EmbeddedImage]) -> dict[bytes, Vectors]:
    """Path -> vector; of several with one path the last counts."""
    return {image.file.path: image.vector for image in images}


def half(vectors: Vectors) -> npt.NDArray[np.float16]:
    """As the catalog holds them."""
    return vectors.astype("<f2")
