"""Where clipsearch keeps what belongs to a person and not to a collection."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs


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
