"""The writer's lock: one process writes to an index at a time, and others can see which one.

The system releases the lock when its holder ends, for whatever reason.
"""

import os
import platform
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from clipsearch.errors import IndexLocked, StoreError

LOCK = "writer.lock"
HOLDER = "writer.txt"
"""Who holds the lock, as text. A separate file, because trying the lock empties the lock file."""


class WriterLock:
    """The lock of one index folder, held from construction to ``release``."""

    def __init__(self, directory: Path, *, wait: bool = False) -> None:
        """Take the lock; with ``wait``, wait for it. Raises IndexLocked, StoreError."""
        from filelock import FileLock, Timeout  # here: no reader needs it, and it is slow to import

        self._directory = directory
        self._lock = FileLock(directory / LOCK, timeout=-1 if wait else 0)
        try:
            self._lock.acquire()
        except Timeout as error:
            holder = _holder(directory)
            raise IndexLocked(
                f"another clipsearch is writing to {directory}" + (f": {holder}" if holder else ""),
                hint="Wait until it finishes (or use index --wait); searches work in the meantime.",
            ) from error
        except OSError as error:
            raise StoreError(
                f"cannot write to the index folder {directory}: {error.strerror}",
                hint="Put the index elsewhere with --index DIR.",
            ) from error
        since = datetime.now(UTC).isoformat(timespec="seconds")
        with (
            suppress(OSError),  # such as a full disk: only the message to others is lost
            open(directory / HOLDER, "w", encoding="utf-8", opener=_follow_no_link) as file,
        ):
            file.write(f"process {os.getpid()} on {platform.node()} since {since}")

    def release(self) -> None:
        """Release the lock for the next writer."""
        with suppress(OSError):
            (self._directory / HOLDER).unlink()
        self._lock.release()


def writer_of(directory: Path) -> str | None:
    """Who is writing to the index now, as text ("" if unknown); None if nobody is.

    A lock file left behind by a dead process does not count. This briefly takes the lock itself.
    """
    from filelock import FileLock, Timeout  # as above

    if not (directory / LOCK).is_file():
        return None
    lock = FileLock(directory / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return _holder(directory)
    except OSError:  # nobody can write to read-only media
        return None
    lock.release()
    return None


def _follow_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _holder(directory: Path) -> str:
    try:
        return (directory / HOLDER).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
