"""Tar archives of samples, as webdataset and img2dataset write them.

A sample is the members of one key: ``000000012.jpg``, ``.txt`` and ``.json`` are the image, the
caption and the metadata of ``000000012``. The key is a member's path up to the first dot of its
name, and the rest, in lower case, is its extension (webdataset, ``tariterators.base_plus_ext``).

Only headers are read, and nothing is unpacked: a sample says where in the archive its members are.
So the members of a key may be far apart, and each can be read alone.
"""

import io
import os
import re
import tarfile
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from clipsearch.records import Source, Span

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "heic", "heif", "avif")
"""Extensions of images. The first one that a sample has is its image."""

_MEMBER = re.compile(rb"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
"""The key and the extension in a member's path."""

_MOST_HEADER_BYTES = 1 << 20
"""Limit for one read of a header: a damaged or hostile header could ask for any number."""

_BLOCK = tarfile.BLOCKSIZE


class Member(NamedTuple):
    """One file in an archive."""

    name: bytes
    """Its path in the archive."""
    span: Span
    mtime_ns: int
    """Modification time in nanoseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The members of one key."""

    key: bytes
    members: dict[str, Member] = field(default_factory=dict)
    """By extension, without the first dot and in lower case."""

    @property
    def picture(self) -> Member | None:
        """Its image; None if it has none."""
        return next((self.members[kind] for kind in PICTURES if kind in self.members), None)


@dataclass(frozen=True, slots=True)
class Shard:
    """The content of an archive according to its headers."""

    samples: tuple[Sample, ...]
    """In the order of their first members; every member is complete."""
    odd: tuple[tuple[bytes, str], ...]
    """Members that do not belong to a sample, and why: a duplicate name, a link, ..."""
    damage: str | None
    """Why there may be more samples than were read; None if the archive ends as it should."""


def read(path: bytes) -> Shard:
    """Read the headers of an uncompressed tar archive, and group its members by key.

    Complete members before any damage are returned, and the damage is reported. Memory grows with
    the number of members, not with their size. Raises OSError if the file cannot be read.
    """
    samples: dict[bytes, Sample] = {}
    odd: list[tuple[bytes, str]] = []
    damage = None
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        try:
            with tarfile.open(fileobj=_Headers(file), mode="r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]
                    name = member.name.encode("utf-8", "surrogateescape")
                    if member.offset_data + member.size > end:
                        damage = f"it is cut short within {os.fsdecode(name)}"
                        break
                    if why := _add(samples, path, name, member):
                        odd.append((name, why))
                else:
                    damage = _end_missing(file, archive.offset)
        except tarfile.TarError as error:
            damage = f"it is {'damaged' if samples else 'not a tar archive'} ({error})"
    return Shard(tuple(samples.values()), tuple(odd), damage)


def opened(source: Source | str) -> BinaryIO:
    """Open an image's bytes in its own file or inside an archive. Raises OSError."""
    if not isinstance(source, Span):
        return open(source, "rb")
    return io.BufferedReader(_Part(open(source.path, "rb", buffering=0), source))


def _add(
    samples: dict[bytes, Sample], path: bytes, name: bytes, member: tarfile.TarInfo
) -> str | None:
    """Add a member to its sample; return why it has none, if that is worth reporting."""
    if member.isdir():
        return None
    if not member.isreg() or member.issparse():
        return "not a plain file" if not (member.issym() or member.islnk()) else "a link"
    found = _MEMBER.fullmatch(name)
    if found is None:
        return "its name has no key and extension"
    if name.startswith(b"/") or b"\0" in name or b".." in name.split(b"/"):
        return "its path leads outside the archive"
    key, extension = found[1], found[2].decode("utf-8", "replace").lower()
    sample = samples.setdefault(key, Sample(key))
    if extension in sample.members:
        return "a second member of that name"
    span = Span(path, member.offset_data, member.size)
    sample.members[extension] = Member(name, span, max(0, int(member.mtime)) * 1_000_000_000)
    return None


def _end_missing(file: BinaryIO, offset: int) -> str | None:
    """Check for the block of zeros at an archive's end; say what is wrong."""
    file.seek(offset)
    block = file.read(_BLOCK)
    if block == bytes(_BLOCK):
        return None
    return (
        f"the header at byte {offset} is damaged" if len(block) == _BLOCK else "its end is missing"
    )


class _Headers(io.RawIOBase):
    """A file that refuses reads longer than a header needs."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_HEADER_BYTES:
            raise tarfile.ReadError("a header is too long")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class _Part(io.RawIOBase):
    """The bytes of a span as a file; closing it closes the underlying file."""

    def __init__(self, file: io.RawIOBase | io.FileIO, span: Span) -> None:
        self._file = file
        self._span = span
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._span.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        left = max(0, self._span.size - self._at)
        self._file.seek(self._span.offset + self._at)
        count = self._file.readinto(memoryview(buffer)[:left]) or 0
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
