"""Where clipsearch keeps what belongs to a person and not to a collection."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from clipsearch.records import Hit, Source, Span


def data_dir() -> Path:
    """The list of indexed folders (``CLIPSEARCH_DATA_DIR`` over the platform's data directory)."""
    return Path(os.environ.get("CLIPSEARCH_DATA_DIR") or platformdirs.user_data_dir("clipsearch"))


def cache_dir() -> Path:
    """What can be made again (``CLIPSEARCH_CACHE_DIR`` over the platform's cache directory)."""
    return Path(os.environ.get("CLIPSEARCH_CACHE_DIR") or platformdirs.user_cache_dir("clipsearch"))


MARK = "made by clipsearch, which may overwrite it"
"""Near the start of every page and montage, so that a later run knows its own files."""

_HEAD = 1024


def is_marked(path: Path) -> bool:
    """Whether ``MARK`` is near the start of a file. Raises OSError."""
    with open(path, "rb") as file:
        return MARK.encode() in file.read(_HEAD)


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file as one step: whatever ends the run, the old one or the new one is there.

    mode: permissions, less the user's umask; by default for the owner alone. Raises OSError.
    """
    make_folder(path.parent, 0o700)
    # A name that nobody can guess, made with O_EXCL, follows no link that somebody put there.
    temporary = path.with_name(f".{os.urandom(8).hex()}.partial")
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
        put_in_place(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def put_in_place(written: Path, path: Path) -> None:
    """Rename a file to ``path``, so that a power cut leaves the old file or the new one.

    Without the first fsync the name may reach the disk before the data. Raises OSError.
    """
    with written.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(written, path)
    sync_folder(path.parent)


def make_folder(path: Path, mode: int) -> None:
    """Make a folder, and those above it, that outlast a power cut. Raises OSError."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sync_folder(path: Path) -> None:
    """Have the names in a folder outlast a power cut; nothing where the system cannot do it."""
    with suppress(OSError):  # Windows opens no folder, and some shares sync none
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def held(path: Path, seconds: float) -> Iterator[None]:
    """Be the only one who changes a file, as long as all ask for this. Raises OSError.

    TimeoutError, which is one, if somebody else holds it for so many seconds. The lock is the
    system's, and ends with its holder.
    """
    from filelock import FileLock  # here, since no reader needs it and it is slow to load

    make_folder(path.parent, 0o700)
    with FileLock(path.with_name(f"{path.name}.lock"), timeout=seconds, mode=0o600):
        yield


def native(path: bytes) -> bytes:
    """A stored path in the separators of this system."""
    return path if os.sep == "/" else path.replace(b"/", os.fsencode(os.sep))


def relative(path: Path, root: Path) -> bytes:
    """``path`` as the catalog of ``root`` has it; nothing if it is the root or outside of it."""
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


def size_of(path: Path) -> int:
    """How many bytes a file has; 0 if it is not there or may not be looked at."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
