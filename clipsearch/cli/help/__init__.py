"""The pages that ``clipsearch help TOPIC`` prints: one Markdown file per topic in this folder.

The first line of a page is ``# TOPIC: what it is about``.
"""

from collections.abc import Mapping
from importlib import resources


def pages() -> Mapping[str, str]:
    """Topic -> its page as Markdown, sorted by name."""
    found = [file for file in resources.files(__name__).iterdir() if file.name.endswith(".md")]
    return {
        file.name.removesuffix(".md"): file.read_text(encoding="utf-8")
        for file in sorted(found, key=lambda file: file.name)
    }
