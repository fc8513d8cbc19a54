"""Find groups of exact copies and near-duplicates, where one image is enough.

Exact copies have the same content. Near-duplicates are proposed by their embeddings, with a
threshold that ``likeness`` measured on the collection, and confirmed by their pixels, since images
that a model finds similar can differ. Groups form around the best image (see ``neighbors``): every
other member is nearly the same as that image. If you keep it and delete the others, you lose
nothing of better quality.

The current files count: a file that is missing or has changed since it was indexed is not in any
group.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from clipsearch.images.pool import DecodePool
from clipsearch.indexing.embed import Progress
from clipsearch.paths import absolute, is_as_indexed
from clipsearch.records import DecodedImage, Filter, ImageFile, IndexedImage, Pixels
from clipsearch.search.duplicates import structure
from clipsearch.search.duplicates.likeness import SMALL
from clipsearch.search.duplicates.neighbors import (
    ROUNDING,
    Confirm,
    Half,
    Mask,
    Rows,
    best_similarities,
    lead,
)
from clipsearch.search.duplicates.structure import SIDE
from clipsearch.storage.catalog import Store

Kind = Literal["copies", "near-duplicates", "alike"]
"""``alike``: similar to the model, but not confirmed by pixels."""

_DECODED_AHEAD = 64
_AT_ONCE = 512
"""Images to compare with a block at once. The vectors of each take 100 kB."""


@dataclass(frozen=True, slots=True)
class Member:
    """An image of a group."""

    image: IndexedImage
    root: bytes
    """The absolute root of its collection."""
    similarity: float
    """Cosine similarity to the best image of the group."""

    @property
    def path(self) -> bytes:
        """Its absolute path."""
        return absolute(self.root, self.image.path)

    @property
    def content(self) -> bytes:
        """Equal only for exact copies; the path if the content is unknown."""
        return self.image.content_hash or self.path


@dataclass(frozen=True, slots=True)
class Group:
    """Two or more images, of which one is enough."""

    kind: Kind
    members: tuple[Member, ...]
    """The best comes first."""

    @property
    def similarity(self) -> float:
        """The least similarity of any member to the best."""
        return min(member.similarity for member in self.members)

    @property
    def spare_bytes(self) -> int:
        """The total file size of all members except the best."""
        return sum(member.image.size for member in self.members[1:])


@dataclass(frozen=True, slots=True)
class Duplicates:
    """The result of a search for duplicates."""

    groups: tuple[Group, ...]
    """Ordered by the paths of their best images."""
    images: int
    """The number of images compared."""
    stale: tuple[bytes, ...]
    """Absolute paths of images left out of groups because they are missing or have changed."""


def copies(stores: Sequence[Store], only: Filter) -> Duplicates:
    """Groups of files with the same indexed content. Reads no embedding and no image."""
    pictures = _pictures(stores, only)
    classes, stale = _by_content(pictures)
    groups = [_group("copies", members) for members in classes if len(members) > 1]
    return Duplicates(tuple(_in_order(groups)), len(pictures), tuple(stale))


def near(
    stores: Sequence[Store],
    only: Filter,
    similarity: float,
    agreement: float | None,
    progress: Progress,
) -> Duplicates:
    """Groups of copies and of near-duplicates, over collections that share a model.

    similarity: the least cosine similarity. agreement: the least agreement in structure of the
    images; None skips this check, and the groups are called ``alike``.

    Time grows with the square of the number of images. Memory holds their embeddings.
    """
    pictures = _pictures(stores, only)
    classes, stale = _by_content(pictures)
    # From here on, one image represents all its copies.
    vectors = _embeddings(stores, [members[0] for members in classes])
    best = best_similarities(vectors, partial(progress, "comparing embeddings"))
    rows = np.flatnonzero(best >= similarity - ROUNDING)
    here = [_is_there(classes[row][0]) for row in rows]
    stale += [classes[row][0].path for row, there in zip(rows, here, strict=True) if not there]
    rows = rows[np.array(here, np.bool_)]
    confirm = None
    if agreement is not None:
        seen = _small([classes[row][0] for row in rows], progress)
        rows = rows[[n for n, pixels in enumerate(seen) if pixels is not None]]
        confirm = _confirming([pixels for pixels in seen if pixels is not None], agreement)
    leaders, similarities = lead(vectors[rows], similarity, confirm, partial(progress, "grouping"))
    around: dict[int, list[Member]] = {row: list(classes[row]) for row in range(len(classes))}
    followed = set()
    for row, leader, score in zip(rows, rows[leaders], similarities.tolist(), strict=True):
        if row != leader:
            members = around.pop(int(row))
            around[int(leader)] += [replace(member, similarity=score) for member in members]
            followed.add(int(leader))
    alike: Kind = "alike" if agreement is None else "near-duplicates"
    groups = [
        _group(alike if leader in followed else "copies", members)
        for leader, members in around.items()
        if len(members) > 1
    ]
    return Duplicates(tuple(_in_order(groups)), len(pictures), tuple(stale))


def _pictures(stores: Sequence[Store], only: Filter) -> list[Member]:
    """Every image once, best first: by pixels, then by bytes, then the oldest file.

    A file in several collections, because their roots overlap, is not a copy of itself.
    """
    found: dict[bytes, Member] = {}
    for store in stores:
        for image in store.images(only):
            member = Member(image, os.fsencode(store.root), 1.0)
            found.setdefault(member.path, member)
    return sorted(found.values(), key=_worse)


def _worse(member: Member) -> tuple[object, ...]:
    """Sort key: the image to keep comes first. Originals tend to have shorter paths than copies."""
    image, path = member.image, member.path
    return -image.width * image.height, -image.size, image.mtime_ns, len(path), path


def _by_content(pictures: Iterable[Member]) -> tuple[list[list[Member]], list[bytes]]:
    """Images grouped by content, and the paths of copies that no longer exist.

    A file without a copy is not checked: most are not in any group, and a disk may be slow. A file
    with several paths counts once, under the best of them.
    """
    classes: dict[bytes, list[Member]] = {}
    for member in pictures:
        classes.setdefault(member.content, []).append(member)
    stale: list[bytes] = []
    kept: list[list[Member]] = []
    for members in classes.values():
        there = members if len(members) == 1 else [one for one in members if _is_there(one)]
        stale += [one.path for one in members if one not in there]
        files = there if len(there) == 1 else _each_file_once(there)
        if files:
            kept.append(files)
    return kept, stale


def _each_file_once(members: Iterable[Member]) -> list[Member]:
    """The first member of each distinct file.

    If a folder is mounted twice, or indexed under two spellings of its name, each file has two
    paths, and removing "the copy" would remove the only one. Hard links are one file too: removing
    one of them frees no space.
    """
    seen: set[tuple[str, int, int]] = set()
    found = []
    for member in members:
        with suppress(OSError):  # deleted just now
            status = os.lstat(member.path)
            # A share that is mounted twice may appear as two devices; a file then has the same
            # inode number and time of change on both.
            keys = {
                ("device", status.st_dev, status.st_ino),
                ("changed", status.st_ctime_ns, status.st_ino),
            }
            if not keys & seen:
                found.append(member)
            seen |= keys
    return found


def _is_there(member: Member) -> bool:
    image = member.image
    return is_as_indexed(image.span or member.path, image.size, image.mtime_ns)


def _embeddings(stores: Sequence[Store], members: Sequence[Member]) -> Half:
    """``(n, dim)``, in the order of the members; zeros for a damaged embedding."""
    vectors = np.zeros((len(members), stores[0].spec.dim), np.float16)
    roots = np.array([member.root for member in members], np.object_)
    ids = np.array([member.image.id for member in members], np.int64)
    for store in stores:
        own = np.flatnonzero(roots == os.fsencode(store.root))
        own = own[np.argsort(ids[own])]
        for found, embeddings in store.embeddings():
            wanted = np.isin(found, ids[own])
            vectors[own[np.searchsorted(ids[own], found[wanted])]] = embeddings[wanted]
    return vectors


def _small(members: Sequence[Member], progress: Progress) -> list[Pixels | None]:
    """Each image ``(SIDE, SIDE, 3)``; None if it cannot be read or has changed."""
    seen: dict[bytes, Pixels] = {}
    content = {member.path: member.image.content_hash for member in members}
    files = [ImageFile(member.path, 0, 0, member.image.span) for member in members]
    with DecodePool(b"", files, SMALL, max_pixels=None, ahead=_DECODED_AHEAD) as pool:
        for done, (file, outcome) in enumerate(pool, start=1):
            progress("comparing images", done, len(files))
            if isinstance(outcome, DecodedImage) and outcome.content_hash == content[file.path]:
                seen[file.path] = outcome.pixels
    return [seen.get(member.path) for member in members]


def _confirming(small: Sequence[Pixels], agreement: float) -> Confirm:
    """A function that decides which images, given by rows, agree in structure."""
    pixels = np.stack(small) if small else np.empty((0, SIDE, SIDE, 3), np.uint8)

    def confirm(rows: Rows, others: Rows) -> Mask:
        parts = [others[at : at + _AT_ONCE] for at in range(0, len(others), _AT_ONCE)]
        found = [structure.confirmed(pixels[rows], pixels[part], agreement) for part in parts]
        return np.concatenate(found, axis=1)

    return confirm


def _group(kind: Kind, members: Iterable[Member]) -> Group:
    return Group(kind, tuple(sorted(members, key=_worse)))


def _in_order(groups: Iterable[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: group.members[0].path)
