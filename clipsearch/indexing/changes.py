"""Compare what a walk found with what the catalog knows, and summarize the run."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from clipsearch.images.limits import Limits
from clipsearch.records import Failure, ImageFile, KnownImage

_TRIES = 3
"""A decoder that hangs costs a minute per attempt, so the number of attempts is limited."""


@dataclass(slots=True)
class IndexSummary:
    """What one run of ``index`` did."""

    added: int = 0
    changed: int = 0
    moved: int = 0
    removed: int = 0
    unchanged: int = 0
    failed: list[tuple[bytes, str]] = field(default_factory=list)
    """Images that failed in this run, with the reason."""
    still_failed: int = 0
    """Images that failed in an earlier run and were not tried again, since nothing changed."""
    waiting: int = 0
    """Failed images that the next run will try again."""
    unreadable: list[tuple[bytes, str]] = field(default_factory=list)
    links: int = 0
    ignored: Mapping[bytes, int] = field(default_factory=dict)
    """How many files are not images, by file extension: see ``Found``."""
    embedded: int = 0
    looked_at: int = 0
    """Images of an older index for which only the camera and place were read."""
    seconds: float = 0.0
    tested: str = ""
    """For an index that this run created: whether its answers are tested, in one line."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference between a folder and its catalog, before any file is opened."""

    added: list[ImageFile]
    changed: list[ImageFile]
    missing: list[bytes]
    unchanged: int
    again: list[ImageFile]
    """Unchanged files that failed to decode before and may succeed now."""
    still_failed: int
    """Unchanged files that failed to decode before and would fail again."""


def diff(
    found: Iterable[ImageFile],
    known: Mapping[bytes, KnownImage],
    unreadable: Collection[bytes] = (),
    limits: Limits | None = None,
) -> Changes:
    """Sort the files found into added, changed and unchanged, and list the missing ones.

    A file is unchanged if its size and modification time match the catalog; nothing else is
    checked. Files below an ``unreadable`` folder are not missing: their state is unknown.
    Only its content can tell whether an added file is a missing one that was renamed. limits:
    the current ones; without them, no failed file is selected for another attempt.
    """
    added, changed, again, seen = [], [], [], set()
    unchanged = still_failed = 0
    for file in found:
        seen.add(file.path)
        entry = known.get(file.path)
        if entry is None:
            added.append(file)
        elif (entry.size, entry.mtime_ns) != (file.size, file.mtime_ns):
            changed.append(file)
        elif entry.failed and limits and is_worth_a_try(entry.failure, limits):
            again.append(file)
        elif entry.failed:
            still_failed += 1
        else:
            unchanged += 1
    missing = [path for path in known if path not in seen and not any_below(path, unreadable)]
    return Changes(added, changed, missing, unchanged, again, still_failed)


def is_worth_a_try(failure: Failure | None, limits: Limits) -> bool:
    """Whether an unchanged file that failed before is worth decoding under these limits."""
    if failure is None:  # an earlier version did not record the reason
        return True
    if failure.kind == "pixels":
        return failure.pixels <= limits.max_pixels
    if failure.decoders != limits.decoders:
        return True
    return failure.kind != "content" and failure.tries < _TRIES


def any_below(path: bytes, folders: Collection[bytes]) -> bool:
    """Whether ``path`` is in one of ``folders`` (relative paths; ``b""`` is the root)."""
    return any(is_below(path, folder) for folder in folders)


def is_below(path: bytes, folder: bytes) -> bool:
    """Whether ``path`` is ``folder`` or is inside it; both are relative to the same root."""
    return not folder or path == folder or path.startswith(folder + b"/")
