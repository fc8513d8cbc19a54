"""Turn JSON back into records, and check every value against its annotation.

JSON stored in an index can be valid and still be wrong: damaged, edited by hand, or from another
program. Unchecked, it would fail far from here and look like a bug. Libraries that check this much
take too long to import for a query.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

_LARGEST = 2**63
"""One more than the largest integer that SQLite and numpy can hold."""


def from_json(kind: Any, text: str | bytes) -> Any:
    """Parse JSON text into an instance of ``kind``: see ``record``. Raises ValueError."""
    try:
        values = json.loads(text)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not JSON text: {error}") from error
    return _built(kind, values, "it")


def record(kind: Any, values: Any, **parts: Any) -> Any:
    """An instance of the dataclass ``kind`` with the values of a JSON object.

    kind: its fields are texts, 64-bit integers, finite floats, None, Any, literals, unions,
    tuples, mappings with texts or integers as keys, and such dataclasses. parts: fields that
    are already built and not in ``values``. Raises ValueError, naming the place, for a value of the
    wrong type and for a missing or unknown field.
    """
    return _record(kind, values, "it", parts)


def _built(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _record(kind, value, where, {})
    if kind is float and type(value) is int and abs(value) < _LARGEST:
        return float(value)  # JSON has one kind of number
    if kind in (str, int, float, NoneType) and _is(kind, value):
        return value
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal and value in parts:
        return value
    if origin is tuple and isinstance(value, list):
        return _tuple(parts, value, where)
    if origin is Mapping and isinstance(value, dict):
        key, part = parts
        return {_key(key, k, where): _built(part, v, f"{where}.{k}") for k, v in value.items()}
    if origin in (Union, UnionType):
        return _one_of(parts, value, where)
    name = getattr(kind, "__name__", kind)
    raise ValueError(f"{where} is of type {type(value).__name__}, not {name}, or out of its range")


def _is(kind: Any, value: Any) -> bool:
    if type(value) is float:
        return kind is float and math.isfinite(value)
    if type(value) is int:  # not for True, which is a bool
        return kind is int and abs(value) < _LARGEST
    return type(value) is kind


def _record(kind: Any, values: Any, where: str, parts: Mapping[str, Any]) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{where} is not a {kind.__name__}")
    kinds = {field.name: field.type for field in fields(kind)}
    unknown = values.keys() - kinds.keys() | values.keys() & parts.keys()
    if unknown:
        raise ValueError(f"{where} has an unknown field '{min(unknown)}'")
    given = {name: _built(kinds[name], part, f"{where}.{name}") for name, part in values.items()}
    try:
        return kind(**given, **parts)
    except TypeError as error:
        raise ValueError(f"{where} lacks a field: {error}") from error


def _tuple(parts: tuple[Any, ...], values: list[Any], where: str) -> tuple[Any, ...]:
    if parts[-1] is Ellipsis:
        kind = parts[0]
        if kind in (str, float) and all(_is(kind, value) for value in values):
            return tuple(values)  # fast path for thousands of texts or scores: no place names
        parts = (kind,) * len(values)
    if len(parts) != len(values):
        raise ValueError(f"{where} has {len(values)} values, not {len(parts)}")
    pairs = enumerate(zip(parts, values, strict=True))
    return tuple(_built(part, value, f"{where}[{n}]") for n, (part, value) in pairs)


def _key(kind: Any, key: str, where: str) -> Any:
    return int(key) if kind is int else _built(kind, key, where)


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    reasons = []
    for kind in kinds:
        try:
            return _built(kind, value, where)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError("; ".join(reasons))
