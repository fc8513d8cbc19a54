"""The file that ``--html`` names."""

from pathlib import Path

from clipsearch.cli.app import say
from clipsearch.errors import UsageError


def check(path: Path | None) -> None:
    """Raise UsageError, before any work is done, if there can be no such file."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UsageError(
            f"cannot write {path}", hint="--html takes a file in a folder that exists."
        )


def write(path: Path, page: str, hint: str = "") -> None:
    """Write the page and say so. Raises UsageError, with this hint."""
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", hint=hint) from error
    say(f"wrote {path}")
