"""Hits as cards with a picture on each: what the contact sheet and ``browse`` show alike."""

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

KEYS = "Arrow keys move, Enter opens the picture, c copies its path"

_WORDS: Mapping[Verdict, str] = {"strong": "clear", "weak": "likely", "none": "uncertain"}
"""Of a hit by itself, by how many unrelated queries score as high as it does."""

Mark = Literal["", "good", "bad"]


@dataclass(frozen=True, slots=True)
class Card:
    """A hit and what a page shows beside it."""

    rank: int | None
    """None where nobody searched for it: then it has no score either."""
    hit: Hit
    class_name: str | None
    """The class of the domain that is nearest to the picture, where that is known."""
    thumbnail: str | None
    """Its URL; None if there is none."""
    link: str
    """URL of the picture itself."""
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
    def facts(self) -> Markup:
        """What is known of the hit, in words whose numbers stay with their units."""
        hit = self.hit
        rate = None if hit.false_alarm is None else verdict(hit.false_alarm)
        facts = [_WORDS[rate]] if rate else []
        facts.append(f"{hit.width} x {hit.height}")
        if hit.taken_at:
            facts.append(hit.taken_at.replace("T", " "))
        return inert(", ".join(facts)).replace(" x ", Markup("&nbsp;x&nbsp;"))

    @property
    def figures(self) -> str:
        """The figures behind the words, to be read by who points at them."""
        hit, figures = self.hit, []
        if hit.false_alarm is not None:
            figures.append(f"{percent(hit.false_alarm)} of unrelated queries score as high")
        if hit.precision is not None:
            figures.append(f"right with a probability of {percent(hit.precision)}")
        return "; ".join(figures)


def sentence(words: str) -> str:
    """Words with a capital at their beginning."""
    return words[:1].upper() + words[1:]
