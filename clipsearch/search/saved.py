"""Queries that a person saved under a name, for any of their collections."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from clipsearch import typed
from clipsearch.errors import StoreError, UsageError
from clipsearch.paths import data_dir, held, write_whole
from clipsearch.search.query import (
    Class,
    Image,
    Part,
    Probe,
    Query,
    Role,
    Stored,
    Text,
    read_part,
    scaled,
)
from clipsearch.text import did_you_mean

_PATIENCE = 10.0
"""Seconds to wait for others who change the queries, each for a moment."""


_Kind = Literal["text", "image", "class", "probe"]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A part as it stands in the file."""

    kind: _Kind
    what: str
    weight: float = 1.0
    role: Role = "wanted"


def save(name: str, query: Query) -> None:
    """Keep a query under a name, in place of an earlier one. Raises UsageError, StoreError."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(
            f"'{name}' is no name for a query", hint="Use letters, digits, and - _ . between them."
        )
    with _changing() as kept:
        kept[name] = query


def remove(name: str) -> None:
    """Forget a query. Raises UsageError if there is none of that name, and StoreError."""
    with _changing() as kept:
        if kept.pop(name, None) is None:
            raise unknown(name)


def everything() -> Mapping[str, Query]:
    """All saved queries by name, in the order of the names.

    Raises StoreError if the file that they are in is damaged: saving another would lose them.
    """
    try:
        text = _file().read_text(encoding="utf-8")
        listed = typed.from_json(Mapping[str, tuple[_Kept, ...]], text)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StoreError(
            f"cannot read the saved queries in {_file()}: {error}", hint="Mend or delete the file."
        ) from error
    return {name: Query(tuple(map(_part, listed[name]))) for name in sorted(listed)}


def read(text: str) -> tuple[Part, ...]:
    """What a text stands for: itself, a probe's class, or all parts of a saved query.

    Raises UsageError, and StoreError if the saved queries cannot be read.
    """
    part = read_part(text)
    kept = everything().get(part.name) if isinstance(part, Probe) else None
    return (part,) if kept is None else scaled(kept.parts, part.weight)


def lasting(query: Query) -> Query:
    """The query as it is to be found from any folder, its pictures named by absolute paths.

    Raises UsageError for a picture that is no file.
    """
    return Query(tuple(map(_lasting, query.parts)))


def _lasting(part: Part) -> Part:
    if not isinstance(part, Image | Stored):
        return part
    if isinstance(part, Stored) or not Path(part.path).is_file():
        raise UsageError(
            f"'{part}' is no file", hint="A saved query names pictures by their paths."
        )
    return replace(part, path=str(Path(part.path).absolute()))


def _part(kept: _Kept) -> Part:
    made: Mapping[_Kind, type[Text | Image | Class | Probe]]
    made = {"text": Text, "image": Image, "class": Class, "probe": Probe}
    return made[kept.kind](kept.what, weight=kept.weight, role=kept.role)


def _kept(part: Part) -> _Kept:
    match part:
        case Text():
            return _Kept("text", part.text, part.weight, part.role)
        case Image():
            return _Kept("image", part.path, part.weight, part.role)
        case Class():
            return _Kept("class", part.name, part.weight, part.role)
        case Probe():
            return _Kept("probe", part.name, part.weight, part.role)
        case Stored():
            raise UsageError(
                f"'{part}' is a picture's number in one collection",
                hint="A saved query names pictures by their paths.",
            )


def unknown(name: str) -> UsageError:
    """What to raise for a name that no query has."""
    names = ", ".join(everything())
    return UsageError(
        f"there is no saved query '{name}'{did_you_mean(name, everything())}",
        hint=(f"There are: {names}. " if names else "")
        + "Save one with: clipsearch query save NAME QUERY",
    )


@contextmanager
def _changing() -> Iterator[dict[str, Query]]:
    """The saved queries, to be changed: written if nothing is raised, and by one at a time."""
    try:
        with held(_file(), _PATIENCE):
            kept = dict(everything())
            yield kept
            listed = {
                name: [asdict(_kept(part)) for part in query.parts] for name, query in kept.items()
            }
            write_whole(_file(), json.dumps(listed, indent=1).encode())
    except OSError as error:
        raise StoreError(f"cannot write {_file()}: {error.strerror or error}") from error


def _file() -> Path:
    return data_dir() / "queries.json"
