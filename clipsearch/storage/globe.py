"""Distances on the globe."""

from math import asin, cos, radians, sin, sqrt

_RADIUS_KM = 6371.0088
"""The Earth's mean radius (IUGG); a sphere of it errs by half a percent at most."""


def distance_km(
    latitude: float, longitude: float, other_latitude: float, other_longitude: float
) -> float:
    """The great-circle distance of two places in degrees, in kilometres (haversine)."""
    one, two = radians(latitude), radians(other_latitude)
    north, east = sin((two - one) / 2), sin(radians(other_longitude - longitude) / 2)
    # Rounding can take the sum of two places opposite each other past 1.
    return 2 * _RADIUS_KM * asin(sqrt(min(1.0, north**2 + cos(one) * cos(two) * east**2)))
