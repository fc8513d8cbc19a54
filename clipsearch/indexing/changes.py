"""Compare what a walk found with what the catalogue knows."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from clipsearch.records import ImageFile, KnownImage


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference between a folder and its catalogue, before any file has been opened."""

    added: list[ImageFile]
    changed: list[ImageFile]
    missing: list[bytes]
    unchanged: int
    still_failed: int
    """Unchanged files that could not be decoded before: they are not tried again."""


def diff(
    found: Iterable[ImageFile],
    known: Mapping[bytes, KnownImage],
    unreadable: Collection[bytes] = (),
) -> Changes:
    """Sort the files found into added, changed and unchanged, and name the missing.

    A file whose size and modification time are the catalogue's is unchanged; nothing else is
    asked of it. What lies below an ``unreadable`` folder is not missing: nothing is known of it.
    Whether an added file is a missing one under a new name is for its content to say.
    """
    added, changed, seen = [], [], set()
    unchanged = still_failed = 0
    for file in found:
        seen.add(file.path)
        entry = known.get(file.path)
        if entry is None:
            added.append(file)
        elif (entry.size, entry.mtime_ns) != (file.size, file.mtime_ns):
            changed.append(file)
        elif entry.failed:
            still_failed += 1
        else:
            unchanged += 1
    missing = [path for path in known if path not in seen and not any_below(path, unreadable)]
    return Changes(added, changed, missing, unchanged, still_failed)


def any_below(path: bytes, folders: Collection[bytes]) -> bool:
    """Whether ``path`` lies in one of ``folders`` (relative paths; ``b""`` is the root)."""
    return any(is_below(path, folder) for folder in folders)


def is_below(path: bytes, folder: bytes) -> bool:
    """Whether ``path`` is ``folder`` or lies in it; both relative to one root."""
    return not folder or path == folder or path.startswith(folder + b"/")
