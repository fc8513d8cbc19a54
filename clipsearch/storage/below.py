"""Indexes in the folders below one, found by looking: a folder that was moved is on no list."""

import os
import time
from pathlib import Path
from typing import NamedTuple

from clipsearch.images.scan import EXCLUDED
from clipsearch.storage.catalog import FOLDER

_DEPTH = 4
_FOLDERS = 2_000
_SECONDS = 2.0
"""A search that finds nothing on the list waits no longer than this."""


class Seen(NamedTuple):
    """What one look found."""

    directories: list[Path]
    """Index folders, sorted; each may hold an index or not."""
    unseen: str
    """What was not looked at, in words; "" if everything was."""


def look_below(start: Path) -> Seen:
    """Look for index folders below ``start``, the nearest folders first.

    Not below folders that have one, through links, in hidden folders, or in a whole file system.
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
        unseen.append(f"more than the nearest {looked_at} folders")
    return Seen(sorted(directories), " and ".join(unseen))


def _folders_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
    except OSError:  # others' folders are no reason to stop
        return set()
