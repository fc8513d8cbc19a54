"""Templates for every page, and a policy that prevents a page from loading anything else.

``inert`` escapes every value in a template, unless the template says otherwise: the texts come from
file names, labels, captions and domains.
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
"""Characters of a name's stem to keep before the extension when the name is shortened."""
_LONGEST_ENDING = 6

INSIDE = "img-src data:"
"""What a page opened from disk may load: the images that it contains."""


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

    title: for people to read. styles: names of files next to this one. script: runs after the body
    is loaded. loads: directives of a Content-Security-Policy. context: the template's variables.
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
    """Render a template from the folder of this module."""
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
    """Escape any value as HTML; markup is returned unchanged."""
    return value if isinstance(value, Markup) else Markup(escape(printable(str(value))))


def path_parts(path: str) -> tuple[str, str, str]:
    """Split a path into its folder, with the slash, and two parts of its name.

    A narrow page shortens the first part of the name, never the second, which has the extension.
    The three parts add up to the path.
    """
    name = path.rsplit("/", 1)[-1]
    ending = os.path.splitext(name)[1]
    end = min(len(name), len(ending) + _STEM if len(ending) <= _LONGEST_ENDING else _STEM)
    return path[: len(path) - len(name)], name[: len(name) - end], name[len(name) - end :]


def policy(script: str, loads: str) -> str:
    """A Content-Security-Policy that allows this script and no other."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scripts = f"; script-src 'sha256-{digest}'" if script else ""
    return (
        f"default-src 'none'; {loads}; style-src 'unsafe-inline'{scripts}; "
        "base-uri 'none'; form-action 'self'"
    )


def source(name: str) -> str:
    """The text of a style or a script from the folder of this module."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def file_url(path: bytes) -> str:
    """A URL that opens a file; bytes that are not valid text are percent-encoded."""
    try:
        return Path(os.fsdecode(path)).as_uri()
    except ValueError:
        return "#"


def data_url(jpeg: bytes) -> str:
    """A URL that contains the image itself."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"
