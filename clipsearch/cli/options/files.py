"""Writes the output files that a user names. No other room writes them.

A file that clipsearch did not write is overwritten only with ``--force``; index files and indexed
images never are. Links are resolved first, and a file is replaced atomically.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli.app import say
from clipsearch.errors import UsageError
from clipsearch.paths import is_marked, write_whole

if TYPE_CHECKING:
    from clipsearch.storage.catalog import Store

ForceOption = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Overwrite a file that clipsearch did not write. Indexed images and index files are "
        "never overwritten.",
    ),
]


def check(
    path: Path | None,
    stores: "Sequence[Store]" = (),
    *,
    option: str = "--html",
    force: bool = False,
) -> None:
    """Raise UsageError for a file that cannot or must not be written, before any work is done.

    stores: the open collections, which may be missing from the list of known ones.
    """
    if path is None:
        return
    from clipsearch.storage import known  # here: the options of every command load this file

    target = target_of(path, option)
    known.protect(target, stores)
    _require_ours(path, target, force)


def write(path: Path, content: str | bytes, *, force: bool = False, hint: str = "") -> None:
    """Write a file atomically, and report it. Raises UsageError, with ``hint`` if the disk fails.

    The path is checked again, since another program may have created the file in the meantime.
    """
    check(path, force=force)
    target = target_of(path)
    try:
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o666
        write_whole(target, content.encode() if isinstance(content, str) else content, mode)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", hint=hint) from error
    say(f"wrote {path}")


def target_of(path: Path, option: str = "--html") -> Path:
    """The file's path with links resolved. Raises UsageError if it cannot be a file."""
    target = Path(os.path.realpath(path))
    hint = f"{option} takes a file in a folder that exists."
    if target.is_dir() or not target.parent.is_dir():
        raise UsageError(f"cannot write {path}", hint=hint)
    if path.exists() and not path.is_file():  # a device or a FIFO
        raise UsageError(f"cannot write {path}: it is not a regular file", hint=hint)
    if path.is_symlink() and not path.exists():
        # The author of the link would choose where the file appears.
        raise UsageError(f"cannot write {path}: it is a broken symbolic link", hint=hint)
    return target


def _require_ours(path: Path, target: Path, force: bool) -> None:
    """Raise UsageError for a file that we did not write, unless it is empty."""
    if not target.exists():
        return
    try:
        if not (force or target.stat().st_size == 0 or is_marked(target)):
            raise UsageError(
                f"{path} already exists, and clipsearch did not write it",
                hint="Name another file, or add --force to overwrite this one.",
            )
        if not os.access(target, os.W_OK):
            raise UsageError(f"cannot write {path}: it is write-protected")
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", hint="Name another file."
        ) from error
