"""Hits as cards with an image each, for the contact sheet and for ``browse``."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Literal

from markupsafe import Markup

from clipsearch.domain.verdict import verdict
from clipsearch.paths import absolute
from clipsearch.records import Hit, Verdict
from clipsearch.text import percent
from clipsearch.web.pages.document import inert

STYLES = ("style.css", "hits.css")

Strength = Literal["strong", "fair", "weak"]

_STRENGTHS: Mapping[Verdict, Strength] = {"strong": "strong", "weak": "fair", "none": "weak"}
"""The strength of a single hit, from the share of unrelated queries that score as high."""

Mark = Literal["", "good", "bad"]


@dataclass(frozen=True, slots=True)
class Card:
    """A hit and what a page shows with it."""

    rank: int | None
    """None without a search; the hit then has no score either."""
    hit: Hit
    class_name: str | None
    """The class of the domain that is nearest to the image, if known."""
    thumbnail: str | None
    """The URL of the thumbnail; None if there is none."""
    link: str
    """URL of the image itself."""
    id: str = ""
    """The id of the image, if the page can search for similar ones."""
    mark: Mark = ""

    @property
    def name(self) -> str:
        """Its path in the collection."""
        return os.fsdecode(self.hit.path)

    @property
    def copied(self) -> Markup:
        """The absolute path as an attribute, with its exact characters if it is text."""
        path = absolute(os.fsencode(self.hit.root), self.hit.path)
        try:
            return Markup(escape(path.decode()).replace("\r", "&#13;"))
        except UnicodeDecodeError:
            return inert(os.fsdecode(path))

    @property
    def strength(self) -> Strength | None:
        """How well it matches; None if that is not measured, for example for an image query."""
        rate = self.hit.false_alarm
        return None if rate is None or self.rank is None else _STRENGTHS[verdict(rate)]

    @property
    def score(self) -> str:
        """The cosine similarity."""
        return f"{self.hit.score:.3f}"

    @property
    def day(self) -> str:
        """The day it was taken; empty if unknown."""
        return (self.hit.taken_at or "")[:10]

    @property
    def figures(self) -> str:
        """The figures behind the strength, shown as a tooltip."""
        figures = [f"{name}: {fact}" for name, fact in self._figures.items()]
        return "; ".join(figures)

    @property
    def details(self) -> Mapping[str, str]:
        """All known facts about the hit, by name."""
        hit = self.hit
        details = dict(self._figures)
        if self.class_name:
            details["Nearest class"] = self.class_name
        if hit.width:
            details["Dimensions"] = dimensions(hit.width, hit.height)
        if hit.taken_at:
            details["Taken"] = hit.taken_at.replace("T", " ")
        if hit.caption:
            details["Caption"] = hit.caption
        return details

    @property
    def _figures(self) -> Mapping[str, str]:
        if self.rank is None:
            return {}
        hit, figures = self.hit, {"Score": self.score}
        if hit.false_alarm is not None:
            figures["Unrelated queries that score as high"] = percent(hit.false_alarm)
        if hit.precision is not None:
            figures["Probability of a right match"] = percent(hit.precision)
        return figures


def dimensions(width: int, height: int) -> str:
    """Width and height in pixels, for people to read; empty if unknown."""
    return f"{width} \N{MULTIPLICATION SIGN} {height}" if width else ""


def sentence(words: str) -> str:
    """Capitalize the first letter."""
    return words[:1].upper() + words[1:]
