"""What is asked: the parts of a query, each with a weight and a role, and how it is answered.

Here are only the words of it; ``embed`` makes a query one vector, and ``answer`` answers it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from clipsearch.errors import UsageError
from clipsearch.records import EVERYTHING, Filter
from clipsearch.text import shortened

Role = Literal["wanted", "unwanted", "good", "bad"]
"""What it is about; what it is to be without; images seen, and found good or bad."""

_SIGNS = {"wanted": "", "unwanted": "not ", "good": "like ", "bad": "unlike "}

_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_WEIGHT = re.compile(rf"\^{_NUMBER}:(.*)", re.DOTALL)
_EARLIER_WEIGHT = re.compile(rf"{_NUMBER}:(?!\d)(.*\S.*)", re.DOTALL)
"""What was a weight before it began with ``^``; 16:9 and 10:30 look otherwise."""
_MOST = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One thing that a query says."""

    weight: float = 1.0
    role: Role = "wanted"
    saved: str = field(default="", compare=False)
    """The name of the saved query that it is part of, if it is."""


@dataclass(frozen=True, slots=True)
class Text(_Part):
    """A text, embedded as it is."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Image(_Part):
    """An image, in a collection or not."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class Stored(_Part):
    """An image of a collection, as the catalog knows it; its file is not read."""

    id: int
    place: int | None = None
    """Which of the collections that are asked, from 0; None where there is one alone."""

    def __str__(self) -> str:
        return str(self.id) if self.place is None else f"{self.place}-{self.id}"


@dataclass(frozen=True, slots=True)
class Class(_Part):
    """One of the domain's classes, by all its prompts."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Probe(_Part):
    """What a probe has learned."""

    name: str
    """``PROBE/CLASS``, or ``PROBE`` for its class of the same name."""

    def __str__(self) -> str:
        return self.name


Part = Text | Image | Stored | Class | Probe


@dataclass(frozen=True, slots=True)
class Query:
    """All that one query says."""

    parts: tuple[Part, ...]

    @property
    def said(self) -> str:
        """The query in words."""
        return ", ".join(map(_said, self.parts))

    @property
    def texts(self) -> list[str]:
        """The texts in it, for checks and for the text encoder."""
        return [part.text for part in self.parts if isinstance(part, Text)]

    @property
    def has_aim(self) -> bool:
        """Whether anything is looked for, and not only avoided."""
        return any(part.role in ("wanted", "good") for part in self.parts)


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a query is answered."""

    k: int = 10
    """At most so many hits."""
    only: Filter = EVERYTHING
    """Which images are looked at."""
    class_name: str = ""
    """The class of the domain that images must be of, if one is named."""
    max_false_alarm: float = 1.0
    """Hits with scores that more than this share of background queries reach are left out, too."""
    strict: bool = False
    """Take a strong match alone."""
    all: bool = False
    """Take the best hits, however poor they are."""
    exact: bool = False
    """Read every embedding, also where a collection has clusters."""
    diverse: bool = False
    """Of images that are nearly the same, take only the one that matches best."""
    allow_out_of_domain: bool = False
    require_tested: bool = False
    """Refuse unless each collection met its domain's pass marks."""
    classes: bool = False
    """Tell the nearest class of each hit, too."""
    explain: bool = False
    """Say why the answer is what it is."""

    @property
    def is_filtered(self) -> bool:
        """Whether some images are not looked at."""
        return self.only != EVERYTHING or bool(self.class_name)


def weighted(text: str) -> tuple[float, str]:
    """A weight and what follows it: ``^2:a dog`` is twice "a dog", and ``a dog`` once.

    No sentence begins like that. Raises UsageError for a weight of nothing, or without anything
    behind it.
    """
    found = _WEIGHT.fullmatch(text)
    if found is None:
        return 1.0, text
    weight, what = float(found[1]), found[2]
    if not 0 < weight <= _MOST:
        raise UsageError(
            f"'{shortened(text)}' has a weight of {found[1]}",
            hint=f"A weight is greater than 0 and at most {_MOST:g}; see --not.",
        )
    if not what.strip():
        raise UsageError(
            f"'{shortened(text)}' is a weight of nothing",
            hint='Say of what, for example "^2:a dog".',
        )
    return weight, what


def weight_note(text: str) -> str | None:
    """What to tell whoever writes a weight as it was written before: ``2:a dog``."""
    if _EARLIER_WEIGHT.fullmatch(text) is None:
        return None
    said = shortened(text)
    return f"'{said}' is searched for as it stands; a weight begins with a caret: '^{said}'"


def read_part(text: str) -> Text | Probe:
    """One text, or with an ``@`` a probe's class, with its weight. Raises UsageError."""
    try:
        text.encode()
    except UnicodeError as error:
        raise UsageError("the query is not valid text", hint="Use UTF-8.") from error
    if not text.strip():
        raise UsageError("the query is empty", hint="Say what to look for.")
    weight, what = weighted(text)
    if what.startswith("@"):
        return Probe(what[1:].strip(), weight=weight)
    return Text(what, weight=weight)


def scaled(parts: Iterable[Part], weight: float) -> tuple[Part, ...]:
    """The parts with their weights multiplied."""
    return tuple(replace(part, weight=weight * part.weight) for part in parts)


def _said(part: Part) -> str:
    weight = "" if part.weight == 1 else f"^{part.weight:g}:"
    return f"{_SIGNS[part.role]}{weight}{part}"
