"""Which images a Filter accepts: checked in SQL as far as possible, then in Python."""

import os
from fnmatch import fnmatchcase
from itertools import islice
from math import asin, cos, radians, sin, sqrt
from typing import Any

import numpy as np

from clipsearch.paths import absolute
from clipsearch.records import EVERYTHING, Filter
from clipsearch.storage import schema
from clipsearch.storage.sqlite import MOST, Database
from clipsearch.storage.vectors.vector_file import Ids

_TAKEN_AT = (
    "coalesce(taken_at, strftime('%Y-%m-%dT%H:%M:%S', mtime_ns / 1000000000, 'unixepoch',"
    " 'localtime'))"
)

_RADIUS_KM = 6371.0088
"""The Earth's mean radius (IUGG); distances on a sphere are off by 0.5% at most."""

_KM_PER_DEGREE = 111.19
"""Kilometers per degree of latitude, rounded down so that rounding leaves out no place."""


def below(folder: bytes) -> tuple[str, tuple[bytes, ...]]:
    """An SQL condition for the paths below a folder, and its values.

    It is a range, so SQLite can use the index on paths.
    """
    if not folder:
        return "1", ()
    return "(path = ? OR (path > ? AND path < ?))", (folder, folder + b"/", folder + b"0")


def ids_among(db: Database, root: bytes, only: Filter) -> Ids:
    """Ids of the good images that a filter accepts, ``(n,)``. root: the root of their paths."""
    where, values = below(only.under)
    near = only.near
    conditions: list[tuple[str, object]] = [
        (f"{_TAKEN_AT} >= ?", only.after),
        (f"{_TAKEN_AT} < ?", only.before),
        ("width >= ?", min(only.min_width, MOST) or None),
        ("height >= ?", min(only.min_height, MOST) or None),
        ("camera <> ?", "" if only.camera is not None else None),
        # No place within the distance is farther north or south than this.
        ("latitude >= ?", near and near.latitude - near.km / _KM_PER_DEGREE),
        ("latitude <= ?", near and near.latitude + near.km / _KM_PER_DEGREE),
    ]
    asked = [(text, value) for text, value in conditions if value is not None]
    where = " AND ".join(["error IS NULL", where, *(text for text, _ in asked)])
    rows = db.rows(
        f"SELECT id, path, camera, latitude, longitude FROM {schema.images(db)} WHERE {where}",
        (*values, *(value for _, value in asked)),
    )
    kept = (id for id, *facts in rows if _lets_through(only, root, id, *facts))
    return np.fromiter(kept, np.int64)


def newest_among(db: Database, root: bytes, only: Filter, most: int) -> list[tuple[str, int]]:
    """The ``most`` images that were taken (or modified) last: their times and ids."""
    among = None if only == EVERYTHING else set(ids_among(db, root, only).tolist())
    rows = db.rows(
        f"SELECT {_TAKEN_AT}, id FROM images WHERE error IS NULL ORDER BY 1 DESC, id DESC"
        + (f" LIMIT {most}" if among is None else "")
    )
    return list(islice((row for row in rows if among is None or row[1] in among), most))


def _lets_through(
    only: Filter, root: bytes, id: int, path: bytes, camera: Any, *place: Any
) -> bool:
    """The checks that SQL cannot do: globs, distances, and paths that are not valid text."""
    return (
        (only.ids is None or id in only.ids)
        and (only.near is None or _is_within(only.near.km, only.near[:2], place))
        and (only.camera is None or _matches(only.camera.casefold(), (camera or "").casefold()))
        and (only.paths is None or absolute(root, path) in only.paths)
        and (not only.suffixes or os.path.splitext(path)[1].lower() in only.suffixes)
        and (only.name is None or _is_named(only.name, path))
    )


def _is_within(km: float, center: tuple[float, float], place: tuple[Any, ...]) -> bool:
    latitude, longitude = place
    if latitude is None or longitude is None:
        return False
    return distance_km(*center, latitude, longitude) <= km


def _matches(asked: str, camera: str) -> bool:
    if any(letter in asked for letter in "*?["):
        return fnmatchcase(camera, asked)
    return asked in camera


def _is_named(glob: str, path: bytes) -> bool:
    name = path if "/" in glob else os.path.basename(path)
    return fnmatchcase(name, os.fsencode(glob))


def distance_km(
    latitude: float, longitude: float, other_latitude: float, other_longitude: float
) -> float:
    """The great-circle distance of two places in degrees, in kilometers (haversine)."""
    one, two = radians(latitude), radians(other_latitude)
    north, east = sin((two - one) / 2), sin(radians(other_longitude - longitude) / 2)
    # For two opposite places, rounding can push the sum past 1.
    return 2 * _RADIUS_KM * asin(sqrt(min(1.0, north**2 + cos(one) * cos(two) * east**2)))
