"""Places on the Earth in WGS 84, and metres east, north and up of an origin."""

from __future__ import annotations

import numpy as np

from recon.core.metric import Origin
from recon.core.similarity import Array

EQUATOR, FLATTENING = 6_378_137.0, 1 / 298.257223563  # radius [m], flattening
SQUARED = FLATTENING * (2 - FLATTENING)  # eccentricity
ROUNDS = 5  # each makes the latitude about 100 times as exact


def middle(fixes: Array) -> Origin:
    """The median of places (n, 3), on either side of the 180th meridian as well."""
    first = fixes[0, 1]
    longitudes = first + (fixes[:, 1] - first + 180) % 360 - 180
    longitude = (float(np.median(longitudes)) + 180) % 360 - 180
    return float(np.median(fixes[:, 0])), longitude, float(np.median(fixes[:, 2]))


def east_north_up(fix: Origin, origin: Origin) -> Array:
    """Metres (3,) east, north and up of the origin, in axes that are fixed there."""
    return np.asarray(_local_from_earth(origin) @ (_earth_centred(fix) - _earth_centred(origin)))


def latitude_longitude_height(metres: Array, origin: Origin) -> Origin:
    """The place that lies metres (3,) east, north and up of the origin: the inverse of ``east_north_up``."""
    x, y, z = (_earth_centred(origin) + _local_from_earth(origin).T @ metres).tolist()
    away = float(np.hypot(x, y))
    latitude, height = np.arctan2(z, away * (1 - SQUARED)), 0.0
    for _ in range(ROUNDS):
        radius = EQUATOR / np.sqrt(1 - SQUARED * np.sin(latitude) ** 2)
        height = away * np.cos(latitude) + z * np.sin(latitude) - EQUATOR**2 / radius
        latitude = np.arctan2(z, away * (1 - SQUARED * radius / (radius + height)))
    return float(np.degrees(latitude)), float(np.degrees(np.arctan2(y, x))), float(height)


def _local_from_earth(origin: Origin) -> Array:
    latitude, longitude = np.radians(origin[:2])
    s_lat, c_lat, s_lon, c_lon = np.sin(latitude), np.cos(latitude), np.sin(longitude), np.cos(longitude)
    return np.array(
        [[-s_lon, c_lon, 0], [-s_lat * c_lon, -s_lat * s_lon, c_lat], [c_lat * c_lon, c_lat * s_lon, s_lat]]
    )


def _earth_centred(fix: Origin) -> Array:
    """Earth-centred, earth-fixed coordinates (3,) [m]."""
    (latitude, longitude), height = np.radians(fix[:2]), fix[2]
    radius = EQUATOR / np.sqrt(1 - SQUARED * np.sin(latitude) ** 2)
    level = (radius + height) * np.cos(latitude)
    return np.array(
        [level * np.cos(longitude), level * np.sin(longitude), (radius * (1 - SQUARED) + height) * np.sin(latitude)]
    )
