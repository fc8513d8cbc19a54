"""The page of ``browse``: a search box, filters, and hits as cards that can be marked.

The server generates all HTML. When the form changes, the script fetches the part below the box and
replaces it. Without the script, the page works as a plain form.
"""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from clipsearch.errors import ClipsearchError, OutOfDomain, Refused
from clipsearch.images.thumbnails import SIZE
from clipsearch.records import Hit
from clipsearch.search.explain import counted, not_calibrated, reached
from clipsearch.search.query import SearchOptions
from clipsearch.web.pages.document import document, policy, render, source
from clipsearch.web.pages.hits import STYLES, Card, Mark, sentence
from clipsearch.web.session import About, PictureId, Shown

_LOADS = "img-src 'self' data:; connect-src 'self'"
_SCRIPT = source("hits.js") + source("browse.js")

POLICY = f"{policy(_SCRIPT, _LOADS)}; frame-ancestors 'none'"
"""The Content-Security-Policy to send with the page."""

MORE = 60
"""Hits added by each click on Show more."""

TYPES = ("jpeg", "png", "webp", "gif", "tiff", "heic", "avif", "bmp")

_NOTHING_PASSES = "No indexed image passes the filters."

_SUGGESTED = 12
"""As many as fit on one or two lines."""

Marks = Sequence[tuple[PictureId, Mark]]
"""The marked images; each is part of the form, and its mark can be removed."""


def page(about: About, fields: Mapping[str, str], below: str) -> str:
    """The whole page. fields: values of the form. below: one of the parts from this module."""
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
        images=_images(about.images),
        below=Markup(below),
    )


def start(suggested: Sequence[str], options: SearchOptions, shown: Shown, marks: Marks) -> str:
    """The page before any search: the newest images, and suggestions."""
    answer = shown.answer
    if answer.nothing_passes:
        return _notice(marks, "No images", _NOTHING_PASSES)
    return render(
        "start.html",
        marks=marks,
        suggested=suggested[:_SUGGESTED],
        heading=f"{_images(answer.matching)}, newest first" if answer.hits else "No images yet",
        cards=_cards(answer.hits, shown.ids, answer.classes, marks, ranked=False),
        more=options.k + MORE if answer.matching > options.k else None,
        size=SIZE,
    )


def answered(about: About, options: SearchOptions, shown: Shown, marks: Marks) -> str:
    """The hits, or a notice that there are none, with the nearest images."""
    answer = shown.answer
    why = [*answer.explanation, f"ranked by {about.model}", *about.tested]
    if not answer.hits:
        return _no_match(options, shown, why, marks)
    cut = answer.matching > options.k or (options.all and len(answer.hits) == options.k)
    judgment = answer.judgment
    said = [*([] if answer.calibrated else not_calibrated(options)), *answer.notes]
    if options.all:
        heading = f"The {_images(len(answer.hits))} that match best, however poorly"
    else:
        heading = _matching(answer.matching, len(answer.hits))
        if judgment.verdict == "weak":
            said.insert(0, "these may not show what you are looking for")
    return render(
        "answered.html",
        marks=marks,
        heading=heading,
        verdict=None if options.all else judgment.verdict,
        reached="" if judgment.rate is None else sentence(reached(judgment)),
        said=[f"{sentence(one).rstrip('.')}." for one in said],
        why=why,
        cards=_cards(answer.hits, shown.ids, answer.classes, marks),
        more=options.k + MORE if cut else None,
        size=SIZE,
    )


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{counted(count)} images"


def _matching(matching: int, shown: int) -> str:
    """The number of matching images, and how many of them are shown."""
    said = f"{sentence(_images(matching))} {'matches' if matching == 1 else 'match'}"
    return f"{said}; showing {shown:,}" if shown < matching else said


def _cards(
    hits: Sequence[Hit],
    ids: Sequence[PictureId],
    classes: Sequence[str | None],
    marks: Marks,
    *,
    ranked: bool = True,
) -> list[Card]:
    marked = dict(marks)
    return [
        Card(
            rank=rank if ranked else None,
            hit=hit,
            class_name=name,
            thumbnail=f"thumbnail/{id}",
            link=f"picture/{id}",
            id=str(id),
            mark=marked.get(id, ""),
        )
        for rank, (hit, id, name) in enumerate(zip(hits, ids, classes, strict=True), start=1)
    ]


def failed(error: ClipsearchError, marks: Marks) -> str:
    """Why there is no answer: a refusal or an error."""
    if isinstance(error, OutOfDomain):
        button = ("outside", "Search anyway")
        return _notice(marks, "Outside the domain", sentence(str(error)), button=button)
    title = "Refused" if isinstance(error, Refused) else "This cannot be searched"
    return _notice(marks, title, sentence(str(error)), hint=error.hint)


def _no_match(options: SearchOptions, shown: Shown, why: Sequence[str], marks: Marks) -> str:
    answer = shown.answer
    if answer.nothing_passes:
        return _notice(marks, "No match", _NOTHING_PASSES)
    weak_alone = options.strict and answer.judgment.verdict == "weak"
    return render(
        "no_match.html",
        marks=marks,
        title="No strong match" if weak_alone else "No match",
        words="Only weak matches were found."
        if weak_alone
        else "Nothing here matches well enough. Try other words, or fewer.",
        button="Show them" if weak_alone else "Show the closest images anyway",
        notes=answer.notes,
        why=why,
        cards=_cards(answer.nearest, shown.nearest, [None] * len(answer.nearest), marks),
        size=SIZE,
    )


def _notice(
    marks: Marks,
    title: str,
    words: str,
    *,
    hint: str | None = None,
    button: tuple[str, str] | None = None,
) -> str:
    return render("notice.html", marks=marks, title=title, words=words, hint=hint, button=button)
