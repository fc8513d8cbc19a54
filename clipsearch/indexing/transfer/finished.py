"""Markers for finished shards, each written after the shard's own files.

``shards/shard_00003.json`` records the archive or images of the shard, their state at the time,
and the digests of its files. A shard without a marker, or whose files differ, is not finished.
"""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from clipsearch import typed
from clipsearch.paths import put_in_place

FOLDER = "shards"


@dataclass(frozen=True, slots=True)
class Marker:
    """The record of a finished shard."""

    source: str
    """Its source: an archive's path relative to the root, or a range of images of a folder."""
    state: str
    """A digest of the source's names, sizes and times; if it changes, the shard is outdated."""
    rows: int
    failed: int
    """How many images could not be decoded."""
    damage: str | None
    """Why the archive may contain more images; None if it was complete."""
    files: Mapping[str, str]
    """Digest of each file, by its path relative to the output folder."""


def mark(folder: Path, number: str, marker: Marker) -> None:
    """Mark a shard as finished, once its files are on disk. Raises OSError."""
    text = json.dumps(asdict(marker), indent=2) + "\n"
    put(_path(folder, number), lambda path: path.write_bytes(text.encode()))


def unmark(folder: Path, number: str) -> None:
    """Mark a shard as not finished, so that it is made again. Raises OSError."""
    _path(folder, number).unlink(missing_ok=True)


def marker_of(folder: Path, number: str) -> Marker | None:
    """The marker of a finished shard whose files are unchanged; otherwise None."""
    try:
        marker = _read(_path(folder, number))
        whole = all(digest(folder / name) == made for name, made in marker.files.items())
    except (OSError, ValueError):
        return None
    return marker if whole else None


def markers(folder: Path) -> Iterator[tuple[str, Marker]]:
    """Numbers and markers of all shards that were ever finished, whatever their files are now."""
    for path in sorted((folder / FOLDER).glob("shard_*.json")):
        with suppress(OSError, ValueError):
            yield path.stem.removeprefix("shard_"), _read(path)


def put(path: Path, write: Callable[[Path], object]) -> str:
    """Write a file under a temporary name and rename it once complete; returns its digest.

    Leftovers of a killed run are removed. Raises OSError.
    """
    path.parent.mkdir(exist_ok=True)
    for left in path.parent.glob(f".partial-*-{path.name}"):
        left.unlink(missing_ok=True)
    partial = path.with_name(f".partial-{uuid.uuid4().hex[:8]}-{path.name}")
    write(partial)
    made = digest(partial)
    put_in_place(partial, path)
    return made


def digest(path: Path) -> str:
    """BLAKE2b-256 of a file, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def _path(folder: Path, number: str) -> Path:
    return folder / FOLDER / f"shard_{number}.json"


def _read(path: Path) -> Marker:
    marker: Marker = typed.from_json(Marker, path.read_text("utf-8"))
    return marker
