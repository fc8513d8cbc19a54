"""Hits as one self-contained HTML page.

Like the evaluation page, it works when opened from disk: it contains its style, script and small
JPEGs, and its Content-Security-Policy prevents the browser from fetching anything. The script only
adds keyboard shortcuts; the page works without it.
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

    classes: the nearest class of each hit, if known. pictures: thumbnails by absolute path, if
    available. query: the query in words. said: the verdict and the number of matches, for the
    heading. notes: other remarks about the answer, one per line. nearest: whether nothing matches,
    and the hits are only the closest images, shown dimmed.
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
    """A link to the file, or for an image in an archive, to its URL or else to the archive.

    A URL is untrusted text: it becomes a link only if it starts with http or https.
    """
    if hit.span is None:
        return file_url(absolute_path(hit))
    if hit.url and hit.url.lower().startswith(("https://", "http://")):
        return hit.url
    return file_url(hit.span.path)


def _thumbnail(picture: bytes | None) -> str | None:
    return data_url(picture) if picture else None
