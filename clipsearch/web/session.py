"""Collections that stay open while a user browses, and are reopened when they change."""

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
"""Sets of open collections to keep for the next request; a browser makes six at once."""

_TEXTS = 1000
"""The number of text embeddings to cache."""


class PictureId(NamedTuple):
    """An image in one of several collections; ``0-12`` as text."""

    place: int
    """Which collection, from 0."""
    id: int

    def __str__(self) -> str:
        return f"{self.place}-{self.id}"

    @classmethod
    def read(cls, text: str) -> "PictureId":
        """Parse the text of an id. Raises UsageError."""
        found = re.fullmatch(r"(\d{1,9})-(\d{1,18})", text, re.ASCII)
        if found is None:
            raise UsageError(f"'{shortened(text)}' is not an image id", hint="Reload the page.")
        return cls(int(found[1]), int(found[2]))


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer with the ids that a page uses for its images."""

    answer: Answer
    ids: list[PictureId]
    """The id of each hit."""
    nearest: list[PictureId]
    """The ids of the nearest images, if there is no hit."""


@dataclass(frozen=True, slots=True)
class About:
    """A description of the open collections."""

    roots: list[Path]
    images: int
    model: str
    classes: list[str]
    """Names of the domain's classes."""
    tested: list[str]
    """Whether each collection was tested, one line each."""


class OpenCollections:
    """Indexes that answer many requests, from several threads at once.

    Every request sees the current collections: after a change to a catalog they are reopened, with
    their new calibration. Nothing is ever written.
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
        """A model's fingerprint and its encoder."""
        self._suggested: tuple[tuple[_Stamps, Filter], list[str]] | None = None
        """Suggestions for one state of the collections and one filter."""
        self._idle: list[_Opened] = []
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the idle collections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for opened in idle:
            opened.close()

    @contextmanager
    def _lent(self) -> Iterator["_Opened"]:
        """The current collections, lent to one caller at a time."""
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
        except (Refused, UsageError, KeyError):  # ordinary answers
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
        """Describe the collections."""
        with self._lent() as opened:
            return opened.about

    def picture(self, picture: PictureId) -> tuple[bytes, Source]:
        """The name of an indexed image's file, and where its bytes are.

        Raises KeyError if there is no such image, or if its path contains a link. Images behind
        links are never indexed, so such a link was added later.
        """
        with self._lent() as opened:
            store = opened.store(picture.place)
            root = os.fsencode(store.root)
            name = os.fsencode(store.path_of(picture.id).name)
            source = store.source_of(picture.id)
        file = source.path if isinstance(source, Span) else source
        if not file:  # its location is unknown
            raise KeyError(picture)
        real = os.path.join(os.path.realpath(root), os.path.relpath(file, root))
        if os.path.normcase(os.path.realpath(real)) != os.path.normcase(real):
            raise KeyError(picture)
        return name, source._replace(path=real) if isinstance(source, Span) else real

    def answer(self, query: Query, options: SearchOptions) -> Shown:
        """Search. Raises Refused, and UsageError for a query that cannot be answered."""
        with self._lent() as opened:
            encoders = self._encoders(opened.spec)
            return opened.shown(answer(opened.collections, query, options, encoders))

    def newest(self, options: SearchOptions) -> Shown:
        """The most recent images, without a query. Raises UsageError."""
        with self._lent() as opened:
            return opened.shown(newest(opened.collections, options))

    def suggestions(self, only: Filter = EVERYTHING) -> list[str]:
        """Texts that have a strong match, best first. Raises ModelError."""
        with self._lent() as opened:
            known = self._suggested
            if known is None or known[0] != (opened.stamps, only):
                found = suggest(opened.collections, self._encoders(opened.spec), only)
                self._suggested = known = ((opened.stamps, only), found)
            return known[1]

    def _encoders(self, spec: ModelSpec) -> Encoders:
        """The text tower of the indexes' current model, cached until the model changes."""
        with self._lock:
            if self._texts is None or self._texts[0] != spec.fingerprint:
                made = _RememberingEncoder(lambda: self._load_encoder(spec))
                self._texts = (spec.fingerprint, made)
            texts = self._texts[1]
        return Encoders(lambda: texts, _no_encoder)


class _RememberingEncoder:
    """Embeds each text once, even if it is searched again with other marks and filters."""

    def __init__(self, load_encoder: Callable[[], TextEncoder]) -> None:
        self._loaded = cache(load_encoder)
        self._vector = lru_cache(_TEXTS)(lambda text: self._loaded().encode_texts([text])[0])

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Embed ``n`` texts as ``(n, dim)`` unit vectors."""
        return np.stack([self._vector(text) for text in texts])


def _no_encoder() -> Encoder:
    raise UsageError("browse cannot search by an image that is not indexed")


class _Opened:
    """All collections in one state."""

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
    """Values that change whenever a catalog changes."""
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
