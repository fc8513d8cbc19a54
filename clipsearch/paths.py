"""Where clipsearch keeps what belongs to a person and not to a collection."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from clipsearch.records import Hit, Source, Span


def data_dir() -> Path:
    """The list of indexed folders (``CLIPSEARCH_DATA_DIR`` over the platform's data directory)."""
    return Path(os.environ.get("CLIPSEARCH_DATA_DIR") or platformdirs.user_data_dir("clipsearch"))


def cache_dir() -> Path:
    """What can be made again (``CLIPSEARCH_CACHE_DIR`` over the platform's cache directory)."""
    return Path(os.environ.get("CLIPSEARCH_CACHE_DIR") or platformdirs.user_cache_dir("clipsearch"))


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file as one step, for its owner's eyes only. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with open(temporary, "wb", opener=_owner_only) as file:
        file.write(data)
    os.replace(temporary, path)


@contextmanager
def held(path: Path, seconds: float) -> Iterator[None]:
    """Be the only one who changes a file, as long as all ask for this. Raises OSError.

    TimeoutError, which is one, if somebody else holds it for so many seconds. The lock is the
    system's, and ends with its holder.
    """
    from filelock import FileLock  # here, since no reader needs it and it is slow to load

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock"), timeout=seconds, mode=0o600):
        yield


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def native(path: bytes) -> bytes:
    """A stored path in the separators of this system."""
    return path if os.sep == "/" else path.replace(b"/", os.fsencode(os.sep))


def relative(path: Path, root: Path) -> bytes:
    """``path`` as the catalogue of ``root`` has it; nothing if it is the root or outside of it."""
    if path == root or not path.is_relative_to(root):
        return b""
    return os.fsencode(path.relative_to(root).as_posix())


def absolute(root: bytes, path: bytes) -> bytes:
    """Where the file stored as ``path`` lies on this system."""
    return os.path.join(root, native(path))


def require_regular(path: "os.PathLike[str] | bytes") -> None:
    """Raise OSError for a device or a FIFO, which may never end. (A folder cannot be opened.)"""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def is_as_indexed(source: Source, size: int, mtime_ns: int) -> bool:
    """Whether there is a regular file of that size and modification time, and no link to one.

    For a member of an archive, whether the archive is such a file and long enough.
    """
    try:
        status = os.lstat(source.path if isinstance(source, Span) else source)
    except OSError:
        return False
    if isinstance(source, Span):
        return stat.S_ISREG(status.st_mode) and source.offset + size <= status.st_size
    found = (status.st_size, status.st_mtime_ns)
    return stat.S_ISREG(status.st_mode) and found == (size, mtime_ns)


def shown_path(hit: Hit) -> bytes:
    """A hit's path as the user would type it: relative if it lies below the current folder."""
    return shown(absolute_path(hit))


def shown(path: bytes) -> bytes:
    """An absolute path as the user would type it: relative if it is below the current folder."""
    return path.removeprefix(os.path.join(os.fsencode(Path.cwd()), b""))


def absolute_path(hit: Hit) -> bytes:
    """A hit's path from the root of the file system."""
    return absolute(os.fsencode(hit.root), hit.path)


def relative_path(hit: Hit) -> bytes:
    """A hit's path from the current folder, through its parents if need be."""
    return os.path.relpath(absolute_path(hit), os.fsencode(Path.cwd()))
