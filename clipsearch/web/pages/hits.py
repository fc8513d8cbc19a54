"""Hits as cards with an image on each: what the contact sheet and ``browse`` show alike."""

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
"""Of a hit by itself, by how many unrelated queries score as high as it does."""

Mark = Literal["", "good", "bad"]


@dataclass(frozen=True, slots=True)
class Card:
    """A hit and what a page shows beside it."""

    rank: int | None
    """None where nobody searched for it: then it has no score either."""
    hit: Hit
    class_name: str | None
    """The class of the domain that is nearest to the image, where that is known."""
    thumbnail: str | None
    """Its URL; None if there is none."""
    link: str
    """URL of the image itself."""
    id: str = ""
    """How the page names it, where it can ask for more like it."""
    mark: Mark = ""

    @property
    def name(self) -> str:
        """Its path in the collection."""
        return os.fsdecode(self.hit.path)

    @property
    def copied(self) -> Markup:
        """The absolute path as an attribute: its very characters, where it is text."""
        path = absolute(os.fsencode(self.hit.root), self.hit.path)
        try:
            return Markup(escape(path.decode()).replace("\r", "&#13;"))
        except UnicodeDecodeError:
            return inert(os.fsdecode(path))

    @property
    def strength(self) -> Strength | None:
        """How well it matches; None where that is not measured, as for an image query."""
        rate = self.hit.false_alarm
        return None if rate is None or self.rank is None else _STRENGTHS[verdict(rate)]

    @property
    def score(self) -> str:
        """The cosine similarity."""
        return f"{self.hit.score:.3f}"

    @property
    def day(self) -> str:
        """When it was taken, in short; nothing where nobody knows."""
        return (self.hit.taken_at or "")[:10]

    @property
    def figures(self) -> str:
        """The figures behind the strength, to be read by who points at it."""
        figures = [f"{name}: {fact}" for name, fact in self._figures.items()]
        return "; ".join(figures)

    @property
    def details(self) -> Mapping[str, str]:
        """All that is known of the hit, by name."""
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
    """An image's width and height in pixels, as people read them; nothing where nobody knows."""
    return f"{width} \N{MULTIPLICATION SIGN} {height}" if width else ""


def sentence(words: str) -> str:
    """Words with a capital at their beginning."""
    return words[:1].upper() + words[1:]
