"""Hits as cards with a picture on each: what the contact sheet and ``browse`` show alike."""

import os
from dataclasses import dataclass
from html import escape
from typing import Literal

from markupsafe import Markup

from clipsearch.paths import absolute
from clipsearch.records import Hit
from clipsearch.text import percent
from clipsearch.web.pages.document import inert

STYLES = ("style.css", "hits.css")

KEYS = "Arrow keys move, Enter opens the picture, c copies its path"

Mark = Literal["", "good", "bad"]


@dataclass(frozen=True, slots=True)
class Card:
    """A hit and what a page shows beside it."""

    rank: int
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
        hit, facts = self.hit, []
        if hit.false_alarm is not None:
            facts.append(f"false alarm {percent(hit.false_alarm)}")
        if hit.precision is not None:
            facts.append(f"right {percent(hit.precision)}")
        facts.append(f"{hit.width} x {hit.height}")
        if hit.taken_at:
            facts.append(hit.taken_at.replace("T", " "))
        said = inert(", ".join(facts))
        return said.replace(" %", Markup("&nbsp;%")).replace(" x ", Markup("&nbsp;x&nbsp;"))


def counted(hits: int) -> str:
    """How many there are, in words."""
    return f"{hits} hit{'s' if hits != 1 else ''}"
