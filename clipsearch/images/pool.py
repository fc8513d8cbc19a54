"""Decode files in other processes, with bounded memory.

One thread serves each worker process: it sends the location of one image, waits, and queues the
answer. The queue is short, so decoding runs only a few batches ahead of the model. If a worker dies
or hangs, its current file is reported as failed and the worker is replaced. The worker also reads
images out of archives.
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
    """The whole image, not only the part that a model uses."""

    longest: int
    """In pixels: the image is scaled down until no side is longer."""


Wanted = Preprocessing | Whole | Literal["origin"] | None
"""What to return for each file: pixels for a model, pixels of the whole image, an ``Origin`` from
its header alone, or, with None, a ``SeenImage``: the file is read, but only its header decoded."""

SECONDS_PER_FILE = 60.0
"""A healthy decoder never takes this long below the pixel limit, even from a slow disk."""

_SECONDS_TO_NOTICE = 0.1
"""How long a busy decoder may delay stopping the pool."""


class DecodePool:
    """Decodes a list of files in the background.

    Iterating yields ``(file, outcome)`` in order of completion; the outcome is the decoded image or
    the error. Use as a context manager: leaving it stops the workers.
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
        """ahead: how many decoded images may wait for the caller."""
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
            try:  # an attendant may be waiting for room in the queue
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
            # For example, no process can be started. Otherwise the caller would wait forever.
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
    """Where a file's bytes are: in an archive or below ``root``."""
    return file.span or absolute(root, file.path)


def decoded(path: bytes, preprocessing: Preprocessing) -> DecodedImage:
    """Decode one file, at an absolute path, in a separate process.

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
    """One decoder process and the pipe to it."""

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
        """Decode one image in the worker; give up when ``stopped`` is set.

        After a crash, a timeout or a stop, the worker is no longer alive. Raises ClipsearchError if
        the worker never started: that is not the image's fault.
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
                hint="clipsearch or Pillow may be damaged; see the output above. "
                "Try: pip install --force-reinstall clipsearch",
            ) from error
        self._ready = True

    def stop(self) -> None:
        """Kill the process, whatever it is doing."""
        if not self.alive:
            return
        self.alive = False
        self._pipe.close()
        self._process.kill()
        self._process.join(5)  # a process that waits for a dead disk cannot be killed
        if self._process.exitcode is not None:
            self._process.close()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C from the beginning.

    Ctrl-C goes to the whole process group, but only the main thread may decide what to keep. A
    process inherits the signal mask of the thread that starts it.
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
    """The worker process: receive an image's location, send an outcome, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for systems without the mask above
    from clipsearch.images.decode import decode, decode_whole, read_origin, see

    outcome: Outcome | None = None  # the first message means: ready
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
