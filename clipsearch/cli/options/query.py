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
    """What to look for: texts, images and classes."""

    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[QUERY]...",
            autocompletion=completion.marked_names,
            help="What to look for, in English. Several are combined, each with an optional "
            'weight: "^2:a dog". @NAME is a saved query; @PROBE or @PROBE/CLASS is what a probe '
            "has learned; - reads standard input.",
            show_default=False,
        ),
    ] = None
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--image",
            metavar="PATH",
            help="Look for images like this one; can be combined with texts. Repeatable.",
            show_default=False,
        ),
    ] = None
    unwanted: Annotated[
        list[str] | None,
        typer.Option(
            "--not",
            metavar="TEXT",
            help="Prefer images without this. Repeatable.",
            show_default=False,
        ),
    ] = None
    good: Annotated[
        list[str] | None,
        typer.Option(
            "--like",
            metavar="ID|PATH",
            help="Find more like this indexed image, given by its path or its id in --json. "
            "Repeatable.",
            show_default=False,
        ),
    ] = None
    bad: Annotated[
        list[str] | None,
        typer.Option(
            "--unlike",
            metavar="ID|PATH",
            help="Find less like this indexed image. Repeatable.",
            show_default=False,
        ),
    ] = None
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class",
            autocompletion=completion.classes,
            metavar="NAME",
            help="Look for this class of the domain, with all its prompts; with a QUERY, search "
            "only images of this class.",
            show_default=False,
        ),
    ] = None

    @property
    def reads_stdin(self) -> bool:
        """Whether a text is read from standard input."""
        return "-" in (self.texts or [])

    def query(self) -> Query:
        """The query for these options. Raises UsageError, and StoreError for a saved query."""
        parts = list(self._parts())
        if not parts:
            raise UsageError(
                "search needs something to look for: a text, --image, --like or --class",
                hint='For example: clipsearch search "a red bicycle"',
            )
        return Query(tuple(parts))

    def only_class(self) -> str | None:
        """The class that images must belong to; None if the class is itself the query."""
        return self.class_name if self.texts or self.images or self.good else None

    def _parts(self) -> Iterator[Part]:
        if (self.texts or []).count("-") > 1:
            raise UsageError("standard input can be read only once", hint="Use - only once.")
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
    """Raise UsageError for a path.

    A path means nothing to a model, but users of grep add a folder after the text.
    """
    if (os.sep in text or text in (".", "..")) and os.path.isdir(text):
        raise UsageError(
            f"{text} is a folder, not a text to look for",
            hint=f"To search only this folder: --under {text}",
        )
    if os.path.splitext(os.fsencode(text))[1].lower() in SUFFIXES and os.path.isfile(text):
        raise UsageError(
            f"{text} is a file, not a text to look for",
            hint=f"To look for images like it: --image {text}",
        )


def _unwanted(text: str) -> Part:
    """What ``--not`` names. Raises UsageError for a saved query, which may have several parts."""
    part = replace(read_part(text), role="unwanted")
    if isinstance(part, Probe) and part.name in saved.everything():
        raise UsageError(
            f"'@{part.name}' is a saved query; --not takes a text or a probe's class",
            hint="Describe what is unwanted in words; clipsearch query list shows saved queries.",
        )
    return part


def _seen(picture: str, role: Role) -> Image | Stored:
    """An indexed image, by its path or, if no file has that name, by its id."""
    weight, which = weighted(picture)
    if which.isdecimal() and not os.path.exists(which):
        return Stored(int(which), weight=weight, role=role)
    return Image(which, weight=weight, role=role)


def _read() -> str:
    try:
        return sys.stdin.read()
    except UnicodeError as error:
        raise UsageError("the query is not valid text", hint="Use UTF-8.") from error
