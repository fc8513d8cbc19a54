"""Notice that something has happened in folders of pictures, and leave alone what still grows.

``happenings`` only says where to look again: what has changed is for the next walk to find out, so
a message that the system sends twice, or not at all, costs nothing but time. This is the one room
that imports watchfiles.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipsearch.errors import StoreError, UsageError
from clipsearch.images.scan import SUFFIXES
from clipsearch.records import Found, ImageFile, KnownImage

QUIET_SECONDS = 1.0
"""A file that is the same in two looks so far apart is taken to be written to its end."""

_TICK_MS = 1000
_PAUSE_MS, _GROUPED_MS = 200, 5000
"""Messages are put together until there is a pause, for so long at most."""


def happenings(
    folders: Sequence[Path], ignored: Sequence[Path], poll: float | None
) -> Iterator[set[Path]]:
    """Yield those of the ``folders`` in which something has happened; none of them every second.

    folders: absolute, like ``ignored``: places in which nothing that happens counts (indexes).
    poll: look for changes every so many seconds, for shares from which no messages come. All of
    them are yielded at the start, and whenever one has come or gone and messages may be lost.

    Raises UsageError where watchfiles is not installed, and StoreError where the system cannot
    watch the folders.
    """
    try:
        from watchfiles import Change, watch
    except ImportError as error:
        raise UsageError(
            "watch needs the package watchfiles, which is not installed",
            hint="Install it with: pip install 'clipsearch[watch]'",
        ) from error

    return _happenings(watch, Change.modified, folders, ignored, poll)


def _happenings(
    watch: Callable[..., Iterator[set[tuple[Any, str]]]],
    modified: object,
    folders: Sequence[Path],
    ignored: Sequence[Path],
    poll: float | None,
) -> Iterator[set[Path]]:
    while True:
        identities = {folder: _identity(folder) for folder in folders}
        present = {folder for folder, identity in identities.items() if identity}
        due = set(folders)
        try:
            for messages in watch(
                *present,
                watch_filter=None,
                debounce=_GROUPED_MS,
                step=_PAUSE_MS,
                rust_timeout=_TICK_MS,
                yield_on_timeout=True,
                force_polling=poll is not None,
                poll_delay_ms=round(1000 * (poll or 0)),
                ignore_permission_denied=True,
            ):
                for change, name in messages:
                    if change == modified and os.path.isdir(name):
                        continue  # because of a file in it, of which there is a message too
                    due |= _concerned(Path(name), present, ignored)
                yield due
                due = set()
                if any(_identity(folder) != before for folder, before in identities.items()):
                    break
        except FileNotFoundError:
            continue  # a folder has gone since we looked
        except (OSError, RuntimeError, UnicodeError) as error:
            if "Unable to decode path" in str(error):
                continue  # a file's name is no text, and watchfiles gives up: begin anew
            raise StoreError(
                f"the system cannot watch {', '.join(map(str, folders))}: {error}",
                hint="Look for changes at intervals instead, say every minute: --poll 60",
            ) from error


def settled(
    before: Found, now: Found, known: Mapping[bytes, KnownImage]
) -> tuple[Found, set[bytes]]:
    """What of ``now`` can be relied on, and the paths of the files that cannot.

    A file that came, went, grew or was touched between the two looks is left as the catalogue
    knows it, or left out: it may be half of a copy, or half of a renaming.
    """
    moving = {file.path for file in set(before.files) ^ set(now.files)}
    files = [file for file in now.files if file.path not in moving]
    files += [
        ImageFile(path, known[path].size, known[path].mtime_ns) for path in moving & known.keys()
    ]
    return Found(sorted(files), now.unreadable, now.links), moving


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one at the same path; None where there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _concerned(path: Path, folders: set[Path], ignored: Sequence[Path]) -> set[Path]:
    """The folders for which it matters that something has happened at ``path``."""
    if any(path.is_relative_to(place) for place in ignored):
        return set()
    # What is gone may have been a folder of pictures.
    if os.fsencode(path.suffix.lower()) not in SUFFIXES and path.is_file():
        return set()
    return {
        folder
        for folder in folders
        if path.is_relative_to(folder)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
