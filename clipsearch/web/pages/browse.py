"""The page of ``browse``: a search box, filters, and hits as cards that can be marked.

The server makes all of its HTML; the script asks for the part below the box when what is asked
changes, and puts it in its place. Without the script it is a form, and works.
"""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from clipsearch.errors import ClipsearchError, OutOfDomain, Refused
from clipsearch.images.thumbnails import SIZE
from clipsearch.search.answer import Answer
from clipsearch.search.query import SearchOptions
from clipsearch.text import percent
from clipsearch.web.pages.document import document, policy, render, source
from clipsearch.web.pages.hits import KEYS, STYLES, Card, Mark, counted
from clipsearch.web.session import About, PictureId, Shown

_LOADS = "img-src 'self' data:; connect-src 'self'"
_SCRIPT = source("hits.js") + source("browse.js")

POLICY = f"{policy(_SCRIPT, _LOADS)}; frame-ancestors 'none'"
"""The Content-Security-Policy to send with the page."""

MORE = 60
"""So many more hits at a time."""

TYPES = ("jpeg", "png", "webp", "gif", "tiff", "heic", "avif", "bmp")

_SUGGESTED = 50

Marks = Sequence[tuple[PictureId, Mark]]
"""The pictures that were marked: each can be taken back, and is part of the form."""


def page(about: About, fields: Mapping[str, str], below: str) -> str:
    """The whole page. fields: what the form says. below: one of the parts made here."""
    names = ("name", "class", "after", "before", "type", "width", "height", "all", "outside")
    return document(
        "browse.html",
        fields.get("q") or "clipsearch",
        styles=(*STYLES, "browse.css"),
        script=_SCRIPT,
        loads=_LOADS,
        about=about,
        fields=fields,
        filtered=any(fields.get(name) for name in names),
        types=TYPES,
        keys=KEYS,
        below=Markup(below),
    )


def start(about: About, marks: Marks) -> str:
    """What stands there before anything is asked."""
    step = max(1, len(about.classes) // _SUGGESTED)  # kin stand together in a domain
    suggested = about.classes[::step][:_SUGGESTED]
    return render("start.html", marks=marks, about=about, suggested=suggested)


def answered(about: About, options: SearchOptions, shown: Shown, marks: Marks) -> str:
    """The hits, or that there are none."""
    answer = shown.answer
    if not answer.hits:
        return _no_match(options, answer, marks)
    marked = dict(marks)
    cards = [
        Card(
            rank=rank,
            hit=hit,
            class_name=name,
            thumbnail=f"thumbnail/{id}",
            link=f"picture/{id}",
            id=str(id),
            mark=marked.get(id, ""),
        )
        for rank, (hit, id, name) in enumerate(
            zip(answer.hits, shown.ids, answer.classes, strict=True), start=1
        )
    ]
    return render(
        "answered.html",
        marks=marks,
        cards=cards,
        facts=[counted(len(cards)), f"ranked by {about.model}", *about.tested, *answer.notes],
        more=options.k + MORE if len(cards) == options.k else None,
        size=SIZE,
    )


def failed(error: ClipsearchError, marks: Marks) -> str:
    """Why there is no answer: refused, or an error."""
    if isinstance(error, OutOfDomain):
        button = ("outside", "Search all the same")
        return _notice(marks, "Outside the domain", str(error), button=button)
    title = "Refused" if isinstance(error, Refused) else "That does not work"
    return _notice(marks, title, str(error), hint=error.hint)


def _no_match(options: SearchOptions, answer: Answer, marks: Marks) -> str:
    if answer.rejected is None:
        words = "No indexed picture passes the filters." if options.is_filtered else ""
        return _notice(marks, "No match", words)
    rate = answer.rejected.false_alarm
    words = (
        ""
        if rate is None
        else f"{percent(rate)} of unrelated queries reach the score of the best picture here."
    )
    return _notice(marks, "No match", words, button=("all", "Show the best all the same"))


def _notice(
    marks: Marks,
    title: str,
    words: str,
    *,
    hint: str | None = None,
    button: tuple[str, str] | None = None,
) -> str:
    return render("notice.html", marks=marks, title=title, words=words, hint=hint, button=button)
