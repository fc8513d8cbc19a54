"""Groups of duplicates side by side, as one self-contained HTML page.

The page works when opened from disk: it contains its style and small JPEGs, fetches nothing, and
runs no script.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime

from clipsearch.images.thumbnails import SIZE, thumbnails
from clipsearch.search.duplicates.find import Group, Kind, Member
from clipsearch.text import size_text
from clipsearch.web.pages.document import data_url, document, file_url
from clipsearch.web.pages.hits import dimensions

_TITLES: Mapping[Kind, str] = {
    "copies": "Identical files",
    "near-duplicates": "Near-duplicates",
    "alike": "Similar images",
}

_FORMATS = {"JPG": "JPEG", "JPE": "JPEG", "JFIF": "JPEG", "TIF": "TIFF", "HIF": "HEIC"}
"""File extensions that differ from the name of the format."""


def page(groups: Sequence[Group], notes: Sequence[str]) -> str:
    """The whole page as text. Reads the images again for their thumbnails.

    notes: remarks about the groups, one per line.
    """
    paths = [member.path for group in groups for member in group.members]
    pictures = thumbnails(b"", paths, SIZE)
    shown = [
        {
            "title": _TITLES[group.kind],
            "count": len(group.members),
            "spare": size_text(group.spare_bytes),
            "cards": _cards(group, pictures),
        }
        for group in groups
    ]
    return document(
        "duplicates.html",
        "Duplicates",
        styles=("style.css", "duplicates.css"),
        groups=shown,
        notes=notes,
        size=SIZE,
    )


def _cards(group: Group, pictures: Mapping[bytes, bytes]) -> list[dict[str, object]]:
    best, facts = group.members[0], [_facts(member) for member in group.members]
    known = [name for name in facts[0] if any(each[name] for each in facts)]
    return [
        {
            "name": os.fsdecode(member.image.path),
            "link": file_url(member.path),
            "picture": data_url(pictures[member.path]) if member.path in pictures else None,
            "label": "Best" if member is best else _likeness(member, best),
            "best": member is best,
            "facts": [(name, each[name] or "-", each[name] != facts[0][name]) for name in known],
        }
        for member, each in zip(group.members, facts, strict=True)
    ]


def _likeness(member: Member, best: Member) -> str:
    if member.content == best.content:
        return "Identical file"
    return f"Similarity {member.similarity:.3f}"


def _facts(member: Member) -> dict[str, str]:
    """Properties in which copies may differ, by name; empty if unknown."""
    image = member.image
    ending = os.path.splitext(image.path)[1].removeprefix(b".").decode("utf-8", "replace").upper()
    modified = datetime.fromtimestamp(image.mtime_ns / 1e9)
    return {
        "Dimensions": dimensions(image.width, image.height),
        "Size": size_text(image.size),
        "Format": _FORMATS.get(ending, ending),
        "Taken": (image.taken_at or "")[:16].replace("T", " "),
        "Modified": modified.isoformat(" ", "minutes"),
    }
