"""From a query to ranked hits, over one collection or several that share a model."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from clipsearch.errors import ImageError, UsageError
from clipsearch.images import absolute, content_hash
from clipsearch.records import Encoder, Hit, Vectors
from clipsearch.store import Store


def search(
    stores: Sequence[Store], query: Vectors, k: int, under: bytes = b"", *, exact: bool = False
) -> list[Hit]:
    """The ``k`` best hits of all ``stores`` together; ``query`` is a unit vector ``(dim,)``.

    With ``exact``, no store is searched through its clusters.

    A picture that several of them hold, one root lying in the other, is one hit.
    """
    hits = [hit for store in stores for hit in store.search(query, k, under, exact=exact)]
    ranked: dict[bytes, Hit] = {}
    for hit in sorted(hits, key=lambda hit: (-hit.score, hit.root, hit.id)):
        ranked.setdefault(absolute(os.fsencode(hit.root), hit.path), hit)
    return list(ranked.values())[:k]


def search_like(
    stores: Sequence[Store],
    image: Path,
    load_encoder: Callable[[], Encoder],
    k: int,
    under: bytes = b"",
    *,
    exact: bool = False,
) -> list[Hit]:
    """The ``k`` hits most like a picture, which is itself left out if it is in a collection.

    A picture whose content a collection has needs no model. Raises UsageError if the file cannot
    be read as a picture.
    """
    from clipsearch import decoding  # here, since no text query needs its decoders

    try:
        query = _stored_vector(stores, image)
        if query is None:
            preprocessing = stores[0].spec.preprocessing
            decoded = decoding.decode(os.fspath(image), preprocessing)
            query = load_encoder().encode_images(decoded.pixels[np.newaxis])[0]
    except OSError as error:
        raise UsageError(f"cannot read {image}: {error.strerror}") from error
    except ImageError as error:
        raise UsageError(f"cannot search by {image}: {error}") from error
    hits = search(stores, query, k + 1, under, exact=exact)
    return [hit for hit in hits if not _is_same_file(hit, image)][:k]


def _stored_vector(stores: Sequence[Store], image: Path) -> Vectors | None:
    with image.open("rb") as file:
        digest = content_hash(file)
    for store in stores:
        for id, _ in store.find_content(digest):
            with suppress(KeyError):  # removed a moment ago
                return store.vector(id)
    return None


def _is_same_file(hit: Hit, image: Path) -> bool:
    try:
        return os.path.samefile(absolute(os.fsencode(hit.root), hit.path), os.fsencode(image))
    except OSError:
        return False
