"""Queries that a person saved under a name, for any of their collections."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from clipsearch.errors import StoreError, UsageError
from clipsearch.names import did_you_mean
from clipsearch.places import data_dir, write_whole
from clipsearch.queries import Part, Query


def save(name: str, query: Query) -> None:
    """Keep a query under a name, in place of an earlier one. Raises UsageError, StoreError."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(
            f"'{name}' is no name for a query", hint="Use letters, digits, and - _ . between them."
        )
    _write({**everything(), name: query})


def remove(name: str) -> None:
    """Forget a query. Raises UsageError if there is none of that name, and StoreError."""
    kept = dict(everything())
    if kept.pop(name, None) is None:
        raise unknown(name)
    _write(kept)


def everything() -> Mapping[str, Query]:
    """All saved queries by name, in the order of the names.

    Raises StoreError if the file that they are in is damaged: saving another would lose them.
    """
    try:
        listed = json.loads(_file().read_text(encoding="utf-8"))
        return {
            name: Query(tuple(Part(**part) for part in listed[name])) for name in sorted(listed)
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreError(
            f"cannot read the saved queries in {_file()}: {error}", hint="Mend or delete the file."
        ) from error


def unknown(name: str) -> UsageError:
    """What to raise for a name that no query has."""
    names = ", ".join(everything())
    return UsageError(
        f"there is no saved query '{name}'{did_you_mean(name, everything())}",
        hint=(f"There are: {names}. " if names else "")
        + "Save one with: clipsearch query save NAME QUERY",
    )


def _write(kept: Mapping[str, Query]) -> None:
    listed = {name: [asdict(part) for part in query.parts] for name, query in kept.items()}
    try:
        write_whole(_file(), json.dumps(listed, indent=1).encode())
    except OSError as error:
        raise StoreError(f"cannot write {_file()}: {error.strerror}") from error


def _file() -> Path:
    return data_dir() / "queries.json"
