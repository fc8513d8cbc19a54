"""Decode files in other processes, with bounded memory.

A thread of ours attends each worker process: it says where one image is, waits, and queues the
answer. The queue is short, so decoding runs ahead of the model by a few batches and no further. A
worker that dies or hangs costs the file that it was at, which is reported as failed, and is
replaced. An image in an archive is read out of it by the worker.
"""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Literal

from clipsearch.errors import ClipsearchError, ImageError
from clipsearch.paths import absolute
from clipsearch.records import (
    DecodedImage,
    ImageFile,
    Origin,
    Preprocessing,
    SeenImage,
    Source,
)

Outcome = DecodedImage | SeenImage | Origin | ImageError | OSError


@dataclass(frozen=True, slots=True)
class Whole:
    """The whole image, and not what a model takes of it."""

    longest: int
    """Pixels: it is made smaller until no side is longer."""


Wanted = Preprocessing | Whole | Literal["origin"] | None
"""What is wanted of each file: the pixels for a model, those of the whole image, an ``Origin``
from its header alone, or, with None, a ``SeenImage``: the file is read and its header looked at."""

SECONDS_PER_FILE = 60.0
"""No image below the pixel limit takes a healthy decoder this long, even from a slow disk."""

_SECONDS_TO_NOTICE = 0.1
"""How long a decoder that is at work may keep the pool from stopping."""


class DecodePool:
    """Decodes a list of files while the caller does something else.

    Iterating gives ``(file, outcome)`` in order of completion, where the outcome is the decoded
    image or the error. Use as a context manager: leaving it stops the workers.
    """

    def __init__(
        self,
        root: bytes,
        files: Sequence[ImageFile],
        wanted: Wanted,
        *,
        max_pixels: int | None,
        ahead: int,
        workers: int | None = None,
        timeout: float = SECONDS_PER_FILE,
    ) -> None:
        """``ahead``: how many decoded images may wait for the caller."""
        self._root = root
        self._total = len(files)
        self._todo = iter(files)
        self._todo_lock = threading.Lock()
        self._done: queue.Queue[tuple[ImageFile, Outcome] | BaseException]
        self._done = queue.Queue(maxsize=max(1, ahead))
        self._stopped = threading.Event()
        self._arguments = (wanted, max_pixels)
        self._timeout = timeout
        count = min(len(files), workers or os.cpu_count() or 1)
        self._attendants = [
            threading.Thread(target=self._attend, name=f"decoder-{n}", daemon=True)
            for n in range(count)
        ]

    def __enter__(self) -> "DecodePool":
        for attendant in self._attendants:
            attendant.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        while any(attendant.is_alive() for attendant in self._attendants):
            try:  # an attendant may wait for room in the queue
                self._done.get(timeout=0.05)
            except queue.Empty:
                continue

    def __iter__(self) -> Iterator[tuple[ImageFile, Outcome]]:
        for _ in range(self._total):
            answer = self._done.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer

    def _attend(self) -> None:
        try:
            self._decode_until_done()
        except BaseException as error:
            # No process can be started, say. Without this the caller would wait for ever.
            self._done.put(error)

    def _decode_until_done(self) -> None:
        worker = Decoder(*self._arguments)
        try:
            while not self._stopped.is_set():
                with self._todo_lock:
                    file = next(self._todo, None)
                if file is None:
                    break
                source = source_of(self._root, file)
                outcome = worker.decode(source, self._timeout, self._stopped)
                if not worker.alive and not self._stopped.is_set():
                    worker = Decoder(*self._arguments)
                self._done.put((file, outcome))
        finally:
            worker.stop()


def source_of(root: bytes, file: ImageFile) -> Source:
    """Where a file's bytes are: in an archive, or below ``root``."""
    return file.span or absolute(root, file.path)


def decoded(path: bytes, preprocessing: Preprocessing) -> DecodedImage:
    """Decode one file, at an absolute path, in a process of its own.

    Raises ImageError if it cannot be decoded, OSError if it cannot be read, and ClipsearchError
    if no process can be started.
    """
    decoder = Decoder(preprocessing, None)
    try:
        outcome = decoder.decode(path, SECONDS_PER_FILE, threading.Event())
    finally:
        decoder.stop()
    if isinstance(outcome, ImageError | OSError):
        raise outcome
    assert isinstance(outcome, DecodedImage)
    return outcome


class Decoder:
    """One decoding process and the pipe to it."""

    def __init__(self, wanted: Wanted, max_pixels: int | None) -> None:
        # "spawn" everywhere: a fork would copy torch's threads and locks in an unknown state.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, wanted, max_pixels), daemon=True
        )
        with _without_interrupts():
            self._process.start()
        theirs.close()
        self._ready = False
        self.alive = True

    def decode(self, source: Source, timeout: float, stopped: threading.Event) -> Outcome:
        """Have one image decoded, unless that is ``stopped`` before it is done.

        After a crash, a time-out or a stop the worker is no longer alive. Raises ClipsearchError
        if it never came to life: that is no image's fault, and none must be blamed for it.
        """
        outcome: Outcome
        if not self._ready:
            self._await_start()
        deadline = time.monotonic() + timeout
        try:
            self._pipe.send(source)
            while (left := deadline - time.monotonic()) > 0 and not stopped.is_set():
                if self._pipe.poll(min(left, _SECONDS_TO_NOTICE)):
                    outcome = self._pipe.recv()
                    return outcome
            outcome = ImageError(
                f"the decoder did not finish within {timeout:.0f} seconds", kind="time"
            )
        except (EOFError, OSError):
            self._process.join(5)
            outcome = ImageError(
                f"the decoder crashed on it (exit {self._process.exitcode})", kind="crash"
            )
        self.stop()
        return outcome

    def _await_start(self) -> None:
        try:
            self._pipe.recv()
        except (EOFError, OSError) as error:
            self.stop()
            raise ClipsearchError(
                "the process that decodes images cannot be started",
                hint="clipsearch or Pillow may be damaged; what it says stands above. "
                "Try: pip install --force-reinstall clipsearch",
            ) from error
        self._ready = True

    def stop(self) -> None:
        """End the process, whatever it is at."""
        if not self.alive:
            return
        self.alive = False
        self._pipe.close()
        self._process.kill()
        self._process.join(5)  # a process that waits for a dead disk cannot even be killed
        if self._process.exitcode is not None:
            self._process.close()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is started inside never gets Ctrl-C, from its first moment on.

    Ctrl-C goes to the whole process group, and it is for the main thread to decide what to keep.
    A process inherits the mask of the thread that starts it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, wanted: Wanted, max_pixels: int | None) -> None:
    """The worker process: where an image is in, an outcome out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where the mask above does not exist
    from clipsearch.images.decode import decode, decode_whole, read_origin, see

    outcome: Outcome | None = None  # at first: ready
    while True:
        try:
            pipe.send(outcome)
            source = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            match wanted:
                case None:
                    outcome = see(source, max_pixels)
                case "origin":
                    outcome = read_origin(source)
                case Whole(longest):
                    outcome = decode_whole(source, longest, max_pixels)
                case Preprocessing():
                    outcome = decode(source, wanted, max_pixels)
        except (ImageError, OSError) as error:
            outcome = error
