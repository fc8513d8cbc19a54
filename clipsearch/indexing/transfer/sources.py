"""Split the sources of ``embed`` into the shards that it writes.

Each archive is a shard, and so is each group of 10,000 images of a folder. The source alone
determines the shards and their numbers, so that many processes agree without communicating.
"""

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from clipsearch.errors import UsageError
from clipsearch.images import scan
from clipsearch.records import ImageFile

PICTURES_PER_SHARD = 10_000
"""Images of a folder per shard; img2dataset writes the same number into an archive."""

_ARCHIVE = ".tar"
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST_ARCHIVES = 10_000_000
_LEAST_DIGITS = 5
"""Digits of a shard's number, as in img2dataset."""


@dataclass(frozen=True, slots=True)
class Work:
    """One shard to make."""

    number: str
    """As in the names of its files: ``00003``."""
    name: str
    """An archive's path relative to the root, or the range of images of a folder."""
    state: str
    """A digest of the source's names, sizes and times."""
    archive: Path | None
    files: tuple[ImageFile, ...]
    """Relative to the root; empty for an archive."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All shards of a source."""

    root: Path
    works: tuple[Work, ...]
    unreadable: tuple[tuple[bytes, str], ...]
    """Folders that could not be listed, and why."""

    def part(self, number: int, parts: int) -> tuple[Work, ...]:
        """Every ``parts``-th shard, starting with the ``number``-th: each shard is in one part."""
        return self.works[number - 1 :: parts]


def plan(sources: Sequence[str]) -> Plan:
    """The shards of a folder of images, or of archives.

    sources: a folder; or archives, folders of archives, globs (``laion/*.tar``) and brace patterns
    (``laion/{00000..00150}.tar``). Raises UsageError if a source does not exist, CollectionGone
    if a folder cannot be listed.
    """
    archives = list(dict.fromkeys(path for source in sources for path in _archives(source)))
    if archives:
        return _of_archives(archives)
    folder = Path(sources[0])
    if len(sources) > 1 or not folder.is_dir():
        raise UsageError(
            f"there is nothing to embed at {sources[0]}",
            hint="Name a folder of images, or archives: 'laion/{00000..00150}.tar'.",
        )
    return _of_pictures(folder.resolve())


def _archives(source: str) -> Iterator[Path]:
    """The archives that a source names; none for a folder without archives."""
    path = Path(source)
    if path.is_dir():
        yield from sorted(found for found in path.iterdir() if found.suffix == _ARCHIVE)
        return
    for name in [source] if path.exists() else _expanded(source):
        found = [name] if os.path.exists(name) else sorted(glob.glob(name))
        if not found:
            raise UsageError(
                f"there is no archive {name}",
                hint="Name existing archives with a glob: 'laion/*.tar'.",
            )
        yield from map(Path, found)


def _expanded(pattern: str) -> Iterator[str]:
    """Brace patterns, as in shells: ``{00000..00150}`` and ``{a,b}``."""
    parts = _BRACES.split(pattern)  # text, braces, text, braces, ..., text
    choices = [_choices(part) if n % 2 else [part] for n, part in enumerate(parts)]
    return map("".join, product(*choices))


def _choices(inside: str) -> Iterable[str]:
    if found := _RANGE.fullmatch(inside):
        first, last = int(found[1]), int(found[2])
        if not first <= last < first + _MOST_ARCHIVES:
            raise UsageError(
                f"{{{inside}}} names no archives, or too many",
                hint="For example: {00000..00150}",
            )
        return (str(number).zfill(len(found[1])) for number in range(first, last + 1))
    return inside.split(",")


def _of_archives(archives: Sequence[Path]) -> Plan:
    paths = [Path(os.path.abspath(path)) for path in archives]
    for path in paths:
        if not path.is_file():
            raise UsageError(f"{path} is not a file", hint="An archive is a tar file.")
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"the name of {path} is not UTF-8", hint="Rename the archive."
            ) from error
    root = Path(os.path.commonpath([path.parent for path in paths]))
    numbers = _numbers(paths)
    works = []
    for number, path in sorted(zip(numbers, paths, strict=True)):
        name, status = path.relative_to(root).as_posix(), path.stat()
        state = _state([ImageFile(name.encode(), status.st_size, status.st_mtime_ns)])
        works.append(Work(number, name, state, path, ()))
    return Plan(root, tuple(works), ())


def _numbers(paths: Sequence[Path]) -> list[str]:
    """The archives' own numbers, if each has one; otherwise their positions in the list."""
    stems = [path.stem for path in paths]
    own = all(stem.isascii() and stem.isdecimal() for stem in stems)
    numbers = [int(stem) for stem in stems] if own else []
    if len(set(numbers)) < len(paths):
        numbers = list(range(len(paths)))
    digits = max(_LEAST_DIGITS, len(str(max(numbers))))
    return [str(number).zfill(digits) for number in numbers]


def _of_pictures(folder: Path) -> Plan:
    found = scan.find(os.fsencode(folder))
    files = found.files
    if not files:
        raise UsageError(
            f"there are no images and no archives in {folder}", hint="Name another folder."
        )
    works = []
    for start in range(0, len(files), PICTURES_PER_SHARD):
        some = tuple(files[start : start + PICTURES_PER_SHARD])
        number = str(start // PICTURES_PER_SHARD).zfill(_LEAST_DIGITS)
        name = f"images {start + 1} to {start + len(some)}"
        works.append(Work(number, name, _state(some), None, some))
    return Plan(folder, tuple(works), tuple(found.unreadable))


def _state(files: Iterable[ImageFile]) -> str:
    seen = hashlib.blake2b(digest_size=16)
    for file in files:
        seen.update(b"%s\0%d\0%d\n" % (file.path, file.size, file.mtime_ns))
    return seen.hexdigest()
