"""Embeddings of picture files: those that an index has already, and the others made anew."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from clipsearch.errors import ImageError
from clipsearch.images.pool import DecodePool
from clipsearch.images.scan import content_hash
from clipsearch.indexing.update import LoadEncoder, Progress
from clipsearch.paths import absolute, require_regular
from clipsearch.records import DecodedImage, Encoder, ImageFile, ModelSpec, Vectors
from clipsearch.storage.catalog import Store

_DECODED_AHEAD = 64


@dataclass(frozen=True, slots=True)
class Embedded:
    """What became of a list of files."""

    rows: tuple[int, ...]
    """Positions in the list of those that have an embedding, ascending."""
    vectors: Vectors
    """``(n, dim)``, in the order of ``rows``."""
    hashes: tuple[bytes, ...]
    """Content hashes, in the order of ``rows``."""
    reused: int
    """How many embeddings the index had."""
    failed: tuple[tuple[bytes, str], ...]
    """Path and reason of the files that cannot be decoded or read."""


def embed(
    root: bytes,
    paths: Sequence[bytes],
    spec: ModelSpec,
    store: Store | None,
    load_encoder: LoadEncoder,
    progress: Progress,
) -> Embedded:
    """Embed files with the model ``spec``; those whose content ``store`` has are only looked up.

    paths: relative to ``root`` or absolute, none twice. store: an index made with that model.
    load_encoder: called at most once, and only if there is a picture to embed.
    Raises ModelError. A file that cannot be decoded is no error: it is named in the result.
    """
    vectors: dict[bytes, Vectors] = {}
    hashes: dict[bytes, bytes] = {}
    failed: dict[bytes, str] = {}
    for done, path in enumerate(paths):
        progress("looking up", done, len(paths))
        try:
            require_regular(absolute(root, path))
            with open(absolute(root, path), "rb") as file:
                hashes[path] = content_hash(file)
        except OSError as error:
            failed[path] = error.strerror or str(error)
            continue
        vector = _stored(store, hashes[path]) if store else None
        if vector is not None:
            vectors[path] = vector
    reused = len(vectors)
    new = [path for path in hashes if path not in vectors]
    for path, outcome in _made(root, new, spec, load_encoder, progress):
        if isinstance(outcome, str):
            failed[path] = outcome
        else:
            vectors[path] = outcome
    rows = tuple(n for n, path in enumerate(paths) if path in vectors)
    empty = np.empty((0, spec.dim), np.float32)
    return Embedded(
        rows=rows,
        vectors=np.stack([vectors[paths[n]] for n in rows]) if rows else empty,
        hashes=tuple(hashes[paths[n]] for n in rows),
        reused=reused,
        failed=tuple((path, failed[path]) for path in paths if path in failed),
    )


def _stored(store: Store, digest: bytes) -> Vectors | None:
    for id, _ in store.find_content(digest):
        with suppress(KeyError):  # removed a moment ago
            return store.vector(id)
    return None


def _made(
    root: bytes,
    paths: Sequence[bytes],
    spec: ModelSpec,
    load_encoder: LoadEncoder,
    progress: Progress,
) -> Iterator[tuple[bytes, Vectors | str]]:
    """Each path with its embedding, or with the reason why there is none."""
    if not paths:
        return
    progress("loading the model", 0, len(paths))
    files = [ImageFile(path, 0, 0) for path in paths]
    with DecodePool(root, files, spec.preprocessing, max_pixels=None, ahead=_DECODED_AHEAD) as pool:
        encoder = load_encoder()
        waiting: list[tuple[bytes, DecodedImage]] = []
        for done, (file, outcome) in enumerate(pool, start=1):
            match outcome:
                case DecodedImage():
                    waiting.append((file.path, outcome))
                case ImageError():
                    yield file.path, str(outcome)
                case OSError():
                    yield file.path, outcome.strerror or str(outcome)
            if len(waiting) >= encoder.batch_size or done == len(paths):
                yield from _batch(encoder, waiting)
                waiting = []
                progress("embedding", done, len(paths))


def _batch(
    encoder: Encoder, images: Sequence[tuple[bytes, DecodedImage]]
) -> Iterator[tuple[bytes, Vectors]]:
    if images:
        vectors = encoder.encode_images(np.stack([image.pixels for _, image in images]))
        yield from ((path, vector) for (path, _), vector in zip(images, vectors, strict=True))


def unchanged(store: Store, files: Sequence[ImageFile], under: bytes) -> dict[bytes, int]:
    """Path -> id of the files below ``under`` that are as the index knows them.

    Size and modification time tell, as they do when a folder is indexed: no file is read.
    """
    known = store.known(under)
    return {
        file.path: known[file.path].id
        for file in files
        if file.path in known
        and not known[file.path].failed
        and (known[file.path].size, known[file.path].mtime_ns) == (file.size, file.mtime_ns)
    }
