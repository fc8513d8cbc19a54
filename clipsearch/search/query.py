"""Queries: their parts, each with a weight and a role, and the options for answering them.

This module only represents queries; ``embed`` turns them into vectors, and ``answer`` answers them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from clipsearch.errors import UsageError
from clipsearch.records import EVERYTHING, Filter
from clipsearch.text import shortened

Role = Literal["wanted", "unwanted", "good", "bad"]
"""What to find, what to avoid, and images that were marked good or bad."""

_SIGNS = {"wanted": "", "unwanted": "not ", "good": "like ", "bad": "unlike "}

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_WEIGHT = re.compile(rf"\^{_NUMBER}:(.*)", re.DOTALL)
_EARLIER_WEIGHT = re.compile(rf"{_NUMBER}:(?!\d)(.*\S.*)", re.DOTALL)
"""A weight as written in earlier versions, without ``^``; 16:9 and 10:30 do not match."""
_MOST = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One part of a query."""

    weight: float = 1.0
    role: Role = "wanted"
    saved: str = field(default="", compare=False)
    """The name of the saved query that it belongs to, if any."""


@dataclass(frozen=True, slots=True)
class Text(_Part):
    """A text, embedded as typed."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Image(_Part):
    """An image file, indexed or not."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class Stored(_Part):
    """An indexed image, by its catalog id; its file is not read."""

    id: int
    place: int | None = None
    """Which of the searched collections, from 0; None if there is only one."""

    def __str__(self) -> str:
        return str(self.id) if self.place is None else f"{self.place}-{self.id}"


@dataclass(frozen=True, slots=True)
class Class(_Part):
    """One of the domain's classes, with all its prompts."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Probe(_Part):
    """A class of a probe."""

    name: str
    """``PROBE/CLASS``, or ``PROBE`` for its class of the same name."""

    def __str__(self) -> str:
        return self.name


Part = Text | Image | Stored | Class | Probe


@dataclass(frozen=True, slots=True)
class Query:
    """A query and all its parts."""

    parts: tuple[Part, ...]

    @property
    def said(self) -> str:
        """The query in words."""
        return ", ".join(map(_said, self.parts))

    @property
    def texts(self) -> list[str]:
        """Its texts, for checks and for the text encoder."""
        return [part.text for part in self.parts if isinstance(part, Text)]

    @property
    def has_aim(self) -> bool:
        """Whether anything is wanted, and not only avoided."""
        return any(part.role in ("wanted", "good") for part in self.parts)


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a query is answered."""

    k: int = 10
    """Maximum number of hits."""
    only: Filter = EVERYTHING
    """Which images to search."""
    class_name: str = ""
    """The class of the domain that images must belong to, if given."""
    max_false_alarm: float = 1.0
    """Also omit hits whose scores are reached by more than this share of background queries."""
    strict: bool = False
    """Accept only a strong match."""
    all: bool = False
    """Return the best hits, no matter how poor they are."""
    exact: bool = False
    """Read every embedding, even if a collection has clusters."""
    diverse: bool = False
    """Return only the best match among near-duplicates."""
    allow_out_of_domain: bool = False
    require_tested: bool = False
    """Refuse unless every collection met its domain's pass marks."""
    classes: bool = False
    """Also find the nearest class of each hit."""
    explain: bool = False
    """Explain the answer."""

    @property
    def is_filtered(self) -> bool:
        """Whether some images are not searched."""
        return self.only != EVERYTHING or bool(self.class_name)


def weighted(text: str) -> tuple[float, str]:
    """Split a weight from the text that follows it: ``^2:a dog`` is "a dog" with weight 2.

    Without a weight, it is 1. Raises UsageError for a weight out of range, or without a text.
    """
    found = _WEIGHT.fullmatch(text)
    if found is None:
        return 1.0, text
    weight, what = float(found[1]), found[2]
    if not 0 < weight <= _MOST:
        raise UsageError(
            f"'{shortened(text)}' has a weight of {found[1]}",
            hint=f"Use a weight above 0, up to {_MOST:g}. To avoid something, use --not.",
        )
    if not what.strip():
        raise UsageError(
            f"'{shortened(text)}' has a weight but no text",
            hint='Add the text after the colon, for example "^2:a dog".',
        )
    return weight, what


def weight_note(text: str) -> str | None:
    """A remark if a text has a weight as in earlier versions (``2:a dog``), else None."""
    if _EARLIER_WEIGHT.fullmatch(text) is None:
        return None
    said = shortened(text)
    return f"'{said}' is searched for literally; a weight starts with a caret: '^{said}'"


def read_part(text: str) -> Text | Probe:
    """Parse one text, or a probe's class after ``@``, with its weight. Raises UsageError."""
    try:
        text.encode()
    except UnicodeError as error:
        raise UsageError("the query is not valid text", hint="Use UTF-8.") from error
    if not text.strip():
        raise UsageError("the query is empty", hint="Describe what to search for.")
    weight, what = weighted(text)
    if what.startswith("@"):
        return Probe(what[1:].strip(), weight=weight)
    return Text(what, weight=weight)


def scaled(parts: Iterable[Part], weight: float) -> tuple[Part, ...]:
    """The parts with their weights multiplied by ``weight``."""
    return tuple(replace(part, weight=weight * part.weight) for part in parts)


def _said(part: Part) -> str:
    weight = "" if part.weight == 1 else f"^{part.weight:g}:"
    return f"{_SIGNS[part.role]}{weight}{part}"
