"""Queries that a person saved under a name, for any of their collections."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from clipsearch import typed
from clipsearch.errors import StoreError, UsageError
from clipsearch.paths import data_dir, held, write_whole
from clipsearch.search.query import Part, Query
from clipsearch.text import did_you_mean

_PATIENCE = 10.0
"""Seconds to wait for others who change the queries, each for a moment."""


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
        listed = typed.from_json(Mapping[str, tuple[Part, ...]], text)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StoreError(
            f"cannot read the saved queries in {_file()}: {error}", hint="Mend or delete the file."
        ) from error
    return {name: Query(listed[name]) for name in sorted(listed)}


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
            listed = {name: [asdict(part) for part in query.parts] for name, query in kept.items()}
            write_whole(_file(), json.dumps(listed, indent=1).encode())
    except OSError as error:
        raise StoreError(f"cannot write {_file()}: {error.strerror or error}") from error


def _file() -> Path:
    return data_dir() / "queries.json"
