"""Text for users: suggestions for mistyped names, percentages, sizes, and safe printing."""

import os
import unicodedata
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

_ALIKE = 0.65
"""How similar two names must be (difflib's ratio). At 0.6, --open would match --cuont."""

_BEGINNING = 3
"""The fewest letters worth completing."""


def close(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The known names closest to ``name``, ignoring case; best first.

    Names that begin with it come first.
    """
    spelled = {other.lower(): other for other in known if other != name}
    name = name.lower()
    near: list[str] = []
    if len(name.strip("-")) >= _BEGINNING:
        near += [other for other in spelled if other.startswith(name)]
    near += get_close_matches(name, spelled, most, _ALIKE)
    return [spelled[match] for match in dict.fromkeys(near)][:most]


def did_you_mean(name: str, known: Iterable[str], most: int = 3) -> str:
    """`` (did you mean A or B?)``, to append to a message; empty if no name is close."""
    found = close(name, known, most)
    return f" (did you mean {' or '.join(found)}?)" if found else ""


def rounded(value: float | None) -> float | None:
    """A share to four significant digits, which exceeds the precision of its measurement."""
    return None if value is None else float(f"{value:.4g}")


def percent(share: float | None) -> str:
    """A share as a percentage, ``3.2%``; a dash if unknown."""
    if share is None:
        return "-"
    return "< 0.1%" if 0 < share < 0.001 else f"{100 * share:.1f}%"


def number_of(count: int, noun: str, nouns: str = "") -> str:
    """A count and its noun: ``1 image``, ``2,000 images``. nouns: an irregular plural."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def shortened(text: str, most: int = 80) -> str:
    """Text to quote in a message; long text is cut to its beginning and end."""
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end - 3]}...{text[-end:]}"


def printable(text: str) -> str:
    """Text that cannot move a terminal's cursor or reverse its text direction.

    Control, format (bidi overrides among them), surrogate and line-separator characters are
    replaced with the replacement character.
    """
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else character
        for character in text
    )


def text_path(path: bytes) -> str:
    """A path as text for display only, not for opening."""
    return printable(os.fsdecode(path))


def endings_text(counts: Mapping[bytes, int], most: int = 5) -> str:
    """Counts of files by extension, largest first: ``180 .cr3, 30 .pdf, 4 others``."""
    ordered = sorted(counts.items(), key=lambda counted: (-counted[1], counted[0]))
    texts = [
        f"{count} {text_path(ending)}" if ending else f"{count} without an extension"
        for ending, count in ordered[:most]
    ]
    if others := sum(count for _, count in ordered[most:]):
        texts.append(f"{others} others")
    return ", ".join(texts)


def size_text(count: int) -> str:
    """A number of bytes in a readable unit: 1.4 MB."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if round(amount, 1) < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
