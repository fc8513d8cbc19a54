"""Groups of images of which one would do: exact copies, and images that are nearly the same.

Exact copies have one content. Near-duplicates are proposed by their embeddings, with a threshold
that ``likeness`` measured on the collection, and confirmed by a look at the images, since what a
model takes to be alike need not be. Groups are made around the best image, as ``neighbours`` has
it: every other member is nearly the same as that very one. So whoever keeps it and removes the
others loses nothing but quality that is no better.

What is on disk counts, and not what was: a file that is gone or that has changed since it was
indexed is in no group.
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
"""``alike``: to the model, and not looked at."""

_DECODED_AHEAD = 64
_AT_ONCE = 512
"""What is compared of an image is 100 kB: that of so many is held, beside that of a block."""


@dataclass(frozen=True, slots=True)
class Member:
    """An image of a group."""

    image: IndexedImage
    root: bytes
    """Of its collection, absolute."""
    similarity: float
    """Cosine similarity of its embedding to that of the group's best."""

    @property
    def path(self) -> bytes:
        """From the root of the file system."""
        return absolute(self.root, self.image.path)

    @property
    def content(self) -> bytes:
        """The same for exact copies alone: where nobody knows the content, the path."""
        return self.image.content_hash or self.path


@dataclass(frozen=True, slots=True)
class Group:
    """Two images or more of which one would do."""

    kind: Kind
    members: tuple[Member, ...]
    """The best is the first."""

    @property
    def similarity(self) -> float:
        """The least of any member to the best."""
        return min(member.similarity for member in self.members)

    @property
    def spare_bytes(self) -> int:
        """What the files take of all but the best."""
        return sum(member.image.size for member in self.members[1:])


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What was found."""

    groups: tuple[Group, ...]
    """In the order of their best images' paths."""
    images: int
    """How many images were compared."""
    stale: tuple[bytes, ...]
    """Absolute paths of those that would have been in a group, but are gone or have changed."""


def copies(stores: Sequence[Store], only: Filter) -> Duplicates:
    """Groups of files with one content, as it was indexed. Reads no embedding and no image."""
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
    images themselves; None takes the embeddings' word for it, and calls the groups ``alike``.

    Time grows with the square of the number of images; memory is that of their embeddings.
    """
    pictures = _pictures(stores, only)
    classes, stale = _by_content(pictures)
    # From here on one image stands for all its copies.
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
    """Every image once, best first: by pixels, by bytes, then the oldest file.

    A file that several collections hold, the root of one lying in another's, is no copy of itself.
    """
    found: dict[bytes, Member] = {}
    for store in stores:
        for image in store.images(only):
            member = Member(image, os.fsencode(store.root), 1.0)
            found.setdefault(member.path, member)
    return sorted(found.values(), key=_worse)


def _worse(member: Member) -> tuple[object, ...]:
    """Sorts the image to keep first. A short path is an original's more often than a long one."""
    image, path = member.image, member.path
    return -image.width * image.height, -image.size, image.mtime_ns, len(path), path


def _by_content(pictures: Iterable[Member]) -> tuple[list[list[Member]], list[bytes]]:
    """Images with one content together; and the paths of copies that are not there any more.

    A file without a copy is not looked for: most are in no group, and a disk may be slow. A file
    that is found under several paths counts once, under the best of them.
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
    """Members whose files are different ones, the first of each.

    A folder that is mounted twice has each file under two paths, as has one that is indexed under
    two spellings of its name; removing "the copy" would remove the only one. Hard links are one
    file, too: removing one of them frees nothing.
    """
    seen: set[tuple[str, int, int]] = set()
    found = []
    for member in members:
        with suppress(OSError):  # gone a moment ago
            status = os.lstat(member.path)
            # A share that is mounted twice may be two devices, on which one file has one number
            # and changed at one moment.
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
    """``(n, dim)``, in the members' order; zeros where an embedding is damaged."""
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
    """Each image ``(SIDE, SIDE, 3)``; None where it cannot be read or is another by now."""
    seen: dict[bytes, Pixels] = {}
    content = {member.path: member.image.content_hash for member in members}
    files = [ImageFile(member.path, 0, 0, member.image.span) for member in members]
    with DecodePool(b"", files, SMALL, max_pixels=None, ahead=_DECODED_AHEAD) as pool:
        for done, (file, outcome) in enumerate(pool, start=1):
            progress("looking at images", done, len(files))
            if isinstance(outcome, DecodedImage) and outcome.content_hash == content[file.path]:
                seen[file.path] = outcome.pixels
    return [seen.get(member.path) for member in members]


def _confirming(small: Sequence[Pixels], agreement: float) -> Confirm:
    """Whether images, by their rows, agree as much as that in structure."""
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
