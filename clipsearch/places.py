"""Where clipsearch keeps what belongs to a person and not to a collection."""

import os
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


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
