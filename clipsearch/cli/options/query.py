"""Options that say what to look for."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import typer

from clipsearch.cli import completion
from clipsearch.errors import UsageError
from clipsearch.images.scan import SUFFIXES
from clipsearch.search import saved
from clipsearch.search.query import (
    Class,
    Image,
    Part,
    Probe,
    Query,
    Role,
    Stored,
    read_part,
    weighted,
)


@dataclass(frozen=True, slots=True)
class QueryOptions:
    """What is looked for, in words, images and classes."""

    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[QUERY]...",
            autocompletion=completion.marked_names,
            help="What to look for, in English. Several are looked for together, each with a "
            'weight if it begins with one: "^2:a dog". @NAME for a saved query; @PROBE or '
            "@PROBE/CLASS for what a probe has learned; - reads it from standard input.",
            show_default=False,
        ),
    ] = None
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--image",
            metavar="PATH",
            help="Look for images like this one. Repeatable, and goes with texts.",
            show_default=False,
        ),
    ] = None
    unwanted: Annotated[
        list[str] | None,
        typer.Option(
            "--not",
            metavar="TEXT",
            help="Rather without this. Repeatable.",
            show_default=False,
        ),
    ] = None
    good: Annotated[
        list[str] | None,
        typer.Option(
            "--like",
            metavar="ID|PATH",
            help="More like this image, one that was found: its path, or its id in --json. "
            "Repeatable.",
            show_default=False,
        ),
    ] = None
    bad: Annotated[
        list[str] | None,
        typer.Option(
            "--unlike",
            metavar="ID|PATH",
            help="Less like this one. Repeatable.",
            show_default=False,
        ),
    ] = None
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class",
            autocompletion=completion.classes,
            metavar="NAME",
            help="Look for one of the domain's classes, by all its prompts; with a QUERY, only "
            "among the images of this class.",
            show_default=False,
        ),
    ] = None

    @property
    def reads_stdin(self) -> bool:
        """Whether a text is read from standard input."""
        return "-" in (self.texts or [])

    def query(self) -> Query:
        """The query that they make. Raises UsageError, and StoreError for a saved one."""
        parts = list(self._parts())
        if not parts:
            raise UsageError(
                "search needs something to look for: a text, --image, --like or --class",
                hint='For example: clipsearch search "a red bicycle"',
            )
        return Query(tuple(parts))

    def only_class(self) -> str | None:
        """The class that images must be of, where it is not what is looked for."""
        return self.class_name if self.texts or self.images or self.good else None

    def _parts(self) -> Iterator[Part]:
        if (self.texts or []).count("-") > 1:
            raise UsageError("standard input is read once", hint="Give one QUERY as -.")
        for text in self.texts or []:
            _refuse_path(text)
            yield from saved.read(_read() if text == "-" else text)
        if self.class_name is not None and self.only_class() is None:
            yield Class(self.class_name)
        for text in self.unwanted or []:
            yield _unwanted(text)
        for image in self.images or []:
            weight, path = weighted(image)
            yield Image(path, weight=weight)
        for picture in self.good or []:
            yield _seen(picture, "good")
        for picture in self.bad or []:
            yield _seen(picture, "bad")


def _refuse_path(text: str) -> None:
    """A path says nothing to a model, but whoever knows grep gives a folder behind the text.

    Raises UsageError.
    """
    if (os.sep in text or text in (".", "..")) and os.path.isdir(text):
        raise UsageError(
            f"{text} is a folder, and not a text to look for",
            hint=f"To look only in it: --under {text}",
        )
    if os.path.splitext(os.fsencode(text))[1].lower() in SUFFIXES and os.path.isfile(text):
        raise UsageError(
            f"{text} is a file, and not a text to look for",
            hint=f"To look for images like it: --image {text}",
        )


def _unwanted(text: str) -> Part:
    """What ``--not`` names. Raises UsageError for a saved query, which may say several things."""
    part = replace(read_part(text), role="unwanted")
    if isinstance(part, Probe) and part.name in saved.everything():
        raise UsageError(
            f"'@{part.name}' is a saved query, and --not takes a text or a probe's class",
            hint="Say what is unwanted in words; clipsearch query list shows what it stands for.",
        )
    return part


def _seen(picture: str, role: Role) -> Image | Stored:
    """An image that was found, by its path or, where no file has that name, by its id."""
    weight, which = weighted(picture)
    if which.isdecimal() and not os.path.exists(which):
        return Stored(int(which), weight=weight, role=role)
    return Image(which, weight=weight, role=role)


def _read() -> str:
    try:
        return sys.stdin.read()
    except UnicodeError as error:
        raise UsageError("the query is not valid text", hint="Use UTF-8.") from error
