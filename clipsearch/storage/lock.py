"""The writer's lock: one process writes to an index at a time, and others learn which one.

The system releases the lock when its holder ends, however it ends.
"""

import os
import platform
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from clipsearch.errors import IndexLocked, StoreError

LOCK = "writer.lock"
HOLDER = "writer.txt"
"""Who holds the lock, in words. A file of its own: whoever tries the lock empties its file."""


class WriterLock:
    """The lock of one index folder, held from its making to ``release``."""

    def __init__(self, directory: Path, *, wait: bool = False) -> None:
        """Take the lock, or ``wait`` until that is possible. Raises IndexLocked, StoreError."""
        from filelock import FileLock, Timeout  # here: no reader needs it, and it is slow to load

        self._directory = directory
        self._lock = FileLock(directory / LOCK, timeout=-1 if wait else 0)
        try:
            self._lock.acquire()
        except Timeout as error:
            holder = _holder(directory)
            raise IndexLocked(
                f"another clipsearch is writing to {directory}" + (f": {holder}" if holder else ""),
                hint="Wait until it has finished (index --wait does); searching works meanwhile.",
            ) from error
        except OSError as error:
            raise StoreError(
                f"cannot write to the index folder {directory}: {error.strerror}",
                hint="Put the index elsewhere with --index DIR.",
            ) from error
        since = datetime.now(UTC).isoformat(timespec="seconds")
        with (
            suppress(OSError),  # a full disk, say: only the message to others is lost
            open(directory / HOLDER, "w", encoding="utf-8", opener=_follow_no_link) as file,
        ):
            file.write(f"process {os.getpid()} on {platform.node()} since {since}")

    def release(self) -> None:
        """Let the next writer in."""
        with suppress(OSError):
            (self._directory / HOLDER).unlink()
        self._lock.release()


def writer_of(directory: Path) -> str | None:
    """Who is writing to the index at this moment, in words, which may be none; None: nobody.

    A lock file that a dead process left is nobody's. For a moment this holds the lock itself.
    """
    from filelock import FileLock, Timeout  # as above

    if not (directory / LOCK).is_file():
        return None
    lock = FileLock(directory / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return _holder(directory)
    except OSError:  # on a read-only medium nobody writes
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
