"""The files that ``--html`` and ``--montage`` name."""

from pathlib import Path

from clipsearch.cli.app import say
from clipsearch.errors import UsageError


def check(path: Path | None, option: str = "--html") -> None:
    """Raise UsageError, before any work is done, if there can be no such file."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise UsageError(
            f"cannot write {path}", hint=f"{option} takes a file in a folder that exists."
        )


def write(path: Path, content: str | bytes, hint: str = "") -> None:
    """Write the file and say so. Raises UsageError, with this hint."""
    try:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", hint=hint) from error
    say(f"wrote {path}")
