"""Options that filter the images to search."""

import math
import os
import re
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli import completion
from clipsearch.errors import UsageError
from clipsearch.text import did_you_mean, shortened

if TYPE_CHECKING:
    from clipsearch.records import Filter, Near


@dataclass(frozen=True, slots=True)
class FilterOptions:
    """Filters for images."""

    under: Annotated[
        Path | None,
        typer.Option(
            "--under", metavar="PATH", help="Only images in this folder.", show_default=False
        ),
    ] = None
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="GLOB",
            help="Only files with a matching name, or, with a slash, path in the collection.",
            show_default=False,
        ),
    ] = None
    after: Annotated[
        str | None,
        typer.Option(
            "--after",
            metavar="DATE",
            help="Only images taken on this date or later: 2024, 2024-05, 2024-05-31, "
            "2024-05-31T12:30, today, yesterday or 7d. Images without a date use their file's "
            "time.",
            show_default=False,
        ),
    ] = None
    before: Annotated[
        str | None,
        typer.Option(
            "--before",
            metavar="DATE",
            help="Only images taken before this date.",
            show_default=False,
        ),
    ] = None
    min_width: Annotated[
        int,
        typer.Option(
            "--min-width", min=0, metavar="N", help="Minimum width in pixels.", show_default=False
        ),
    ] = 0
    min_height: Annotated[
        int,
        typer.Option(
            "--min-height", min=0, metavar="N", help="Minimum height in pixels.", show_default=False
        ),
    ] = 0
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            autocompletion=completion.types,
            metavar="EXT",
            help="Only files of this type: jpeg, png, heic and so on. Repeatable.",
            show_default=False,
        ),
    ] = None
    camera: Annotated[
        str | None,
        typer.Option(
            "--camera",
            metavar="TEXT",
            help="Only images taken with this camera: part of its make and model, or a glob that "
            "matches all of it. Case is ignored.",
            show_default=False,
        ),
    ] = None
    near: Annotated[
        str | None,
        typer.Option(
            "--near",
            metavar="LAT,LON,KM",
            help="Only images taken within KM kilometers of a place, in degrees; south and west "
            "are negative: 48.858,2.294,5.",
            show_default=False,
        ),
    ] = None
    from0: Annotated[
        str | None,
        typer.Option(
            "--from0",
            metavar="FILE",
            help="Only the files listed in FILE, each path ended by NUL, as find -print0 writes "
            "them; - reads standard input.",
            show_default=False,
        ),
    ] = None

    def filter(self, under: bytes) -> "Filter":
        """The filter for these options; ``under`` is the folder, relative to the collection's root.

        Raises UsageError.
        """
        from clipsearch.records import Filter

        now = datetime.now()
        return Filter(
            under=under,
            name=self.name,
            after=None if self.after is None else moment(self.after, now),
            before=None if self.before is None else moment(self.before, now),
            min_width=self.min_width,
            min_height=self.min_height,
            suffixes=suffixes(self.types or []),
            paths=None if self.from0 is None else listed(self.from0),
            camera=None if self.camera is None else camera_like(self.camera),
            near=None if self.near is None else place(self.near),
        )


_ALIKE = (("jpg", "jpeg", "jpe", "jfif"), ("tif", "tiff"), ("heic", "heif", "hif"), ("png", "apng"))


def moment(text: str, now: datetime) -> str:
    """A moment, or the start of a day, month or year, as ISO 8601 in local time.

    ``7d`` is seven days before ``now``. Raises UsageError.
    """
    text = text.strip()
    if text in ("today", "yesterday"):
        day = now - timedelta(days=text == "yesterday")
        return day.strftime("%Y-%m-%dT00:00:00")
    if ago := re.fullmatch(r"(\d{1,5})d", text):
        return (now - timedelta(days=int(ago[1]))).strftime("%Y-%m-%dT%H:%M:%S")
    whole = re.sub(r"^(\d{4})$", r"\1-01-01", re.sub(r"^(\d{4}-\d\d)$", r"\1-01", text))
    try:
        parsed = datetime.fromisoformat(whole)
        if parsed.tzinfo is not None:
            parsed = parsed.astimezone().replace(tzinfo=None)
    except (ValueError, OverflowError) as error:  # the year 10000, in local time
        raise UsageError(
            f"'{shortened(text)}' is not a date",
            hint="Use a form like 2024, 2024-05-31, yesterday or 7d.",
        ) from error
    return parsed.isoformat(timespec="seconds")


def suffixes(types: list[str]) -> frozenset[bytes]:
    """File suffixes of each type and its other spellings. Raises UsageError for unknown types."""
    from clipsearch.images.scan import SUFFIXES

    wanted: set[bytes] = set()
    for name in types:
        plain = name.lower().removeprefix(".")
        group = next((group for group in _ALIKE if plain in group), (plain,))
        found = {os.fsencode(f".{spelling}") for spelling in group} & SUFFIXES
        if not found:
            known = sorted(os.fsdecode(suffix)[1:] for suffix in SUFFIXES)
            raise UsageError(
                f"'{shortened(name)}' is not an image type{did_you_mean(plain, known)}",
                hint=f"Image types: {', '.join(known)}.",
            )
        wanted |= found
    return frozenset(wanted)


def place(text: str) -> "Near":
    """A circle on the globe: latitude, longitude, kilometers. Raises UsageError."""
    from clipsearch.records import Near

    hint = "Give latitude, longitude and kilometers, for example --near 48.858,2.294,5."
    try:
        latitude, longitude, km = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"'{shortened(text)}' is not a place and a distance", hint=hint) from error
    # Written so that NaN is refused, too.
    if not -90 <= latitude <= 90:
        raise UsageError(f"{latitude:g} is not a latitude (-90 to 90)", hint=hint)
    if not -180 <= longitude <= 180:
        raise UsageError(f"{longitude:g} is not a longitude (-180 to 180)", hint=hint)
    if not 0 <= km < math.inf:
        raise UsageError(f"{km:g} is not a distance in kilometers", hint=hint)
    return Near(latitude, longitude, km)


def camera_like(text: str) -> str:
    """A camera to look for. Raises UsageError if it is blank."""
    if not text.strip():
        raise UsageError(
            "--camera is empty", hint="For example --camera canon; '*' matches any camera."
        )
    return text.strip()


def listed(source: str) -> frozenset[bytes]:
    """Absolute paths of the files in a list. Raises UsageError."""
    if not source:
        raise UsageError("--from0 is empty", hint="It takes a file, or -.")
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read {source}: {error.strerror}", hint="--from0 takes a file, or -."
        ) from error
    names = [name for name in data.split(b"\0") if name]
    if len(names) == 1 and b"\n" in names[0].rstrip(b"\n"):
        raise UsageError(
            f"the paths in {source} are not ended by NUL", hint="Use find -print0, or fd -0."
        )
    here = os.fsencode(os.path.realpath("."))
    folders: dict[bytes, bytes] = {}
    paths = set()
    for name in names:
        # Resolve the folder, as the index does, but not the file: the index does not follow links.
        folder, file = os.path.split(os.path.join(here, name))
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        paths.add(os.path.join(folders[folder], file))
    return frozenset(paths)
