"""The dense cloud as LAS 1.4 (ASPRS), or LAZ, its compressed form, for programs of surveyors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO

import laspy
import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from recon.core.errors import MapError, OutputError
from recon.core.files import write_atomically
from recon.core.metric import Metric, Origin
from recon.core.similarity import Array
from recon.exports.ply import mapped_vertices, write_ply
from recon.settings import CloudSettings
from recon.store.map import ReconstructedMap

SUFFIXES = (".las", ".laz")
POINT_FORMAT = 7  # with colours of 16 bits, and coordinate systems as text
MOST_STEPS = 2**31 - 2  # of a coordinate, a whole number of 32 bits
OFFSET_STEPS = 1e8  # between two offsets, at most half the cloud
SAME_COLOUR = 257  # 255 becomes 65535
BATCH_POINTS = 1_000_000
UTM_ZONE, UTM_NORTH, UTM_SOUTH = 6, 32600, 32700  # width [deg], and EPSG codes before the zone's number
UNIT_RECORD = ("recon", 1, "unit and error")  # of the file's own description
EXTRA = {"confidence": "f4", "normal_x": "f4", "normal_y": "f4", "normal_z": "f4"}

Georeference = Callable[[Array], Array]


def write_las(reconstruction: ReconstructedMap, path: Path, settings: CloudSettings | None = None) -> None:
    """Write the points of ``write_ply`` with colour, confidence and normal; a name that ends in .laz is compressed.

    A map that knows where it lies on the Earth is written in UTM, in the zone of its origin, with heights above the
    ellipsoid of WGS 84; its normals stay east, north, up. Others are written in their world, without a coordinate
    system. Coordinates are whole steps of a power of ten, so fine that the whole cloud has two hundred million of them
    or more along its longest side. Raises as ``write_ply``, and OutputError for another suffix than .las and .laz.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(
            f"A LAS file ends in {' or '.join(SUFFIXES)}, got {path}. Use --out {path.with_suffix('.las')}."
        )
    cloud = path.with_name(path.name + ".ply")
    try:
        write_ply(reconstruction, cloud, settings)
        _write(mapped_vertices(cloud), path, reconstruction.metric)
    finally:
        cloud.unlink(missing_ok=True)


def _write(vertices: NDArray[np.void], path: Path, metric: Metric | None) -> None:
    if not len(vertices):
        raise MapError(f"The map has no depth, so there are no points for {path}.")
    crs, placed = georeference(metric)
    header = _header(vertices, crs, placed, str(metric or ""))
    compressed = path.suffix.lower() == ".laz"

    def write(file: IO[bytes]) -> None:
        with laspy.open(file, mode="w", header=header, closefd=False, do_compress=compressed) as out:
            for batch in _batches(vertices):
                out.write_points(_points(batch, placed, header))

    write_atomically(path, write)


def georeference(metric: Metric | None) -> tuple[CRS | None, Georeference]:
    """The coordinate system of a map, None without a known place, and world points (n, 3) in it."""
    if metric is None or metric.origin is None:
        return None, lambda points: points
    latitude, longitude, height = metric.origin
    zone = utm_zone(metric.origin)
    south = " +south" if latitude < 0 else ""
    pipeline = (
        f"+proj=pipeline +step +inv +proj=topocentric +ellps=WGS84 +lat_0={latitude!r} +lon_0={longitude!r} "
        f"+h_0={height!r} +step +inv +proj=cart +ellps=WGS84 +step +proj=utm +zone={zone}{south} +ellps=WGS84"
    )
    transformer = Transformer.from_pipeline(pipeline)
    crs = CRS.from_epsg((UTM_SOUTH if latitude < 0 else UTM_NORTH) + zone)
    return crs, lambda points: np.stack(transformer.transform(*points.T), axis=1)


def utm_zone(origin: Origin) -> int:
    """The number of the zone, 1 to 60, by longitude alone."""
    return int((origin[1] + 180) // UTM_ZONE) % 60 + 1


def _header(vertices: NDArray[np.void], crs: CRS | None, placed: Georeference, unit: str) -> laspy.LasHeader:
    header = laspy.LasHeader(version="1.4", point_format=POINT_FORMAT)
    bounds = [(points.min(axis=0), points.max(axis=0)) for points in map(placed, map(_positions, _batches(vertices)))]
    low, high = np.min([low for low, _ in bounds], axis=0), np.max([high for _, high in bounds], axis=0)
    step = 10.0 ** np.ceil(np.log10(max(float((high - low).max()), 1e-9) / MOST_STEPS))
    header.offsets = np.round((low + high) / 2 / (OFFSET_STEPS * step)) * OFFSET_STEPS * step
    header.scales = np.full(3, step)
    header.generating_software = "recon"
    header.add_extra_dims([laspy.ExtraBytesParams(name, kind) for name, kind in EXTRA.items()])
    if unit:
        header.vlrs.append(laspy.VLR(*UNIT_RECORD, unit.encode("ascii")))
    if crs:
        header.add_crs(crs)
    return header


def _batches(vertices: NDArray[np.void]) -> list[NDArray[np.void]]:
    return [vertices[start : start + BATCH_POINTS] for start in range(0, len(vertices), BATCH_POINTS)]


def _positions(vertices: NDArray[np.void]) -> Array:
    return np.stack([vertices[axis] for axis in "xyz"], axis=1).astype(np.float64)


def _points(vertices: NDArray[np.void], placed: Georeference, header: laspy.LasHeader) -> laspy.ScaleAwarePointRecord:
    points = laspy.ScaleAwarePointRecord.zeros(len(vertices), header=header)
    points.x, points.y, points.z = placed(_positions(vertices)).T
    for name in ("red", "green", "blue"):
        points[name] = vertices[name].astype(np.uint16) * SAME_COLOUR
    for name, column in zip(EXTRA, ("confidence", "nx", "ny", "nz"), strict=True):
        points[name] = vertices[column]
    return points
