"""Queries that a user saved under a name, for use with any collection."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from clipsearch import typed
from clipsearch.errors import StoreError, UsageError
from clipsearch.evaluation import probes
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
from clipsearch.storage import known
from clipsearch.storage.catalog import Store
from clipsearch.text import did_you_mean, shortened

_PATIENCE = 10.0
"""Seconds to wait for other processes that are changing the queries."""


_Kind = Literal["text", "image", "class", "probe"]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A part as stored in the file."""

    kind: _Kind
    what: str
    weight: float = 1.0
    role: Role = "wanted"


def save(name: str, query: Query) -> None:
    """Save a query under a name, replacing any earlier one.

    Raises UsageError for an invalid name, for the name of a probe, and for a query that contains
    itself or an unknown name; StoreError.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(
            f"'{shortened(name)}' is not a valid name for a query",
            hint="Start with a letter or digit; - _ . may follow.",
        )
    named = {part.name for part in query.parts if isinstance(part, Probe) and "/" not in part.name}
    if name in named:
        raise UsageError(
            f"the query '{name}' would contain itself",
            hint=f"Save it under another name, or describe in words what @{name} should mean.",
        )
    trained = _probes()
    if name in trained:
        raise UsageError(
            f"the index of {trained[name]} has a probe '{name}', so @{name} would be ambiguous",
            hint="Save the query under another name.",
        )
    for missing in sorted(named - trained.keys()):
        raise UsageError(
            f"'@{missing}' is neither a saved query nor a probe of an indexed folder",
            hint="Save the query or train the probe first.",
        )
    with _changing() as kept:
        kept[name] = query


def remove(name: str) -> None:
    """Remove a query. Raises UsageError if there is no such query, and StoreError."""
    with _changing() as kept:
        if kept.pop(name, None) is None:
            raise unknown(name)


def everything() -> Mapping[str, Query]:
    """All saved queries by name, in alphabetical order.

    Raises StoreError if their file is damaged; saving another query would then lose them.
    """
    try:
        text = _file().read_text(encoding="utf-8")
        listed = typed.from_json(Mapping[str, tuple[_Kept, ...]], text)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StoreError(
            f"cannot read the saved queries in {_file()}: {error}",
            hint="Repair or delete the file.",
        ) from error
    return {name: Query(tuple(map(_part, listed[name]))) for name in sorted(listed)}


def read(text: str) -> tuple[Part, ...]:
    """Parse a text: it stands for itself, a probe's class, or all parts of a saved query.

    Raises UsageError, and StoreError if the saved queries cannot be read.
    """
    part = read_part(text)
    if not isinstance(part, Probe):
        return (part,)
    name, kept = part.name, everything()
    if name not in kept:
        return (part,)
    for inner in kept[name].parts:
        if isinstance(inner, Probe) and inner.name in kept:  # as earlier versions allowed
            raise UsageError(
                f"the saved query '{name}' contains "
                + ("itself" if inner.name == name else f"'@{inner.name}', a saved query"),
                hint=f"Save it again: clipsearch query save {name} QUERY...",
            )
    return tuple(replace(own, saved=name) for own in scaled(kept[name].parts, part.weight))


def require_no_query(name: str) -> None:
    """Raise UsageError if a saved query already has the name of a new probe, and StoreError."""
    if name in everything():
        raise UsageError(
            f"there is a saved query '{name}', so @{name} would be ambiguous",
            hint=f"Give the probe another name, or run: clipsearch query remove {name}",
        )


def lasting(query: Query) -> Query:
    """Make a query independent of the current folder: give its images absolute paths.

    Raises UsageError for an image that is not a file.
    """
    return Query(tuple(map(_lasting, query.parts)))


def _lasting(part: Part) -> Part:
    if not isinstance(part, Image | Stored):
        return part
    if isinstance(part, Stored) or not Path(part.path).is_file():
        raise UsageError(f"'{part}' is not a file", hint="Give the path of the image.")
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
                f"'{part}' is an image id in a single collection",
                hint="Give the path of the image.",
            )


def _probes() -> dict[str, Path]:
    """The probes of all known and readable indexes, each with its folder."""
    found: dict[str, Path] = {}
    here = known.holding(Path().resolve())
    for directory in {*known.remembered(), *([here] if here else [])}:
        with suppress(StoreError, OSError), Store.open(directory) as store:
            found |= dict.fromkeys(probes.names(store), store.root)
    return found


def unknown(name: str) -> UsageError:
    """The error to raise for a name without a query."""
    names = ", ".join(everything())
    return UsageError(
        f"there is no saved query '{shortened(name)}'{did_you_mean(name, everything())}",
        hint=(f"Saved queries: {names}. " if names else "")
        + "Save one with: clipsearch query save NAME QUERY",
    )


@contextmanager
def _changing() -> Iterator[dict[str, Query]]:
    """The saved queries, for one process at a time to change; written unless an error is raised."""
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
