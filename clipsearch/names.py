"""Names that were mistyped, and what may have been meant."""

from collections.abc import Iterable
from difflib import get_close_matches

_ALIKE = 0.65
"""How alike two names must be (difflib's ratio). From 0.6 on, --open is alike to --cuont."""

_BEGINNING = 3
"""So many letters are worth completing."""


def close(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The known names that are nearest to ``name``, whatever their case; best first.

    Those that begin with it are nearest.
    """
    spelled = {other.lower(): other for other in known if other != name}
    name = name.lower()
    near: list[str] = []
    if len(name.strip("-")) >= _BEGINNING:
        near += [other for other in spelled if other.startswith(name)]
    near += get_close_matches(name, spelled, most, _ALIKE)
    return [spelled[match] for match in dict.fromkeys(near)][:most]


def did_you_mean(name: str, known: Iterable[str], most: int = 3) -> str:
    """`` (did you mean A or B?)``, to follow a message; nothing where no name is near."""
    found = close(name, known, most)
    return f" (did you mean {' or '.join(found)}?)" if found else ""
