"""Rows of an export without a file of their own: members of archives, or images that are not here.

They are read and added in batches and looked up in the catalog itself, so that an import of any
size needs the memory of one batch.
"""

import os
import random
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from clipsearch.images.scan import SUFFIXES
from clipsearch.indexing.embed import Progress
from clipsearch.indexing.transfer.check import Row, unit
from clipsearch.indexing.transfer.layout import Export, Told, array, rows_of
from clipsearch.paths import absolute
from clipsearch.records import EmbeddedImage, ImageFile, Span, Vectors
from clipsearch.storage.catalog import Store

_ROWS_PER_COMMIT = 2_000


@dataclass(slots=True)
class Survey:
    """What there is to add."""

    wanted: int = 0
    known: int = 0
    """Rows whose images are already in the index."""
    sample: list[Row] = field(default_factory=list)
    """A random sample of the wanted rows whose archives are present for comparison."""
    archives: Counter[bytes] = field(default_factory=Counter)
    """Archives that are missing or too short, with the number of their rows."""
    files: int = 0
    """Wanted rows whose path names a file, not a key or a member of an archive."""
    odd: list[tuple[bytes, str]] = field(default_factory=list)
    """Invalid rows, with the reason."""


@dataclass(slots=True)
class Added:
    """The outcomes for the rows to add."""

    added: int = 0
    duplicates: list[bytes] = field(default_factory=list)
    """Paths that an earlier row already had."""


class Members:
    """The rows of an export without a file of their own in the collection."""

    def __init__(self, exported: Export, root: bytes, below: bytes, *, alone: bool) -> None:
        """``root``: the collection's, absolute. ``below``: the folder in it with the archives.

        alone: there is only the export, so this includes all of its rows, and no archive
        has to be present.
        """
        self._exported = exported
        self._root = root
        self._below = below
        self._alone = alone
        self._sizes: dict[bytes, int] = {}

    def survey(self, store: Store | None, sample: int) -> Survey:
        """Go through the rows once without adding any. sample: how many to choose for a check."""
        found, chosen, eligible = Survey(), random.Random(), 0
        for number, rows in self._batches():
            known = store.ids_of([told.path for _, told in rows]) if store else {}
            for row, told in rows:
                if told.path in known:
                    found.known += 1
                elif _is_odd(told.path):
                    found.odd.append((told.path, "its path leads outside the collection"))
                elif not self._alone and not self._is_there(told):
                    found.archives[told.archived.archive or b""] += 1
                else:
                    found.wanted += 1
                    found.files += _names_file(told)
                    if self._alone:
                        continue
                    # Each row is equally likely to be in the sample (reservoir sampling).
                    place = len(found.sample) if eligible < sample else chosen.randint(0, eligible)
                    eligible += 1
                    if place < sample:
                        made = Row(self._file(told), number, row, told.content_hash)
                        found.sample[place : place + 1] = [made]
        return found

    def add(self, store: Store, progress: Progress) -> Added:
        """Add them to a store of the same model; each batch is committed at once."""
        done, seen = Added(), 0
        ids = store.ids()
        newest = int(ids[-1]) if len(ids) else 0
        for number, rows in self._batches():
            progress("importing", seen, self._exported.rows)
            seen += len(rows)
            known = store.ids_of([told.path for _, told in rows])
            vectors = array(self._exported.shards[number].embeddings)
            images: dict[bytes, EmbeddedImage] = {}
            for row, told in rows:
                if _is_odd(told.path) or (not self._alone and not self._is_there(told)):
                    continue
                if told.path in images or known.get(told.path, 0) > newest:
                    done.duplicates.append(told.path)
                elif told.path not in known:
                    images[told.path] = _image(told, unit(vectors[row]))
            with store.batch():
                store.add(images.values())
            done.added += len(images)
        return done

    def _batches(self) -> Iterator[tuple[int, list[tuple[int, Told]]]]:
        """Each shard's number with its rows and their positions."""
        for number, shard in enumerate(self._exported.shards):
            ours = (
                (row, self._placed(told))
                for row, told in enumerate(rows_of(shard.metadata))
                if self._alone or told.archived.archive is not None
            )
            while rows := list(islice(ours, _ROWS_PER_COMMIT)):
                yield number, rows

    def _placed(self, told: Told) -> Told:
        """The row with its paths relative to the collection's root."""
        path, archive = told.path.lstrip(b"/"), told.archived.archive
        if archive is not None and (_is_odd(archive) or not path.startswith(archive + b"/")):
            archive = None  # never lead anyone to another file
        if self._below:
            path = self._below + b"/" + path
            archive = archive and self._below + b"/" + archive
        return replace(told, path=path, archived=told.archived._replace(archive=archive))

    def _is_there(self, told: Told) -> bool:
        """Whether the archive is present and long enough."""
        archive = told.archived.archive
        if archive is None:
            return False
        if archive not in self._sizes:
            self._sizes[archive] = _size(absolute(self._root, archive))
        return told.archived.offset + told.size <= self._sizes[archive]

    def _file(self, told: Told) -> ImageFile:
        archive = absolute(self._root, told.archived.archive or b"")
        span = Span(archive, told.archived.offset, told.size)
        return ImageFile(told.path, told.size, told.mtime_ns, span)


def _names_file(told: Told) -> bool:
    """Whether the row's name is that of a file: webdataset's keys have no extension."""
    suffix = os.path.splitext(told.path)[1].lower()
    return told.archived.archive is None and suffix in SUFFIXES


def _is_odd(path: bytes) -> bool:
    """Whether the path cannot be below a folder."""
    return b"\0" in path or any(part in (b"", b".", b"..") for part in path.split(b"/"))


def _size(path: bytes) -> int:
    """Size of a regular file; -1 if there is none, or a symbolic link."""
    try:
        status = os.lstat(path)
    except OSError:
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def _image(told: Told, vector: Vectors) -> EmbeddedImage:
    return EmbeddedImage(
        ImageFile(told.path, told.size, told.mtime_ns),
        told.content_hash or b"",
        told.width,
        told.height,
        told.taken_at,
        vector,
        told.camera,
        told.latitude,
        told.longitude,
        told.archived,
    )
