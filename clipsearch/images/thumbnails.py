"""Small JPEGs of images, for a page: decoded as safely as when they are indexed."""

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
"""Pixels across, of a hit's thumbnail."""

_AHEAD = 16
_SECONDS = 20.0
"""Who looks at a page waits no longer for one image."""
_MOST_BYTES = 64_000_000
"""Of thumbnails in memory: some 8,000 of 224 pixels."""
_OVERHEAD = 300
"""Bytes of a key, near enough."""
_MOST_DECODERS = 4


def thumbnails(root: bytes, paths: Sequence[bytes], size: int) -> dict[bytes, bytes]:
    """The middle square of each image, ``size`` pixels wide, by path: what most models see.

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
    """The same, one at a time, for a page that asks for them as it is scrolled.

    Its decoding processes stay, and so do the thumbnails, up to a bound: those that nobody asked
    for longest go first. May be used by many threads. Use as a context manager: leaving it ends
    the processes.
    """

    def __init__(self, *, most_bytes: int = _MOST_BYTES) -> None:
        """``most_bytes``: of thumbnails that are kept."""
        self._square = _square(SIZE)
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[Source, int, int], bytes] = OrderedDict()
        """By place, time and size; nothing for an image that cannot be decoded."""
        self._bytes = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._decoders: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
        """Those that have nothing to do."""
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
        self._stopped.set()  # whoever is at work notices, and gives its decoder back
        for _ in range(self._count):
            self._decoders.get().stop()

    def get(self, source: Source) -> bytes | None:
        """The thumbnail of an image; None if it cannot be decoded.

        Raises OSError if there is no regular file, and ClipsearchError if no decoder can be
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
