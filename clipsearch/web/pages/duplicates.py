"""Groups of duplicates side by side, as one self-contained HTML page.

Made to be opened from a disk: style and small JPEGs are inside, and nothing is fetched or run.
"""

import os
from collections.abc import Mapping, Sequence
from html import escape

from clipsearch.images.thumbnails import SIZE, thumbnails
from clipsearch.search.duplicates.find import Group, Member
from clipsearch.text import size_text
from clipsearch.web.pages.document import data_url, document, file_url, inert

_TITLE = "Duplicates"


def page(groups: Sequence[Group], notes: Sequence[str]) -> str:
    """The whole page as text. Reads the pictures once more, for their thumbnails.

    notes: what is to be known of the groups, a line each.
    """
    paths = [member.path for group in groups for member in group.members]
    pictures = thumbnails(b"", paths, SIZE)
    said = "".join(f"<li>{inert(note)}</li>" for note in notes)
    shown = "".join(_section(n, group, pictures) for n, group in enumerate(groups, start=1))
    body = f"""<main>
<header class="sheet"><h1>{_TITLE}</h1>
<ul>{said}</ul></header>
{shown}
</main>"""
    return document(_TITLE, body)


def _section(number: int, group: Group, pictures: Mapping[bytes, bytes]) -> str:
    cards = "".join(
        _card(member, n == 0, pictures.get(member.path)) for n, member in enumerate(group.members)
    )
    return (
        f"<section><h2>{number}. {group.kind}, {len(group.members)} pictures, "
        f"{inert(size_text(group.spare_bytes))} beside the best</h2>"
        f'<div class="pictures">{cards}</div></section>\n'
    )


def _card(member: Member, best: bool, picture: bytes | None) -> str:
    image = member.image
    name = inert(os.fsdecode(image.path))
    shown = (
        f'<img src="{data_url(picture)}" alt="{name}" loading="lazy"'
        f' width="{SIZE}" height="{SIZE}">'
        if picture
        else '<span class="none">cannot be shown</span>'
    )
    facts = [f"{image.width} x {image.height}", size_text(image.size)]
    if image.taken_at:
        facts.append(image.taken_at.replace("T", " "))
    what = "the best" if best else f"similarity {member.similarity:.3f}"
    return (
        f'<figure><a href="{escape(file_url(member.path))}">{shown}</a>'
        f"<figcaption><span>{inert(', '.join([what, *facts]))}</span><small>{name}</small>"
        "</figcaption></figure>"
    )
