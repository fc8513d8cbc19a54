"""Options that say which images a search is about."""

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
    """Which images are looked at."""

    under: Annotated[
        Path | None,
        typer.Option("--under", metavar="PATH", help="Only in this folder.", show_default=False),
    ] = None
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="GLOB",
            help="Only files of such a name, or, with a slash, at such a path in the collection.",
            show_default=False,
        ),
    ] = None
    after: Annotated[
        str | None,
        typer.Option(
            "--after",
            metavar="DATE",
            help="Only images taken on that day or later: 2024, 2024-05, 2024-05-31, "
            "2024-05-31T12:30, today, yesterday or 7d. Where an image does not tell, its file's "
            "time.",
            show_default=False,
        ),
    ] = None
    before: Annotated[
        str | None,
        typer.Option(
            "--before", metavar="DATE", help="Only those taken earlier.", show_default=False
        ),
    ] = None
    min_width: Annotated[
        int, typer.Option("--min-width", min=0, metavar="N", help="In pixels.", show_default=False)
    ] = 0
    min_height: Annotated[
        int, typer.Option("--min-height", min=0, metavar="N", help="In pixels.", show_default=False)
    ] = 0
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            autocompletion=completion.types,
            metavar="EXT",
            help="Only files of such a type: jpeg, png, heic and so on. Repeatable.",
            show_default=False,
        ),
    ] = None
    camera: Annotated[
        str | None,
        typer.Option(
            "--camera",
            metavar="TEXT",
            help="Only images taken with such a camera: a part of its make and model, or a glob "
            "that all of it must match, in any case.",
            show_default=False,
        ),
    ] = None
    near: Annotated[
        str | None,
        typer.Option(
            "--near",
            metavar="LAT,LON,KM",
            help="Only images taken within so many kilometres of a place in degrees, south and "
            "west being negative: 48.858,2.294,5.",
            show_default=False,
        ),
    ] = None
    from0: Annotated[
        str | None,
        typer.Option(
            "--from0",
            metavar="FILE",
            help="Only the files listed there, each ended by NUL, as by find -print0; - reads "
            "standard input.",
            show_default=False,
        ),
    ] = None

    def filter(self, under: bytes) -> "Filter":
        """The filter that they make; ``under`` is the folder, relative to the collection's root.

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
    """The beginning of a day, month or year, or a moment, as ISO 8601 in local time.

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
            f"'{shortened(text)}' is no date",
            hint="Say for example 2024, 2024-05-31, yesterday or 7d.",
        ) from error
    return parsed.isoformat(timespec="seconds")


def suffixes(types: list[str]) -> frozenset[bytes]:
    """Ends of names, of one type and its other spellings. Raises UsageError for an unknown one."""
    from clipsearch.images.scan import SUFFIXES

    wanted: set[bytes] = set()
    for name in types:
        plain = name.lower().removeprefix(".")
        group = next((group for group in _ALIKE if plain in group), (plain,))
        found = {os.fsencode(f".{spelling}") for spelling in group} & SUFFIXES
        if not found:
            known = sorted(os.fsdecode(suffix)[1:] for suffix in SUFFIXES)
            raise UsageError(
                f"'{shortened(name)}' is no type of image{did_you_mean(plain, known)}",
                hint=f"There are {', '.join(known)}.",
            )
        wanted |= found
    return frozenset(wanted)


def place(text: str) -> "Near":
    """A circle on the globe: latitude, longitude, kilometres. Raises UsageError."""
    from clipsearch.records import Near

    hint = "Say latitude, longitude and kilometres, for example --near 48.858,2.294,5."
    try:
        latitude, longitude, km = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"'{shortened(text)}' is no place and distance", hint=hint) from error
    # Written so that what is not a number is refused as well.
    if not -90 <= latitude <= 90:
        raise UsageError(f"{latitude:g} is no latitude, which is from -90 to 90", hint=hint)
    if not -180 <= longitude <= 180:
        raise UsageError(f"{longitude:g} is no longitude, which is from -180 to 180", hint=hint)
    if not 0 <= km < math.inf:
        raise UsageError(f"{km:g} is no distance in kilometres", hint=hint)
    return Near(latitude, longitude, km)


def camera_like(text: str) -> str:
    """A camera to look for. Raises UsageError if that is nothing."""
    if not text.strip():
        raise UsageError(
            "--camera says nothing", hint="For example --camera canon; '*' is any camera."
        )
    return text.strip()


def listed(source: str) -> frozenset[bytes]:
    """Absolute paths of the files that a list names. Raises UsageError."""
    if not source:
        raise UsageError("--from0 names no file", hint="It takes a file, or -.")
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
        # The folder as the index knows it; the file may be a link, which it does not follow.
        folder, file = os.path.split(os.path.join(here, name))
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        paths.add(os.path.join(folders[folder], file))
    return frozenset(paths)
