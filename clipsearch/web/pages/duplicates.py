"""Groups of duplicates side by side, as one self-contained HTML page.

Made to be opened from a disk: style and small JPEGs are inside, and nothing is fetched or run.
"""

import os
from collections.abc import Sequence

from clipsearch.images.thumbnails import SIZE, thumbnails
from clipsearch.search.duplicates.find import Group, Member
from clipsearch.text import size_text
from clipsearch.web.pages.document import data_url, document, file_url


def page(groups: Sequence[Group], notes: Sequence[str]) -> str:
    """The whole page as text. Reads the pictures once more, for their thumbnails.

    notes: what is to be known of the groups, a line each.
    """
    paths = [member.path for group in groups for member in group.members]
    pictures = thumbnails(b"", paths, SIZE)
    shown = [
        {
            "kind": group.kind,
            "spare": size_text(group.spare_bytes),
            "cards": [
                _card(member, n == 0, pictures.get(member.path))
                for n, member in enumerate(group.members)
            ],
        }
        for group in groups
    ]
    return document("duplicates.html", "Duplicates", groups=shown, notes=notes, size=SIZE)


def _card(member: Member, best: bool, picture: bytes | None) -> dict[str, str | None]:
    image = member.image
    facts = [
        "the best" if best else f"similarity {member.similarity:.3f}",
        f"{image.width} x {image.height}",
        size_text(image.size),
    ]
    if image.taken_at:
        facts.append(image.taken_at.replace("T", " "))
    return {
        "name": os.fsdecode(image.path),
        "link": file_url(member.path),
        "picture": data_url(picture) if picture else None,
        "facts": ", ".join(facts),
    }
