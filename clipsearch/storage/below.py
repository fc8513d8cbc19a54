"""Look for indexes in the folders below one: a folder that was moved is on no list."""

import os
import time
from pathlib import Path
from typing import NamedTuple

from clipsearch.images.scan import EXCLUDED
from clipsearch.storage.catalog import FOLDER

_DEPTH = 4
_FOLDERS = 2_000
_SECONDS = 2.0
"""The longest that a search without a match on the list waits."""


class Seen(NamedTuple):
    """The result of one look."""

    directories: list[Path]
    """Index folders, sorted; each may hold an index or not."""
    unseen: str
    """What was not searched, as text; "" if everything was."""


def look_below(start: Path) -> Seen:
    """Look for index folders below ``start``, nearest folders first.

    Skips links, hidden folders, and folders below one that has an index. Does not search a whole
    file system.
    """
    if start == start.parent:
        return Seen([], "the folders below the root of the file system")
    until = time.monotonic() + _SECONDS
    directories: list[Path] = []
    level, looked_at, is_all = [start], 0, True
    for _ in range(_DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            if looked_at == _FOLDERS or time.monotonic() > until:
                is_all = False
                break
            looked_at += 1
            names = _folders_in(folder)
            if FOLDER in names:
                directories.append(folder / FOLDER)
            else:
                shown = (name for name in names if name[0] != "." and name not in EXCLUDED)
                below += [folder / name for name in sorted(shown)]
        level = below
    unseen = [f"folders more than {_DEPTH} deep"] if level else []
    if not is_all:
        unseen.append(f"folders after the nearest {looked_at}")
    return Seen(sorted(directories), " and ".join(unseen))


def _folders_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
    except OSError:  # another user's folder must not stop the search
        return set()
