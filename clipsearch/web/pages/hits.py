"""Hits as cards with a picture on each: what the contact sheet and ``browse`` show alike."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Literal

from clipsearch.images.thumbnails import SIZE
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


_ICONS = {
    "copy": '<path d="M9 9h10v11H9zM5 15V4h10"/>',
    "more": '<path d="M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM16.5 13.5v6M13.5 16.5h6"/>',
    "good": '<path d="M5 13l4.5 4.5L19 7"/>',
    "bad": '<path d="M6 6l12 12M18 6L6 18"/>',
}
_COPY = (("copy", "Copy the path (c)"),)
_ALL = (
    ("good", "Good: more like it (g)"),
    ("bad", "Bad: less like it (b)"),
    ("more", "Only pictures like this one (m)"),
    *_COPY,
)


def icons() -> str:
    """What the buttons show; once in a page."""
    symbols = "".join(
        f'<symbol id="{name}" viewBox="0 0 24 24">{path}</symbol>' for name, path in _ICONS.items()
    )
    return f'<svg class="icons" aria-hidden="true">{symbols}</svg>'


def grid(cards: Iterable[Card]) -> str:
    """All the cards, in their order."""
    return f'<div class="pictures">{"".join(map(_figure, cards))}</div>'


def _figure(card: Card) -> str:
    hit = card.hit
    path = absolute(os.fsencode(hit.root), hit.path)
    name = inert(os.fsdecode(hit.path))
    picture = (
        f'<img src="{escape(card.thumbnail)}" alt="{name}" loading="lazy"'
        f' width="{SIZE}" height="{SIZE}">'
        if card.thumbnail
        else '<span class="none">cannot be shown</span>'
    )
    kind = (
        f'<span class="class" title="nearest class of the domain">{inert(card.class_name)}</span>'
        if card.class_name
        else ""
    )
    buttons = "".join(
        f'<button type="button" tabindex="-1" data-act="{act}" title="{says}" aria-label="{says}"'
        f'{" aria-pressed=true" if act == card.mark else ""}><svg><use href="#{act}"/></svg>'
        "</button>"
        for act, says in (_ALL if card.id else _COPY)
    )
    return (
        f'<figure class="hit {card.mark}" tabindex="0" data-id="{card.id}"'
        f' data-path="{_copied(path)}">'
        f'<a href="{escape(card.link)}" tabindex="-1">{picture}</a>'
        f'<figcaption><div class="line"><span class="rank">{card.rank}</span>'
        f'<span class="score" title="cosine similarity">{hit.score:.3f}</span>{kind}</div>'
        f'<small>{_facts(hit)}</small><small class="name">{name}</small>'
        f'<div class="acts">{buttons}</div></figcaption></figure>'
    )


def _facts(hit: Hit) -> str:
    facts = []
    if hit.false_alarm is not None:
        facts.append(f"false alarm {percent(hit.false_alarm)}")
    if hit.precision is not None:
        facts.append(f"right {percent(hit.precision)}")
    facts.append(f"{hit.width} x {hit.height}")
    if hit.taken_at:
        facts.append(hit.taken_at.replace("T", " "))
    return inert(", ".join(facts)).replace(" %", "&nbsp;%").replace(" x ", "&nbsp;x&nbsp;")


def _copied(path: bytes) -> str:
    """The path as an attribute: its very characters, where it is text."""
    try:
        return escape(path.decode()).replace("\r", "&#13;")
    except UnicodeDecodeError:
        return inert(os.fsdecode(path))
