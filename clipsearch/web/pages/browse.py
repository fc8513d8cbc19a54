"""The page of ``browse``: a search box, filters, and hits as cards that can be marked.

The server makes all of its HTML; the script asks for the part below the box when what is asked
changes, and puts it in its place. Without the script it is a form, and works.
"""

from collections.abc import Mapping, Sequence
from html import escape
from urllib.parse import quote_plus

from clipsearch.errors import ClipsearchError, OutOfDomain, Refused
from clipsearch.search.answer import Answer
from clipsearch.search.query import Query, SearchOptions, Stored
from clipsearch.text import percent
from clipsearch.web.pages.document import document, inert, policy, source
from clipsearch.web.pages.hits import KEYS, STYLES, Card, Mark, grid, icons
from clipsearch.web.session import About, PictureId, Shown

_LOADS = "img-src 'self' data:; connect-src 'self'"
_SCRIPT = source("hits.js") + source("browse.js")

POLICY = f"{policy(_SCRIPT, _LOADS)}; frame-ancestors 'none'"
"""The Content-Security-Policy to send with the page."""

MORE = 60
"""So many more hits at a time."""

TYPES = ("jpeg", "png", "webp", "gif", "tiff", "heic", "avif", "bmp")

_SUGGESTED = 50


def page(about: About, fields: Mapping[str, str], below: str) -> str:
    """The whole page. fields: what the form says. below: one of the parts made here."""
    focus = "" if fields.get("q") else " autofocus"  # else the keys are for the hits
    title = fields.get("q") or "clipsearch"
    body = f"""{icons()}<main class="sheet">
<form id="ask" role="search" autocomplete="off">
<div class="box"><input type="search" name="q" value="{escape(fields.get("q", ""))}"
 placeholder="What to look for, in English" aria-label="What to look for" maxlength="500"{focus}>
<button>Search</button></div>
{_filters(about, fields)}
<input type="hidden" name="k" value="{escape(fields.get("k", ""))}">
</form>
<div id="answer" aria-live="polite">{below}</div>
<footer><p>{KEYS}; g and b mark it good or bad, m looks for more like it, / goes to the box.</p>
<p>{inert(", ".join(map(str, about.roots)))}: {about.images} pictures, ranked by
{inert(about.model)}; {inert("; ".join(about.tested))}.</p></footer>
</main>
<dialog id="light"><img alt=""><p><button type="button" data-step="-1" title="Before">&lsaquo;
</button><a href="#" target="_blank"></a><button type="button" data-step="1" title="Next">&rsaquo;
</button></p></dialog>
<output></output>"""
    return document(title, body, styles=(*STYLES, "browse.css"), script=_SCRIPT, loads=_LOADS)


def _filters(about: About, fields: Mapping[str, str]) -> str:
    def value(name: str) -> str:
        return f'name="{name}" value="{escape(fields.get(name, ""))}"'

    def checked(name: str) -> str:
        return f'name="{name}" value="on"{" checked" if fields.get(name) else ""}'

    types = "".join(
        f"<option{' selected' if fields.get('type') == name else ''}>{name}</option>"
        for name in TYPES
    )
    classes = "".join(f'<option value="{inert(name)}">' for name in about.classes)
    names = ("name", "class", "after", "before", "type", "width", "height", "all", "outside")
    opened = " open" if any(fields.get(name) for name in names) else ""
    return f"""<details class="filters"{opened}><summary>Filters</summary><div>
<label>name <input {value("name")} placeholder="IMG_*.jpg, 2024/*"></label>
<label>class <input list="classes" {value("class")}></label>
<datalist id="classes">{classes}</datalist>
<label>from <input type="date" {value("after")}></label>
<label>before <input type="date" {value("before")}></label>
<label>type <select name="type"><option value="">any</option>{types}</select></label>
<label>min width <input type="number" min="0" step="100" {value("width")}></label>
<label>min height <input type="number" min="0" step="100" {value("height")}></label>
<label class="tick"><input type="checkbox" {checked("all")}> however poor</label>
<label class="tick"><input type="checkbox" {checked("outside")}> outside the domain, too</label>
</div></details>"""


def marks(like: Sequence[PictureId], unlike: Sequence[PictureId]) -> str:
    """The pictures that were marked: each can be taken back, and is part of the form."""
    both = _marked(like, "like", "good") + _marked(unlike, "unlike", "bad")
    return f'<p class="marks">{both}</p>' if both else ""


def _marked(ids: Sequence[PictureId], name: str, mark: str) -> str:
    return "".join(
        f'<button type="button" class="mark {mark}" data-unmark="{id}" title="Take it back">'
        f'<img src="thumbnail/{id}" alt="marked {mark}" width="48" height="48">'
        f'<input type="hidden" form="ask" name="{name}" value="{id}"></button>'
        for id in ids
    )


def start(about: About) -> str:
    """What stands there before anything is asked."""
    step = max(1, len(about.classes) // _SUGGESTED)  # kin stand together in a domain
    chips = "".join(
        f'<a href="?q={quote_plus(name)}">{inert(name)}</a>'
        for name in about.classes[::step][:_SUGGESTED]
    )
    return (
        f'<div class="start"><p>{about.images} pictures. Say what to look for, or try one of the '
        f"domain&rsquo;s classes:</p><p>{chips}</p></div>"
    )


def answered(about: About, query: Query, options: SearchOptions, shown: Shown) -> str:
    """The hits, or that there are none."""
    answer = shown.answer
    if not answer.hits:
        return _no_match(options, answer)
    marks = _marks(query)
    cards = [
        Card(
            rank=rank,
            hit=hit,
            class_name=name,
            thumbnail=f"thumbnail/{id}",
            link=f"picture/{id}",
            id=str(id),
            mark=marks.get(id, ""),
        )
        for rank, (hit, id, name) in enumerate(
            zip(answer.hits, shown.ids, answer.classes, strict=True), start=1
        )
    ]
    counted = f"{len(cards)} hit{'s' if len(cards) != 1 else ''}"
    said = [
        counted,
        f"ranked by {about.model}",
        *about.tested,
        *answer.notes,
    ]
    more = (
        f'<p class="more"><button form="ask" name="k" value="{options.k + MORE}">Show more'
        "</button></p>"
        if len(cards) == options.k
        else ""
    )
    facts = "".join(f"<li>{inert(fact)}</li>" for fact in said)
    return f'<ul class="said">{facts}</ul>{grid(cards)}{more}'


def failed(error: ClipsearchError) -> str:
    """Why there is no answer: refused, or an error."""
    if isinstance(error, OutOfDomain):
        return _notice("Outside the domain", str(error), _button("outside", "Search all the same"))
    title = "Refused" if isinstance(error, Refused) else "That does not work"
    return _notice(title, str(error), f"<p>{inert(error.hint)}</p>")


def _no_match(options: SearchOptions, answer: Answer) -> str:
    if answer.rejected is None:
        words = "No indexed picture passes the filters." if options.is_filtered else ""
        return _notice("No match", words, "")
    rate = answer.rejected.false_alarm
    words = (
        ""
        if rate is None
        else f"{percent(rate)} of unrelated queries reach the score of the best picture here."
    )
    return _notice("No match", words, _button("all", "Show the best all the same"))


def _notice(title: str, words: str, more: str) -> str:
    return f'<div class="notice" role="alert"><h2>{title}</h2><p>{inert(words)}</p>{more}</div>'


def _button(name: str, words: str) -> str:
    return f'<p><button form="ask" name="{name}" value="on">{words}</button></p>'


def _marks(query: Query) -> dict[PictureId, Mark]:
    """How the pictures of the collections are marked that the query names."""
    return {
        PictureId(part.place, part.id): "good" if part.role == "good" else "bad"
        for part in query.parts
        if isinstance(part, Stored) and part.place is not None
    }
