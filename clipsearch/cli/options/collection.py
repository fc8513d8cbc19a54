"""How commands that take images of their own choose an index."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli.app import say
from clipsearch.errors import IndexNotFound, UsageError

UnderOption = Annotated[
    Path | None,
    typer.Option(
        "--under",
        metavar="FOLDER",
        help="Use the collection that holds this folder (default: the current folder).",
        show_default=False,
    ),
]


def directory_of_one(about: Sequence[Path], under: Path | None, index: Path | None) -> Path:
    """The directory of the one index that a command works on.

    This is ``index`` or the collection of ``under`` if one of them is given; else the collection
    that holds the current folder; else the one that holds the files in ``about``; else the one
    below the current folder. Raises IndexNotFound, and UsageError if there are several or if
    ``index`` does not belong to ``under``.
    """
    from clipsearch.storage import known
    from clipsearch.storage.catalog import Store

    start = (under or Path()).resolve()
    if under is not None and not under.exists():
        raise UsageError(f"{under} does not exist", hint="--under takes an indexed folder.")
    if index is None and known.holding(start) is None and under is None:
        for path in about:
            holder = known.holding(path.resolve())
            if holder is not None:
                return holder
    found = known.find(start, index, say, named=under is not None)
    if len(found) > 1:
        raise UsageError(
            f"there are {len(found)} indexed folders below {start}",
            hint="Choose one with --under FOLDER.",
        )
    if under is not None and index is not None:
        with Store.open(found[0]) as store:
            known.require_about(under, store)
    return found[0]


def directory_if_any(about: Sequence[Path], under: Path | None, index: Path | None) -> Path | None:
    """Like ``directory_of_one``, but None if there is no index and none was named."""
    try:
        return directory_of_one(about, under, index)
    except IndexNotFound:
        if under or index:
            raise
        return None


def say_skipped(skipped: Sequence[tuple[bytes, str]]) -> None:
    """Name images that could not be decoded."""
    from clipsearch.text import printable, text_path

    for path, reason in skipped:
        say(f"skipping {text_path(path)}: {printable(reason)}")
