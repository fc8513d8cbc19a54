"""What every page is made in: head, style, and a policy that lets nothing in from elsewhere."""

import base64
import hashlib
import os
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

from clipsearch.text import printable

INSIDE = "img-src data:"
"""What a page may load that is opened from a disk: the pictures inside it."""


def document(
    title: str,
    body: str,
    *,
    styles: Sequence[str] = ("style.css",),
    script: str = "",
    loads: str = INSIDE,
) -> str:
    """A whole page as text.

    title: as people read it. body: HTML. styles: names of files beside this one. script: runs
    when the body is there. loads: directives of a Content-Security-Policy.
    """
    style = "\n".join(map(source, styles))
    scripted = f"\n<script>{script}</script>" if script else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy(script, loads)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{inert(title)}</title>
<style>
{style}</style>
</head>
<body>
{body}{scripted}
</body>
</html>
"""


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


def inert(text: str) -> str:
    """Any text as HTML that shows it and does nothing else."""
    return escape(printable(text))


def file_url(path: bytes) -> str:
    """A link that opens a file; a name that is not text in a URL is written as its bytes."""
    try:
        return Path(os.fsdecode(path)).as_uri()
    except ValueError:
        return "#"


def data_url(jpeg: bytes) -> str:
    """A picture that is inside its page."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"
