"""Hits as one self-contained HTML page, for people who would rather look than read.

Like the page of an evaluation it is made to be opened from a disk: style, script and small JPEGs
are inside, and a Content-Security-Policy forbids the browser to fetch anything. The script is for
the keyboard alone; without it everything is still there.
"""

from collections.abc import Iterable, Mapping, Sequence

from clipsearch.images.thumbnails import SIZE
from clipsearch.paths import absolute_path
from clipsearch.records import Hit
from clipsearch.web.pages.document import data_url, document, file_url, source
from clipsearch.web.pages.hits import STYLES, Card, sentence


def page(
    hits: Sequence[Hit],
    classes: Sequence[str | None],
    pictures: Mapping[bytes, bytes],
    query: str,
    said: Iterable[str],
    notes: Sequence[str],
    *,
    nearest: bool = False,
) -> str:
    """The whole page as text.

    nearest: whether nothing matches, and the hits are only the closest images: they are dimmed.
    classes: of each hit. images: thumbnails by absolute path, where there are any. query: what
    was looked for, in words. said: the verdict and how much was found, for the heading. notes: what
    else is to be known of the answer, a line each.
    """
    cards = [
        Card(
            rank,
            hit,
            name,
            _thumbnail(pictures.get(absolute_path(hit))),
            _link(hit),
        )
        for rank, (hit, name) in enumerate(zip(hits, classes, strict=True), start=1)
    ]
    return document(
        "contact_sheet.html",
        query,
        styles=STYLES,
        script=source("hits.js"),
        cards=cards,
        said=list(map(sentence, said)),
        notes=notes,
        nearest=nearest,
        size=SIZE,
    )


def _link(hit: Hit) -> str:
    """To the file; of an image in an archive, to the page where it came from, or to the archive.

    A URL is somebody else's text: only one of the web is a link.
    """
    if hit.span is None:
        return file_url(absolute_path(hit))
    if hit.url and hit.url.lower().startswith(("https://", "http://")):
        return hit.url
    return file_url(hit.span.path)


def _thumbnail(picture: bytes | None) -> str | None:
    return data_url(picture) if picture else None
