"""What a file system may hold after a power cut, made from a record of what a program did.

The model is that of ALICE (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014), at
its weakest. A write or a truncation lasts once its file was synced since; a name that came, went or
changed lasts once its folder was. Of everything else, any part may have reached the disk, in any
order, and a write in part: by sectors, or as a longer file that holds zeros or old garbage where
the data should be. Renaming is one step. A record is made by ``recorder.c``.
"""

import hashlib
import os
import random
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SECTOR = 512
"""What a disk writes whole or not at all."""


class Create(NamedTuple):
    """A file that was not there."""

    path: str
    file: int
    """Files have numbers of their own, since names and inodes are used again."""


class Write(NamedTuple):
    file: int
    at: int
    data: bytes


class Truncate(NamedTuple):
    file: int
    size: int


class Rename(NamedTuple):
    path: str
    target: str
    file: int


class Remove(NamedTuple):
    """The name of a file, or an empty folder."""

    path: str


class MakeFolder(NamedTuple):
    path: str


class SyncFile(NamedTuple):
    file: int


class SyncFolder(NamedTuple):
    path: str


class Mark(NamedTuple):
    """What the program said had lasted: a commit that returned."""

    text: str


Content = Write | Truncate
Names = Create | Rename | Remove | MakeFolder
Change = Content | Names
Operation = Change | SyncFile | SyncFolder | Mark


class NotModelled(Exception):
    """The program did something that cannot be replayed here."""


@dataclass
class Disk:
    """Files by number, their names, and folders; paths are relative to what was recorded."""

    files: dict[int, bytearray] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, root: Path) -> tuple["Disk", dict[int, int]]:
        """What lies below a folder now, and the number of each file by its inode."""
        disk, numbers = cls(), dict[int, int]()
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_dir():
                disk.folders.add(name)
            else:
                number = numbers.setdefault(path.stat().st_ino, len(numbers))
                disk.names[name] = number
                disk.files[number] = bytearray(path.read_bytes())
        return disk, numbers

    def copy(self) -> "Disk":
        files = {number: bytearray(content) for number, content in self.files.items()}
        return Disk(files, dict(self.names), set(self.folders))

    def apply(self, changes: Iterable[Change]) -> "Disk":
        """This disk after some changes; one whose file or folder never came is left out."""
        for change in changes:
            match change:
                case Create(path, file):
                    self.names[path] = file
                    self.files.setdefault(file, bytearray())
                case Write(file, at, data):
                    content = self.files.setdefault(file, bytearray())
                    content.extend(bytes(max(0, at - len(content))))
                    content[at : at + len(data)] = data
                case Truncate(file, size):
                    content = self.files.setdefault(file, bytearray())
                    content.extend(bytes(max(0, size - len(content))))
                    del content[size:]
                case Rename(path, target, file):
                    if self.names.get(path) == file:
                        del self.names[path]
                    self.names[target] = file
                    self.files.setdefault(file, bytearray())
                case Remove(path):
                    self.names.pop(path, None)
                    self.folders.discard(path)
                case MakeFolder(path):
                    self.folders.add(path)
        return self

    def reachable(self) -> dict[str, bytes | None]:
        """Path -> content of what can be found by name; None for a folder."""
        found: dict[str, bytes | None] = {}
        for folder in sorted(self.folders):
            if self._is_reachable(folder):
                found[folder] = None
        for path, number in self.names.items():
            if self._is_reachable(path):
                found[path] = bytes(self.files[number])
        return found

    def _is_reachable(self, path: str) -> bool:
        return all(parent in self.folders for parent in parents(path))

    def write_to(self, root: Path) -> None:
        """Make a folder hold what can be found, and touch nothing that is so already."""
        wanted = self.reachable()
        for path in sorted(root.rglob("*"), reverse=True):
            if path.relative_to(root).as_posix() not in wanted:
                path.rmdir() if path.is_dir() else path.unlink()
        for name, content in sorted(wanted.items(), key=lambda one: (one[1] is not None, one[0])):
            path = root / name
            if content is None:
                path.mkdir(exist_ok=True)
            elif not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)


def parents(path: str) -> Iterator[str]:
    """The folders above a path, without the recorded one."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def folder_of(path: str) -> str:
    """The folder that a name is in; "" for the recorded one."""
    return path.rpartition("/")[0]


# -- the record ------------------------------------------------------------------------------------

_HEAD = struct.Struct("=6q")


def append_mark(record: Path, text: str) -> None:
    """Say, between two operations, what lasts from now on."""
    log = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    data = text.encode()
    os.write(log, _HEAD.pack(ord("M"), 0, 0, 0, 0, len(data)) + data)
    os.close(log)


def read(record: Path, root: Path, disk: Disk, numbers: dict[int, int]) -> list[Operation]:
    """The operations below ``root``. disk, numbers: what was there before, as ``Disk.of`` tells.

    Raises NotModelled.
    """
    data = record.read_bytes()
    numbers, names, folders = dict(numbers), dict(disk.names), set(disk.folders)
    operations: list[Operation] = []
    at, count = 0, len(disk.files)
    while at < len(data):
        kind, inode, offset, *sizes = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        path, second, payload = _parts(data, at, sizes)
        at += sum(sizes)
        name, target = _relative(path, root), _relative(second, root)
        match chr(kind):
            case "M":
                operations.append(Mark(payload.decode()))
            case "C":
                names[name] = numbers[inode] = count
                operations.append(Create(name, count))
                count += 1
            case "W":
                operations.append(Write(numbers[inode], offset, payload))
            case "T":
                operations.append(Truncate(numbers[inode], offset))
            case "F" if name in folders or not name:
                operations.append(SyncFolder(name))
            case "F":
                operations.append(SyncFile(numbers[inode]))
            case "D":
                folders.add(name)
                operations.append(MakeFolder(name))
            case "R" if name in names and folder_of(target) in folders | {""}:
                names[target] = names.pop(name)
                operations.append(Rename(name, target, names[target]))
            case "U" if name in names or name in folders:
                names.pop(name, None)
                folders.discard(name)
                operations.append(Remove(name))
            case _:
                raise NotModelled(f"{chr(kind)} of {os.fsdecode(path)} {os.fsdecode(second)}")
    return operations


def _parts(data: bytes, at: int, sizes: Sequence[int]) -> Iterator[bytes]:
    for size in sizes:
        yield data[at : at + size]
        at += size


def _relative(path: bytes, root: Path) -> str:
    name = Path(os.fsdecode(path)).relative_to(root).as_posix() if path else ""
    return "" if name == "." else name


# -- what a cut may leave --------------------------------------------------------------------------


class State(NamedTuple):
    """A disk after a power cut, as the changes that reached it."""

    cut: int
    """How many operations had returned."""
    lost: str
    """What did not reach the disk, in words."""
    changes: list[Change]


def settled_at(operations: Sequence[Operation]) -> list[int]:
    """Of each operation, after how many it is sure to last; more than there are: never.

    A name lasts once the folder that it is, or moves, into is synced.
    """
    settled = [len(operations) + 1] * len(operations)
    waiting: dict[int | str, list[int]] = {}
    for n, operation in enumerate(operations):
        match operation:
            case Write() | Truncate():
                waiting.setdefault(operation.file, []).append(n)
            case Rename():
                waiting.setdefault(folder_of(operation.target), []).append(n)
            case Create() | Remove() | MakeFolder():
                waiting.setdefault(folder_of(operation.path), []).append(n)
            case SyncFile(file=what) | SyncFolder(path=what):
                for earlier in waiting.pop(what, []):
                    settled[earlier] = n + 1
    return settled


def states(
    disk: Disk,
    operations: Sequence[Operation],
    settled: Sequence[int],
    cut: int,
    chance: random.Random,
    most: int,
) -> list[State]:
    """The disks that a cut after so many operations may leave: in order, and ``most`` others.

    disk: as it was before the first. settled: as ``settled_at`` tells. The first state has lost
    nothing.
    """
    before = list(enumerate(operations[:cut]))
    changes = {n: done for n, done in before if not isinstance(done, SyncFile | SyncFolder | Mark)}
    pending = {n: change for n, change in changes.items() if settled[n] > cut}
    lasting = disk.copy().apply(change for n, change in changes.items() if n not in pending)
    sizes = {file: len(content) for file, content in lasting.files.items()}
    found = list(_losses(pending, sizes, chance))
    found = found if len(found) <= most else chance.sample(found, most)
    listed = [State(cut, "nothing", list(changes.values()))]
    for lost, kept in found:
        parts = [kept.get(n, []) if n in pending else [changes[n]] for n in changes]
        listed.append(State(cut, lost, [change for part in parts for change in part]))
    return listed


Kept = dict[int, list[Change]]
"""What reached the disk of each pending change; of one that is not named, nothing."""


def _losses(
    pending: dict[int, Change], sizes: dict[int, int], chance: random.Random
) -> Iterator[tuple[str, Kept]]:
    if not pending:
        return
    whole: Kept = {n: [change] for n, change in pending.items()}
    yield "all that was not synced", {}
    data = {n: kept for n, kept in whole.items() if isinstance(pending[n], Content)}
    names = {n: kept for n, kept in whole.items() if n not in data}
    if data and names:
        yield "data, not names", names
        yield "names, not data", data
    for file in sorted({pending[n].file for n in data}):  # type: ignore[union-attr]
        own = {n: kept for n, kept in data.items() if pending[n].file == file}  # type: ignore[union-attr]
        yield f"all but file {file}", own
        yield f"file {file}", {n: kept for n, kept in whole.items() if n not in own}
    for n, change in pending.items():
        kind = f"{type(change).__name__} {n}"
        without = {m: kept for m, kept in whole.items() if m != n}
        yield kind, without
        yield f"all but {kind}", {n: [change]}
        if isinstance(change, Write):
            for how, parts in _torn(change, sizes.get(change.file, 0), chance):
                yield f"{kind} {how}", without | {n: parts}
                yield f"all but {kind} {how}", {n: parts}
    for _ in range(len(pending)):
        share = chance.random()
        yield (
            f"{1 - share:.0%} at random",
            {
                n: _torn_at_random(change, chance) if chance.random() < 0.2 else [change]
                for n, change in pending.items()
                if chance.random() < share
            },
        )


def _torn(write: Write, size: int, chance: random.Random) -> Iterator[tuple[str, list[Change]]]:
    """A write of which some sectors reached the disk, or none but the length of the file.

    size: what the file is sure to hold. What lies beyond may be anything until it is synced.
    """
    pieces = sectors(write)
    if len(pieces) > 1:
        yield "but its first half", list(pieces[: len(pieces) // 2])
        yield "but its second half", list(pieces[len(pieces) // 2 :])
    if write.at >= size:
        yield "but zeros", [write._replace(data=bytes(len(write.data)))]
        yield "but garbage", [write._replace(data=chance.randbytes(len(write.data)))]


def _torn_at_random(change: Change, chance: random.Random) -> list[Change]:
    if not isinstance(change, Write):
        return [change]
    return [piece for piece in sectors(change) if chance.random() < 0.5]


def sectors(write: Write) -> list[Write]:
    """A write as one for each sector that it touches."""
    found, at, data = [], write.at, write.data
    while data:
        size = SECTOR - at % SECTOR
        found.append(Write(write.file, at, data[:size]))
        at, data = at + size, data[size:]
    return found


def digest(disk: Disk) -> bytes:
    """The same for disks that nobody can tell apart."""
    hashed = hashlib.blake2b(digest_size=16)
    for path, content in sorted(disk.reachable().items()):
        hashed.update(repr((path, content is None, len(content or b""))).encode())
        hashed.update(content or b"")
    return hashed.digest()
