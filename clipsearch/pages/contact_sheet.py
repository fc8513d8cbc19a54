"""Hits as one self-contained HTML page, for people who would rather look than read.

Like the page of an evaluation it is made to be opened from a disk: style, script and small JPEGs
are inside, and a Content-Security-Policy forbids the browser to fetch anything. The script is for
the keyboard alone; without it everything is still there.
"""

import base64
import hashlib
import os
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

from clipsearch.images import absolute
from clipsearch.output import percent, printable
from clipsearch.records import Hit
from clipsearch.thumbnails import thumbnails

_THUMBNAIL = 224

_SCRIPT = """
const cards = [...document.querySelectorAll("figure")];
const copy = card => navigator.clipboard?.writeText(card.dataset.path)
  .then(() => {
    card.classList.add("copied");
    setTimeout(() => card.classList.remove("copied"), 900);
  });
addEventListener("click", event => {
  const button = event.target.closest("button");
  if (button) copy(button.closest("figure"));
});
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = cards.indexOf(document.activeElement.closest?.("figure"));
  const across = cards.findIndex((card, n) => n && card.offsetTop > cards[0].offsetTop);
  const step = { ArrowRight: 1, l: 1, ArrowLeft: -1, h: -1, ArrowDown: across, j: across,
    ArrowUp: -across, k: -across }[event.key];
  if (step !== undefined) {
    const next = cards[Math.max(0, Math.min(cards.length - 1, at < 0 ? 0 : at + step))];
    next.focus(); next.scrollIntoView({ block: "nearest" }); event.preventDefault();
  } else if (at >= 0 && event.key === "c") copy(cards[at]);
  else if (at >= 0 && event.key === "Enter") cards[at].querySelector("a").click();
});
"""


def page(hits: Sequence[Hit], query: str, model: str, notes: Sequence[str]) -> str:
    """The whole page as text. Reads the pictures once more, for their thumbnails.

    query: what was looked for, in words. notes: what is to be known of the answer, a line each.
    """
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    paths = [absolute(os.fsencode(hit.root), hit.path) for hit in hits]
    pictures = thumbnails(b"", list(dict.fromkeys(paths)), _THUMBNAIL)
    cards = "".join(
        _card(rank, hit, path, pictures.get(path))
        for rank, (hit, path) in enumerate(zip(hits, paths, strict=True), start=1)
    )
    said = "".join(f"<li>{_text(note)}</li>" for note in notes)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
 style-src 'unsafe-inline'; script-src 'sha256-{digest}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{_text(query)}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header class="sheet"><h1>{_text(query)}</h1>
<ul><li>{len(hits)} hits, ranked by {_text(model)}</li>{said}</ul></header>
<div class="pictures">{cards}</div>
<footer><p>Arrow keys move, Enter opens the picture, c copies its path.</p></footer>
</main>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _card(rank: int, hit: Hit, path: bytes, picture: bytes | None) -> str:
    name = _text(os.fsdecode(hit.path))
    shown = (
        f'<img src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}" alt="{name}"'
        f' width="{_THUMBNAIL}" height="{_THUMBNAIL}">'
        if picture
        else '<span class="none">not there any more</span>'
    )
    facts = [f"score {hit.score:.3f}"]
    if hit.false_alarm is not None:
        facts.append(f"false alarm {percent(hit.false_alarm)}")
    if hit.precision is not None:
        facts.append(f"right {percent(hit.precision)}")
    facts.append(f"{hit.width} x {hit.height}")
    if hit.taken_at:
        facts.append(hit.taken_at.replace("T", " "))
    said = _text(", ".join(facts)).replace(" %", "&nbsp;%")
    return (
        f'<figure tabindex="0" data-path="{_copied(path)}">'
        f'<a href="{escape(_url(path))}" tabindex="-1">{shown}</a>'
        f"<figcaption><span>{rank}. {said}</span><small>{name}</small>"
        '<button type="button" tabindex="-1">copy path</button></figcaption></figure>'
    )


def _copied(path: bytes) -> str:
    """The path as an attribute: its very characters, where it is text."""
    try:
        return escape(path.decode())
    except UnicodeDecodeError:
        return _text(os.fsdecode(path))


def _url(path: bytes) -> str:
    """A link that opens the file; a name that is not text in a URL is written as its bytes."""
    try:
        return Path(os.fsdecode(path)).as_uri()
    except ValueError:
        return "#"


def _text(text: str) -> str:
    """Any text as HTML that shows it and does nothing else."""
    return escape(printable(text))
