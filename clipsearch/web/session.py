"""Collections that are looked through for a while: open, and opened again when they change."""

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipsearch.errors import CollectionGone, Refused, UsageError
from clipsearch.models.load import Encoders
from clipsearch.records import (
    EVERYTHING,
    Encoder,
    Filter,
    ModelSpec,
    Source,
    Span,
    TextEncoder,
    Vectors,
)
from clipsearch.search.answer import Answer, answer, newest
from clipsearch.search.query import Query, SearchOptions
from clipsearch.search.suggest import suggest
from clipsearch.storage.catalog import CATALOG, Store
from clipsearch.storage.collection import Collection, tested_line
from clipsearch.storage.known import shared_model
from clipsearch.text import shortened

_IDLE = 8
"""So many sets of open collections wait for the next request; a browser makes six at once."""

_TEXTS = 1000
"""Embeddings of so many texts are kept."""


class PictureId(NamedTuple):
    """An image of one of several collections; as text ``0-12``."""

    place: int
    """Which collection, from 0."""
    id: int

    def __str__(self) -> str:
        return f"{self.place}-{self.id}"

    @classmethod
    def read(cls, text: str) -> "PictureId":
        """The inverse. Raises UsageError."""
        found = re.fullmatch(r"(\d{1,9})-(\d{1,18})", text, re.ASCII)
        if found is None:
            raise UsageError(f"'{shortened(text)}' is no image", hint="Reload the page.")
        return cls(int(found[1]), int(found[2]))


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer with what a page calls its images by."""

    answer: Answer
    ids: list[PictureId]
    """Of each hit."""
    nearest: list[PictureId]
    """Of the nearest images, where there is no hit."""


@dataclass(frozen=True, slots=True)
class About:
    """What is looked through."""

    roots: list[Path]
    images: int
    model: str
    classes: list[str]
    """Names of the domain's classes."""
    tested: list[str]
    """Whether the answers about each collection were tested, a line each."""


class OpenCollections:
    """Indexes that answer again and again, to several threads at once.

    Every question finds the collections as they are then: after a change to a catalog they are
    opened again, with what was measured since. Nothing is ever written.
    """

    def __init__(
        self, directories: Sequence[Path], load_encoder: Callable[[ModelSpec], TextEncoder]
    ) -> None:
        """``load_encoder`` is called for the first text, and again when the indexes' model changes.

        Raises UsageError, from any method, if the indexes have different models.
        """
        self._directories = directories
        self._load_encoder = load_encoder
        self._texts: tuple[str, _RememberingEncoder] | None = None
        """A model's fingerprint, and its encoder."""
        self._suggested: tuple[tuple[_Stamps, Filter], list[str]] | None = None
        """For one state of the collections."""
        self._idle: list[_Opened] = []
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close what waits."""
        with self._lock:
            idle, self._idle = self._idle, []
        for opened in idle:
            opened.close()

    @contextmanager
    def _lent(self) -> Iterator["_Opened"]:
        """The collections as they are now, for the caller alone."""
        stamps = _stamps(self._directories)
        with self._lock:
            stale = [opened for opened in self._idle if opened.stamps != stamps]
            self._idle = [opened for opened in self._idle if opened.stamps == stamps]
            mine = self._idle.pop() if self._idle else None
        for opened in stale:
            opened.close()
        if mine is None:
            mine = _Opened(stamps, self._directories)
        try:
            yield mine
        except (Refused, UsageError, KeyError):  # answers, too
            self._give_back(mine)
            raise
        except BaseException:
            mine.close()
            raise
        self._give_back(mine)

    def _give_back(self, opened: "_Opened") -> None:
        with self._lock:
            keep = len(self._idle) < _IDLE
            if keep:
                self._idle.append(opened)
        if not keep:
            opened.close()

    def about(self) -> About:
        """What there is to look through."""
        with self._lent() as opened:
            return opened.about

    def picture(self, picture: PictureId) -> tuple[bytes, Source]:
        """The name of an indexed image's file, and where its bytes are.

        Raises KeyError if there is no such image, or if the way to it leads through a link: no
        image was indexed behind one, so somebody has put it there since.
        """
        with self._lent() as opened:
            store = opened.store(picture.place)
            root = os.fsencode(store.root)
            name = os.fsencode(store.path_of(picture.id).name)
            source = store.source_of(picture.id)
        file = source.path if isinstance(source, Span) else source
        if not file:  # nobody knows where it is
            raise KeyError(picture)
        real = os.path.join(os.path.realpath(root), os.path.relpath(file, root))
        if os.path.normcase(os.path.realpath(real)) != os.path.normcase(real):
            raise KeyError(picture)
        return name, source._replace(path=real) if isinstance(source, Span) else real

    def answer(self, query: Query, options: SearchOptions) -> Shown:
        """Search. Raises Refused, and UsageError for a question that cannot be answered."""
        with self._lent() as opened:
            encoders = self._encoders(opened.spec)
            return opened.shown(answer(opened.collections, query, options, encoders))

    def newest(self, options: SearchOptions) -> Shown:
        """What was taken last, where nothing is looked for. Raises UsageError."""
        with self._lent() as opened:
            return opened.shown(newest(opened.collections, options))

    def suggestions(self, only: Filter = EVERYTHING) -> list[str]:
        """Texts that the collections answer strongly, best first. Raises ModelError."""
        with self._lent() as opened:
            known = self._suggested
            if known is None or known[0] != (opened.stamps, only):
                found = suggest(opened.collections, self._encoders(opened.spec), only)
                self._suggested = known = ((opened.stamps, only), found)
            return known[1]

    def _encoders(self, spec: ModelSpec) -> Encoders:
        """The text tower of the model that the indexes have now, kept while they have it."""
        with self._lock:
            if self._texts is None or self._texts[0] != spec.fingerprint:
                made = _RememberingEncoder(lambda: self._load_encoder(spec))
                self._texts = (spec.fingerprint, made)
            texts = self._texts[1]
        return Encoders(lambda: texts, _no_encoder)


class _RememberingEncoder:
    """Embeds a text once, however often it is asked about with other marks and filters."""

    def __init__(self, load_encoder: Callable[[], TextEncoder]) -> None:
        self._loaded = cache(load_encoder)
        self._vector = lru_cache(_TEXTS)(lambda text: self._loaded().encode_texts([text])[0])

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Embed ``n`` texts as ``(n, dim)`` unit vectors."""
        return np.stack([self._vector(text) for text in texts])


def _no_encoder() -> Encoder:
    raise UsageError("an image outside the index cannot be looked for here")


class _Opened:
    """All the collections at one moment of their lives."""

    def __init__(self, stamps: "_Stamps", directories: Sequence[Path]) -> None:
        self.stamps = stamps
        with ExitStack() as stack:
            self.collections = [
                Collection(stack.enter_context(Store.open(directory))) for directory in directories
            ]
            self.spec = shared_model([collection.store for collection in self.collections])
            self.close = stack.pop_all().close

    @cached_property
    def about(self) -> About:
        domain = self.collections[0].domain
        return About(
            roots=[collection.store.root for collection in self.collections],
            images=sum(collection.store.count() for collection in self.collections),
            model=self.spec.label,
            classes=list(domain.class_names),
            tested=[tested_line(collection) for collection in self.collections],
        )

    def shown(self, answer: Answer) -> Shown:
        """An answer with the ids of its images."""
        places = {collection.store.root: n for n, collection in enumerate(self.collections)}
        ids, nearest = (
            [PictureId(places[hit.root], hit.id) for hit in hits]
            for hits in (answer.hits, answer.nearest)
        )
        return Shown(answer, ids, nearest)

    def store(self, place: int) -> Store:
        """The index of one collection. Raises KeyError if there is none."""
        if place >= len(self.collections):
            raise KeyError(place)
        return self.collections[place].store


_Stamps = list[tuple[int, int, int]]


def _stamps(directories: Sequence[Path]) -> _Stamps:
    """What changes whenever a catalog does."""
    stamps = []
    for directory in directories:
        try:
            status = (directory / CATALOG).stat()
        except OSError as error:
            raise CollectionGone(
                f"the index at {directory} is gone: {error.strerror}",
                hint="Is its disk mounted? Index the folder again: clipsearch index FOLDER",
            ) from error
        stamps.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return stamps
