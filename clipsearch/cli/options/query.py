"""Options that say what to look for."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli import completion
from clipsearch.errors import UsageError

if TYPE_CHECKING:
    from clipsearch.search.query import Part, Query


@dataclass(frozen=True, slots=True)
class QueryOptions:
    """What is looked for, in words, pictures and classes."""

    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[QUERY]...",
            autocompletion=completion.marked_names,
            help="What to look for, in English. Several are looked for together, each with a "
            'weight if it begins with one: "2:a dog". @NAME for a saved query; @PROBE or '
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
            help="More like this picture, one that was found: its path, or its id in --json. "
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
            "among the pictures of this class.",
            show_default=False,
        ),
    ] = None

    @property
    def reads_stdin(self) -> bool:
        """Whether a text is read from standard input."""
        return "-" in (self.texts or [])

    def query(self) -> "Query":
        """The query that they make. Raises UsageError, and StoreError for a saved one."""
        from clipsearch.search.query import Query

        parts = list(self._parts())
        if not parts:
            raise UsageError(
                "search needs something to look for: a text, --image, --like or --class",
                hint='For example: clipsearch search "a red bicycle"',
            )
        return Query(tuple(parts))

    def only_class(self) -> str | None:
        """The class that pictures must be of, where it is not what is looked for."""
        return self.class_name if self.texts or self.images or self.good else None

    def _parts(self) -> "Iterator[Part]":
        from clipsearch.search.query import Part, weighted

        if (self.texts or []).count("-") > 1:
            raise UsageError("standard input is read once", hint="Give one QUERY as -.")
        for text in self.texts or []:
            _refuse_path(text)
            yield from text_parts(_read() if text == "-" else text)
        if self.class_name is not None and self.only_class() is None:
            yield Part("class", self.class_name)
        for text in self.unwanted or []:
            yield replace(_unwanted(text), role="unwanted")
        for image in self.images or []:
            weight, path = weighted(image)
            yield Part("image", path, weight)
        for picture in self.good or []:
            weight, which = weighted(picture)
            yield Part("image", which, weight, "good")
        for picture in self.bad or []:
            weight, which = weighted(picture)
            yield Part("image", which, weight, "bad")


def _refuse_path(text: str) -> None:
    """A path says nothing to a model, but whoever knows grep gives a folder behind the text.

    Raises UsageError.
    """
    from clipsearch.images.scan import SUFFIXES

    if (os.sep in text or text in (".", "..")) and os.path.isdir(text):
        raise UsageError(
            f"{text} is a folder, and not a text to look for",
            hint=f"To look only in it: --under {text}",
        )
    if os.path.splitext(os.fsencode(text))[1].lower() in SUFFIXES and os.path.isfile(text):
        raise UsageError(
            f"{text} is a file, and not a text to look for",
            hint=f"To look for pictures like it: --image {text}",
        )


def text_parts(text: str) -> "Sequence[Part]":
    """What a text stands for: itself, a probe's class, or all parts of a saved query.

    Raises UsageError, and StoreError if the saved queries cannot be read.
    """
    from clipsearch.search import saved as saved_queries

    part = text_part(text)
    if part.kind != "probe":
        return [part]
    saved = saved_queries.everything().get(part.what)
    if saved is None:
        return [part]
    return [replace(one, weight=part.weight * one.weight) for one in saved.parts]


def text_part(text: str) -> "Part":
    """One text, or a probe's class, with its weight. Raises UsageError."""
    from clipsearch.search.query import Part, weighted

    try:
        text.encode()
    except UnicodeError as error:
        raise UsageError("the query is not valid text", hint="Use UTF-8.") from error
    if not text.strip():
        raise UsageError("the query is empty", hint="Say what to look for.")
    weight, what = weighted(text)
    if what.startswith("@"):
        return Part("probe", what[1:].strip(), weight)
    return Part("text", what, weight)


def _unwanted(text: str) -> "Part":
    """What ``--not`` names. Raises UsageError for a saved query, which may say several things."""
    from clipsearch.search import saved as saved_queries

    part = text_part(text)
    if part.kind == "probe" and part.what in saved_queries.everything():
        raise UsageError(
            f"'@{part.what}' is a saved query, and --not takes a text or a probe's class",
            hint="Say what is unwanted in words; clipsearch query list shows what it stands for.",
        )
    return part


def _read() -> str:
    try:
        return sys.stdin.read()
    except UnicodeError as error:
        raise UsageError("the query is not valid text", hint="Use UTF-8.") from error
