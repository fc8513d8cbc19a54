"""Small JPEGs of images for web pages, decoded as safely as for indexing."""

import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Sequence
from types import TracebackType

from clipsearch.images.decode import jpeg
from clipsearch.images.pool import DecodePool, Decoder
from clipsearch.paths import absolute_path, require_regular
from clipsearch.records import DecodedImage, Hit, ImageFile, Preprocessing, Source, Span

SIZE = 224
"""Width and height of a hit's thumbnail, in pixels."""

_AHEAD = 16
_SECONDS = 20.0
"""The longest that a page waits for one image."""
_MOST_BYTES = 64_000_000
"""Thumbnails in memory: about 8,000 of 224 pixels."""
_OVERHEAD = 300
"""Bytes of a key, roughly."""
_MOST_DECODERS = 4


def thumbnails(root: bytes, paths: Sequence[bytes], size: int) -> dict[bytes, bytes]:
    """The center square of each image, ``size`` pixels wide, by path: what most models see.

    Images that cannot be decoded are left out.
    """
    return _made(root, [ImageFile(path, 0, 0) for path in paths], size)


def _made(root: bytes, files: Sequence[ImageFile], size: int) -> dict[bytes, bytes]:
    with DecodePool(root, files, _square(size), max_pixels=None, ahead=_AHEAD) as pool:
        return {
            file.path: jpeg(outcome.pixels)
            for file, outcome in pool
            if isinstance(outcome, DecodedImage)
        }


def thumbnails_of(hits: Sequence[Hit]) -> dict[bytes, bytes]:
    """Thumbnails of hits, ``SIZE`` pixels wide, by absolute path."""
    files = (ImageFile(absolute_path(hit), 0, 0, hit.span) for hit in hits)
    return _made(b"", list(dict.fromkeys(files)), SIZE)


class Thumbnailer:
    """Makes thumbnails one at a time, for a page that requests them as the user scrolls.

    Keeps its decoder processes, and a bounded cache of thumbnails: the least recently used ones
    are dropped first. Thread-safe. Use as a context manager: leaving it stops the processes.
    """

    def __init__(self, *, most_bytes: int = _MOST_BYTES) -> None:
        """most_bytes: size of the cache."""
        self._square = _square(SIZE)
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[Source, int, int], bytes] = OrderedDict()
        """By source, time and size; empty for an image that cannot be decoded."""
        self._bytes = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._decoders: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
        """Idle decoders."""
        self._count = min(_MOST_DECODERS, os.cpu_count() or 1)

    def __enter__(self) -> "Thumbnailer":
        for _ in range(self._count):
            self._decoders.put(Decoder(self._square, None))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()  # busy threads notice it and return their decoders
        for _ in range(self._count):
            self._decoders.get().stop()

    def get(self, source: Source) -> bytes | None:
        """The thumbnail of an image; None if it cannot be decoded.

        Raises OSError unless there is a regular file, and ClipsearchError if no decoder can be
        started.
        """
        path = source.path if isinstance(source, Span) else source
        require_regular(path)
        status = os.stat(path)
        key = (source, status.st_mtime_ns, status.st_size)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key] or None
        made = self._make(source)
        with self._lock:
            if key not in self._kept and not self._stopped.is_set():
                self._kept[key] = made
                self._bytes += len(made) + _OVERHEAD
            while self._bytes > self._most_bytes:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= len(oldest) + _OVERHEAD
        return made or None

    def _make(self, source: Source) -> bytes:
        decoder = self._decoders.get()
        try:
            if self._stopped.is_set():
                return b""
            if not decoder.alive:
                decoder = Decoder(self._square, None)
            outcome = decoder.decode(source, _SECONDS, self._stopped)
        finally:
            self._decoders.put(decoder)
        if isinstance(outcome, OSError):
            raise outcome
        return jpeg(outcome.pixels) if isinstance(outcome, DecodedImage) else b""


def _square(size: int) -> Preprocessing:
    return Preprocessing(size=(size, size), mean=(0, 0, 0), std=(1, 1, 1))
