"""Pictures and the classes that they are given, best first."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsearch.domain.zero_shot import Ranked
from clipsearch.errors import UsageError
from clipsearch.images.scan import find
from clipsearch.indexing.embed import LoadEncoder, Progress, embeddings_of, unchanged
from clipsearch.paths import absolute, relative
from clipsearch.records import Found, ImageFile, ModelSpec, Vectors
from clipsearch.storage.catalog import Store

Rank = Callable[[Vectors, int], list[list[Ranked]]]
"""Pictures ``(n, dim)`` and a number k to the k best classes of each."""

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to be classified."""

    path: bytes
    """Absolute."""
    folder: str
    """The first folder below the one that was asked for, or else the folder it lies in."""
    id: int | None
    """Its id in the index, if it is there as it is."""


@dataclass(frozen=True, slots=True)
class Classified:
    """A picture and its classes, most probable first."""

    picture: Picture
    ranking: list[Ranked]


def indexed(store: Store, start: Path) -> list[Picture]:
    """The pictures of an index that lie in the folder ``start``, in the order of their paths."""
    inside = start.is_relative_to(store.root)
    base = start if inside else store.root
    known = store.known(relative(base, store.root))
    return [
        _picture(os.fsencode(store.root), path, base, image.id)
        for path, image in sorted(known.items())
        if not image.failed
    ]


def gathered(
    paths: Sequence[Path], store: Store | None
) -> tuple[list[Picture], list[tuple[bytes, str]]]:
    """These pictures and those in these folders, each once; and what cannot be listed, and why.

    Raises UsageError for a path that does not exist, CollectionGone for an unreadable folder.
    """
    pictures: dict[bytes, Picture] = {}
    unreadable: dict[bytes, str] = {}
    for path in paths:
        whole = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
        inside = store is not None and whole.is_relative_to(store.root)
        root = store.root if store is not None and inside else Path(whole.anchor)
        under = relative(whole, root)
        found = _found(path, os.fsencode(root), under)
        unreadable |= {absolute(os.fsencode(root), at): why for at, why in found.unreadable}
        ids = unchanged(store, found.files, under) if store is not None and inside else {}
        base = whole if path.is_dir() else whole.parent
        for file in found.files:
            picture = _picture(os.fsencode(root), file.path, base, ids.get(file.path))
            pictures.setdefault(picture.path, picture)
    return list(pictures.values()), list(unreadable.items())


def _found(path: Path, root: bytes, under: bytes) -> Found:
    if path.is_dir():
        return find(root, under=under)
    try:
        status = path.stat()
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", hint="classify takes pictures and folders."
        ) from error
    return Found([ImageFile(under, status.st_size, status.st_mtime_ns)], [], 0)


def _picture(root: bytes, path: bytes, base: Path, id: int | None) -> Picture:
    whole = absolute(root, path)
    below = os.fsdecode(os.path.relpath(whole, os.fsencode(base))).split(os.sep)
    return Picture(whole, below[0] if len(below) > 1 else base.name, id)


def classified(
    pictures: Sequence[Picture], images: Vectors, rank: Rank, k: int
) -> Iterator[Classified]:
    """Rank the classes of each picture, a few at a time. images: ``(n, dim)``."""
    for start in range(0, len(pictures), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        rankings = rank(images[some], k)
        yield from (Classified(*pair) for pair in zip(pictures[some], rankings, strict=True))


def embeddings(
    pictures: Sequence[Picture],
    spec: ModelSpec,
    store: Store | None,
    load_encoder: LoadEncoder,
    progress: Progress,
) -> tuple[list[Picture], Vectors, tuple[tuple[bytes, str], ...]]:
    """The pictures that have an embedding, these ``(n, dim)``, and why the others have none."""
    vectors: dict[bytes, Vectors] = {}
    for picture in pictures:
        if store is not None and picture.id is not None:
            with suppress(KeyError):  # changed a moment ago, or damaged: it is read like a new one
                vectors[picture.path] = store.vector(picture.id)
    new = [picture.path for picture in pictures if picture.path not in vectors]
    found = embeddings_of(b"", new, spec, store, load_encoder, progress)
    vectors |= zip((new[row] for row in found.rows), found.vectors, strict=True)
    kept = [picture for picture in pictures if picture.path in vectors]
    images = np.empty((len(kept), spec.dim), np.float32)
    for row, picture in enumerate(kept):
        images[row] = vectors[picture.path]
    return kept, images, found.failed
