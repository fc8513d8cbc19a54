"""Turn image files into embeddings: decode in a pool, batch, encode.

``embed_files`` does this on this machine, for every command; ``on_ray`` does it on a cluster.
``embeddings_of`` does it only for images that an index lacks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from clipsearch.errors import ImageError
from clipsearch.images.pool import DecodePool
from clipsearch.images.scan import content_hash
from clipsearch.paths import absolute, require_regular
from clipsearch.records import (
    DecodedImage,
    EmbeddedImage,
    Encoder,
    ImageFile,
    ModelSpec,
    Pixels,
    Preprocessing,
    Vectors,
)
from clipsearch.storage.catalog import Store

Progress = Callable[[str, int, int], None]
"""Called with the current step ("embedding"), how many are done, and how many there are."""

LoadEncoder = Callable[[], Encoder]
"""Loads the model; called at most once, and only if needed."""

Outcome = EmbeddedImage | ImageError | OSError
"""The outcome for a file: its embedding, or why it has none."""


class EmbedFiles(Protocol):
    """Embeds images: ``embed_files`` on this machine, or a cluster."""

    def __call__(
        self,
        root: bytes,
        files: Sequence[ImageFile],
        preprocessing: Preprocessing,
        load_encoder: LoadEncoder,
        *,
        max_pixels: int | None = None,
        progress: Progress = ...,
    ) -> Iterator[list[tuple[ImageFile, Outcome]]]:
        """Yield each file once with its outcome, as soon as it is known."""


_DECODED_AHEAD = 64
"""Decoded images waiting for the model: enough to fill any batch, 10 MB at 224 x 224."""

_FIRST_BATCH = 4
"""Batches grow from this size, so that the first results arrive as soon as the model is ready."""


def embed_files(
    root: bytes,
    files: Sequence[ImageFile],
    preprocessing: Preprocessing,
    load_encoder: LoadEncoder,
    *,
    max_pixels: int | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> Iterator[list[tuple[ImageFile, Outcome]]]:
    """Yield each file once with its outcome, as soon as it is known.

    Embeddings come a batch at a time, errors one by one. files: relative to ``root`` or absolute.
    load_encoder: called while decoding runs, and not called if there are no files.
    Raises ModelError. A file that cannot be decoded or read is an outcome, not an error.
    """
    if not files:
        return
    progress("loading the model", 0, len(files))
    with DecodePool(
        root, files, preprocessing, max_pixels=max_pixels, ahead=_DECODED_AHEAD
    ) as pool:
        encoder = load_encoder()
        progress("embedding", 0, len(files))
        size = min(_FIRST_BATCH, encoder.batch_size)
        waiting: list[tuple[ImageFile, DecodedImage]] = []
        for done, (file, outcome) in enumerate(pool, start=1):
            if isinstance(outcome, DecodedImage):
                waiting.append((file, outcome))
            elif isinstance(outcome, ImageError | OSError):
                yield [(file, outcome)]
            if len(waiting) >= size or done == len(files):
                if waiting:
                    yield embed_decoded(encoder, waiting)
                waiting = []
                size = min(2 * size, encoder.batch_size)
                progress("embedding", done, len(files))


def encode(encoder: Encoder, pictures: Sequence[Pixels], progress: Progress) -> Vectors:
    """Embeddings ``(n, dim)`` of decoded images ``(height, width, 3)``, a batch at a time."""
    made = []
    for start in range(0, len(pictures), encoder.batch_size):
        progress("embedding", start, len(pictures))
        batch = np.stack(pictures[start : start + encoder.batch_size])
        made.append(encoder.encode_images(batch))
    return np.concatenate(made)


def embed_decoded(
    encoder: Encoder, images: Sequence[tuple[ImageFile, DecodedImage]]
) -> list[tuple[ImageFile, Outcome]]:
    """Embed one batch of decoded images. Raises ModelError."""
    vectors = encoder.encode_images(np.stack([image.pixels for _, image in images]))
    return [
        (
            file,
            EmbeddedImage(
                file,
                image.content_hash,
                image.width,
                image.height,
                image.taken_at,
                vector,
                camera=image.camera,
                latitude=image.latitude,
                longitude=image.longitude,
            ),
        )
        for (file, image), vector in zip(images, vectors, strict=True)
    ]


def reason(error: ImageError | OSError) -> str:
    """Why a file has no embedding, in words."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


@dataclass(frozen=True, slots=True)
class Embedded:
    """The outcomes for a list of files."""

    rows: tuple[int, ...]
    """Positions in the list of the files that have an embedding, ascending."""
    vectors: Vectors
    """``(n, dim)``, in the order of ``rows``."""
    hashes: tuple[bytes, ...]
    """Content hashes, in the order of ``rows``."""
    reused: int
    """How many embeddings the index already had."""
    failed: tuple[tuple[bytes, str], ...]
    """Path and reason for each file that cannot be decoded or read."""


def embeddings_of(
    root: bytes,
    paths: Sequence[bytes],
    spec: ModelSpec,
    store: Store | None,
    load_encoder: LoadEncoder,
    progress: Progress = lambda doing, done, total: None,
) -> Embedded:
    """Embed files with the model ``spec``, looking up those whose content ``store`` already has.

    paths: relative to ``root`` or absolute, without duplicates. store: an index made with that
    model. load_encoder: called at most once, and only if there is an image to embed.
    Raises ModelError. A file that cannot be decoded is not an error: the result lists it.
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
            failed[path] = reason(error)
            continue
        vector = store.vector_of_content(hashes[path]) if store else None
        if vector is not None:
            vectors[path] = vector
    reused = len(vectors)
    new = [ImageFile(path, 0, 0) for path in hashes if path not in vectors]
    for batch in embed_files(root, new, spec.preprocessing, load_encoder, progress=progress):
        for made, outcome in batch:
            if isinstance(outcome, EmbeddedImage):
                vectors[made.path] = outcome.vector
            else:
                failed[made.path] = reason(outcome)
    rows = tuple(n for n, path in enumerate(paths) if path in vectors)
    empty = np.empty((0, spec.dim), np.float32)
    return Embedded(
        rows=rows,
        vectors=np.stack([vectors[paths[n]] for n in rows]) if rows else empty,
        hashes=tuple(hashes[paths[n]] for n in rows),
        reused=reused,
        failed=tuple((path, failed[path]) for path in paths if path in failed),
    )


def unchanged(store: Store, files: Sequence[ImageFile], under: bytes) -> dict[bytes, int]:
    """Path -> id of the files below ``under`` that match the index.

    Size and modification time decide, as in ``index``: no file is read.
    """
    known = store.known(under)
    return {
        file.path: known[file.path].id
        for file in files
        if file.path in known
        and not known[file.path].failed
        and (known[file.path].size, known[file.path].mtime_ns) == (file.size, file.mtime_ns)
    }
