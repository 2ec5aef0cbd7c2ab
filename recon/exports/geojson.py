"""The path as GeoJSON (RFC 7946), for maps that know where they are in the world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recon.core.errors import MapError
from recon.core.files import write_atomically
from recon.core.geodesy import latitude_longitude_height
from recon.store.map import ReconstructedMap


def write_geojson(reconstruction: ReconstructedMap, path: Path) -> None:
    """One line with a vertex for every frame with a pose: longitude, latitude and height in WGS 84.

    Raises MapError for a map whose axes are not east, north and up of a known place, and OutputError if ``path`` cannot
    be written.
    """
    metric, frames = reconstruction.metric, reconstruction.posed
    if metric is None or metric.origin is None:
        raise MapError(
            f"Nothing says where in the world {reconstruction.folder} lies. Use recon scale with --gps or --track."
        )
    fixes = [latitude_longitude_height(frame.world_from_cam.translation, metric.origin) for frame in frames]
    line = [[round(longitude, 9), round(latitude, 9), round(height, 3)] for latitude, longitude, height in fixes]
    feature: dict[str, Any] = {
        "type": "Feature",
        "geometry": {"type": "LineString", "coordinates": line},
        "properties": {
            "metric": str(metric),
            "names": [frame.name for frame in frames],
            "timestamps": [frame.timestamp for frame in frames],
        },
    }
    text = json.dumps({"type": "FeatureCollection", "features": [feature]}, indent=1)
    write_atomically(path, lambda file: file.write(text.encode()))
