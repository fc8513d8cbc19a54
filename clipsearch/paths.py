"""Paths, safe file writes, and the folders for data that belongs to a user."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from clipsearch.records import Hit, Source, Span


def data_dir() -> Path:
    """The user's data folder: ``CLIPSEARCH_DATA_DIR`` (default: the platform's)."""
    return Path(os.environ.get("CLIPSEARCH_DATA_DIR") or platformdirs.user_data_dir("clipsearch"))


def cache_dir() -> Path:
    """The user's cache folder: ``CLIPSEARCH_CACHE_DIR`` (default: the platform's)."""
    return Path(os.environ.get("CLIPSEARCH_CACHE_DIR") or platformdirs.user_cache_dir("clipsearch"))


MARK = "made by clipsearch, which may overwrite it"
"""Near the start of every page and montage, so that a later run recognizes its own files."""

_HEAD = 1024


def is_marked(path: Path) -> bool:
    """Whether ``MARK`` is near the start of a file. Raises OSError."""
    with open(path, "rb") as file:
        return MARK.encode() in file.read(_HEAD)


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file atomically: even a crash leaves either the old file or the new one.

    mode: permissions, less the user's umask (default: owner only). Raises OSError.
    """
    make_folder(path.parent, 0o700)
    # An unguessable name, opened with O_EXCL, cannot follow a link that an attacker planted.
    temporary = path.with_name(f".{os.urandom(8).hex()}.partial")
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
        put_in_place(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def put_in_place(written: Path, path: Path) -> None:
    """Rename a file to ``path``, so that a power cut leaves either the old file or the new one.

    Without the first fsync the name may reach the disk before the data. Raises OSError.
    """
    with written.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(written, path)
    sync_folder(path.parent)


def make_folder(path: Path, mode: int) -> None:
    """Make a folder and its missing parents, durable after a power cut. Raises OSError."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable after a power cut, where the system supports it."""
    with suppress(OSError):  # Windows cannot open a folder, and some shares cannot sync one
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def held(path: Path, seconds: float) -> Iterator[None]:
    """Hold an advisory lock on a file. Raises OSError.

    That includes TimeoutError if another process holds the lock for ``seconds``. The system
    releases the lock when its holder ends.
    """
    from filelock import FileLock  # here: no reader needs it, and it is slow to import

    make_folder(path.parent, 0o700)
    with FileLock(path.with_name(f"{path.name}.lock"), timeout=seconds, mode=0o600):
        yield


def native(path: bytes) -> bytes:
    """A stored path with this system's separators."""
    return path if os.sep == "/" else path.replace(b"/", os.fsencode(os.sep))


def relative(path: Path, root: Path) -> bytes:
    """``path`` as stored in the catalog of ``root``; empty for the root or a path outside it."""
    if path == root or not path.is_relative_to(root):
        return b""
    return os.fsencode(path.relative_to(root).as_posix())


def absolute(root: bytes, path: bytes) -> bytes:
    """The absolute path, on this system, of the file stored as ``path``."""
    return os.path.join(root, native(path))


def require_regular(path: "os.PathLike[str] | bytes") -> None:
    """Raise OSError for a device or a FIFO, which may never end. (Opening a folder fails.)"""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def is_as_indexed(source: Source, size: int, mtime_ns: int) -> bool:
    """Whether a regular file, and not a link, has this size and modification time.

    For a member of an archive: whether the archive is a regular file that is long enough.
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
    """A hit's path as the user would type it: relative if it is below the current folder."""
    return shown(absolute_path(hit))


def shown(path: bytes) -> bytes:
    """An absolute path as the user would type it: relative if it is below the current folder."""
    return path.removeprefix(os.path.join(os.fsencode(Path.cwd()), b""))


def absolute_path(hit: Hit) -> bytes:
    """A hit's absolute path."""
    return absolute(os.fsencode(hit.root), hit.path)


def relative_path(hit: Hit) -> bytes:
    """A hit's path relative to the current folder, with ``..`` if needed."""
    return os.path.relpath(absolute_path(hit), os.fsencode(Path.cwd()))


def size_of(path: Path) -> int:
    """The size of a file in bytes; 0 if it is missing or inaccessible."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
