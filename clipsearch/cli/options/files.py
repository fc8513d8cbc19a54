"""The files that ``--html`` and ``--montage`` name."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipsearch.cli.app import say
from clipsearch.errors import UsageError

if TYPE_CHECKING:
    from clipsearch.storage.catalog import Store


def check(path: Path | None, option: str = "--html") -> None:
    """Raise UsageError, before any work is done, if there can be no such file."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UsageError(
            f"cannot write {path}", hint=f"{option} takes a file in a folder that exists."
        )


def keep_pictures(path: Path | None, stores: "Sequence[Store]") -> None:
    """Raise UsageError if the file is a picture of a collection: these are never changed."""
    if path is None:
        return
    from clipsearch.records import Filter

    folder, name = os.path.split(path.absolute())
    itself = os.fsencode(os.path.join(os.path.realpath(folder), name))
    if any(store.count(Filter(paths=frozenset({itself}))) for store in stores):
        raise UsageError(
            f"{path} is a picture of the collection, and is not written over",
            hint="Give the file another name.",
        )


def write(path: Path, content: str | bytes, hint: str = "") -> None:
    """Write the file and say so. Raises UsageError, with this hint."""
    try:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", hint=hint) from error
    say(f"wrote {path}")
