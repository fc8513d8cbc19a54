"""What every page is made with: its templates, and a policy that lets nothing in from elsewhere.

Whatever a template shows goes through ``inert``, unless the template says otherwise: the texts
come from file names, labels, captions and domains.
"""

import base64
import hashlib
import os
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clipsearch.paths import MARK
from clipsearch.text import printable

_STEM = 5
"""Characters of a name's stem that stay with its extension where the name is shortened."""
_LONGEST_ENDING = 6

INSIDE = "img-src data:"
"""What a page may load that is opened from a disk: the images inside it."""


def document(
    template: str,
    title: str,
    *,
    styles: Sequence[str] = ("style.css",),
    script: str = "",
    loads: str = INSIDE,
    **context: Any,
) -> str:
    """A whole page as text, from a template that extends ``document.html``.

    title: as people read it. styles: names of files beside this one. script: runs when the body
    is there. loads: directives of a Content-Security-Policy. context: what the template shows.
    """
    return render(
        template,
        title=title,
        mark=MARK,
        policy=Markup(policy(script, loads)),
        style=Markup("\n".join(map(source, styles))),
        script=Markup(script),
        **context,
    )


def render(template: str, **context: Any) -> str:
    """A template that lies beside this module, with what it shows filled in."""
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("clipsearch.web", "pages"),
        autoescape=True,
        finalize=inert,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "exact": lambda text: Markup(escape(text)),
        "path_parts": path_parts,
        "urlencode_plus": quote_plus,
    }
    return environment


def inert(value: object) -> Markup:
    """Any value as HTML that shows it and does nothing else; what is HTML already stays."""
    return value if isinstance(value, Markup) else Markup(escape(printable(str(value))))


def path_parts(path: str) -> tuple[str, str, str]:
    """A path as its folder, with the slash, and its name in two: a narrow page cuts between them.

    The end of the name, with its extension, is never cut off. The three add up to the path.
    """
    name = path.rsplit("/", 1)[-1]
    ending = os.path.splitext(name)[1]
    end = min(len(name), len(ending) + _STEM if len(ending) <= _LONGEST_ENDING else _STEM)
    return path[: len(path) - len(name)], name[: len(name) - end], name[len(name) - end :]


def policy(script: str, loads: str) -> str:
    """A Content-Security-Policy under which this script runs, and no other."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scripts = f"; script-src 'sha256-{digest}'" if script else ""
    return (
        f"default-src 'none'; {loads}; style-src 'unsafe-inline'{scripts}; "
        "base-uri 'none'; form-action 'self'"
    )


def source(name: str) -> str:
    """The text of a style or a script that lies beside this module."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def file_url(path: bytes) -> str:
    """A link that opens a file; a name that is not text in a URL is written as its bytes."""
    try:
        return Path(os.fsdecode(path)).as_uri()
    except ValueError:
        return "#"


def data_url(jpeg: bytes) -> str:
    """An image that is inside its page."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"
