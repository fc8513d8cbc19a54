"""Where the indexes are: beside their pictures, or elsewhere and remembered.

A collection is the images under one indexed folder. Its index lies in ``.clipsearch`` inside that
folder unless another place was named. A short list in the user's data directory remembers every
indexed folder, so that a search started above or beside it finds it.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from clipsearch.errors import IndexNotFound
from clipsearch.paths import data_dir, held, write_whole
from clipsearch.storage.catalog import FOLDER, Store

_PATIENCE = 10.0
"""Seconds to wait for others who write to the list, each for a moment."""


def directory_for(root: Path, index: Path | None) -> Path:
    """Where the index of ``root`` lies, or is to lie."""
    return index.absolute() if index else root / FOLDER


def holding(folder: Path) -> Path | None:
    """The index of the nearest collection that ``folder`` is or lies in."""
    elsewhere = {root: directory for directory, root in remembered().items()}
    for candidate in (folder, *folder.parents):
        for directory in (candidate / FOLDER, elsewhere.get(candidate)):
            if directory and Store.exists(directory):
                return directory
    return None


def find(start: Path, index: Path | None) -> list[Path]:
    """The indexes that a search from ``start`` means.

    That is ``index`` if it is given; else the collection that holds ``start``; else every
    remembered one below it. Raises IndexNotFound, listing what is known.
    """
    if index is not None:
        for directory in (index.absolute(), index.absolute() / FOLDER):
            if Store.exists(directory):
                return [directory]
        raise IndexNotFound(f"there is no index at {index}", hint=_known_collections())
    holder = holding(start)
    if holder is not None:
        return [holder]
    below = [
        directory
        for directory, root in remembered().items()
        if root.is_relative_to(start) and _is_there(directory)
    ]
    if not below:
        raise IndexNotFound(
            f"no indexed folder holds {start} or lies below it", hint=_known_collections()
        )
    return sorted(below)


def remembered() -> dict[Path, Path]:
    """Index directory -> root, for every collection indexed by this user; may be out of date."""
    try:
        listed = json.loads(_list().read_text(encoding="utf-8", errors="surrogateescape"))
        return {Path(directory): Path(root) for directory, root in listed.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def remember(directory: Path, root: Path) -> None:
    """Put a collection on the list; one that cannot be written costs only the convenience."""
    if remembered().get(directory) == root:
        return
    # What another run has put there meanwhile must not be lost by writing the whole anew.
    with suppress(OSError), held(_list(), _PATIENCE):
        listed = {known: at for known, at in remembered().items() if _is_there(known)}
        listed[directory] = root
        texts = {os.fspath(known): os.fspath(at) for known, at in listed.items()}
        write_whole(_list(), json.dumps(texts, indent=1).encode())


def _is_there(directory: Path) -> bool:
    """Whether there is an index that can be looked at; others' folders are no reason to stop."""
    with suppress(OSError):
        return Store.exists(directory)
    return False


def _list() -> Path:
    return data_dir() / "collections.json"


def _known_collections() -> str:
    roots = sorted(
        os.fspath(root) for directory, root in remembered().items() if _is_there(directory)
    )
    if not roots:
        return "Nothing is indexed yet. Index a folder with: clipsearch index FOLDER"
    return (
        f"Indexed folders: {', '.join(roots)}. Go to one, name one with --under FOLDER, "
        "or index another with: clipsearch index FOLDER"
    )
