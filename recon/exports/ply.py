"""The dense cloud as a binary PLY file, thinned by a voxel grid and written batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from recon.errors import MapError
from recon.similarity import Array, Sim3
from recon.store import ReconstructedMap, write_atomically
from recon.types import FrameGeometry, Image

VERTEX = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1"), ("confidence", "<f4")]
)
PROPERTIES = (
    *(f"property float {name}" for name in "xyz"),
    *(f"property uchar {name}" for name in ("red", "green", "blue")),
    "property float confidence",
)
BATCH_POINTS = 2_000_000
KEY_BITS = 21


@dataclass(frozen=True, eq=False)
class CloudPoints:
    """Points of the world. positions: (points, 3). colours: (points, 3) in 0..255. confidence: (points,) in 0..1."""

    positions: Array
    colours: Array | Image
    confidence: Array


def write_ply(
    reconstruction: ReconstructedMap,
    path: Path,
    voxel: float | None = None,
    min_confidence: float = 0.0,
    max_points: int = 10_000_000,
) -> int:
    """Write the cloud of all depth maps as ``x y z red green blue confidence`` and return the number of points.

    voxel: edge of the grid that thins the cloud, in world units; by default twice the median size of a depth pixel on
    the surface. Points of one batch of frames that share a voxel become their mean, weighted by confidence; a later
    batch only fills voxels that are still empty. Depth with a confidence of 0 or below ``min_confidence`` is left
    out. When more than ``max_points`` would be written, the voxel doubles until they fit, so that memory is bounded by
    one batch and 16 bytes per written point. Points over a million voxels away from the origin are left out.
    Raises OutputError when ``path`` cannot be written and MapError when a submap is damaged.
    """
    edge = voxel or 2 * median_footprint(reconstruction)
    count = 0

    def write(file: IO[bytes]) -> None:
        nonlocal edge, count
        while (written := _write_cloud(file, reconstruction, edge, min_confidence, max_points)) is None:
            edge *= 2
        count = written

    write_atomically(path, write)
    return count


def median_footprint(reconstruction: ReconstructedMap) -> float:
    """Median over the frames of the size of a depth pixel on the surface, in world units; 1 where there is no depth."""
    sizes = [
        frame.world_from_cam.scale * float(np.median(geometry.depth[geometry.depth > 0])) / geometry.intrinsics[0, 0]
        for frame, geometry in reconstruction.geometry()
        if (geometry.depth > 0).any()
    ]
    return float(np.median(sizes)) if sizes else 1.0


def frame_points(geometry: FrameGeometry, world_from_cam: Sim3, min_confidence: float = 0.0) -> CloudPoints:
    """The depth map as points of the world, without pixels of confidence 0 or below ``min_confidence``."""
    kept = (geometry.depth > 0) & (geometry.confidence > 0) & (geometry.confidence >= min_confidence)
    rows, columns = np.nonzero(kept)
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], axis=1)
    rays = pixels @ np.linalg.inv(geometry.intrinsics).T
    points_cam = rays * geometry.depth[kept][:, None].astype(np.float64)
    confidence = geometry.confidence[kept].astype(np.float64)
    return CloudPoints(world_from_cam.apply(points_cam), geometry.colour[kept], confidence)


def write_points(file: IO[bytes], points: CloudPoints) -> None:
    """Write a whole PLY file of ``points`` with the columns of the cloud."""
    file.write(_header(len(points.positions)))
    file.write(_vertices(points).tobytes())


def read_points(path: Path) -> CloudPoints:
    """Read a PLY file that ``write_ply`` or ``write_points`` wrote. Raises MapError for any other, naming it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MapError(f"Cannot read {path}: {error.strerror}. Write it again with: recon export --to ply") from error
    header, end, body = content.partition(b"end_header\n")
    count = len(body) // VERTEX.itemsize
    lines = [line for line in _header(count).splitlines() if not line.startswith(b"comment")]
    found = [line for line in (header + end).splitlines() if not line.startswith(b"comment")]
    if found != lines or len(body) % VERTEX.itemsize:
        raise MapError(f"{path} is truncated, or no cloud of this program. Write it again with: recon export --to ply")
    vertices = np.frombuffer(body, dtype=VERTEX)
    return CloudPoints(
        positions=np.stack([vertices[axis] for axis in "xyz"], axis=1).astype(np.float64),
        colours=np.stack([vertices[channel] for channel in ("red", "green", "blue")], axis=1),
        confidence=vertices["confidence"].astype(np.float64),
    )


def _header(count: int) -> bytes:
    """The header, as long for any ``count``: the streamed cloud overwrites it once the number of points is known."""
    padding = "-" * (20 - len(str(count)))
    lines = ["ply", "format binary_little_endian 1.0", f"comment {padding}", f"element vertex {count}"]
    return "\n".join([*lines, *PROPERTIES, "end_header\n"]).encode("ascii")


def _write_cloud(
    file: IO[bytes], reconstruction: ReconstructedMap, voxel: float, min_confidence: float, max_points: int
) -> int | None:
    """Write header and points; None when there are more than ``max_points`` voxels."""
    file.seek(0)
    file.truncate()
    file.write(_header(0))
    occupied = np.zeros(0, dtype=np.int64)
    for batch in _batches(reconstruction, min_confidence):
        thinned, keys = _thin(batch, voxel)
        new = ~np.isin(keys, occupied, assume_unique=True)
        occupied = np.union1d(occupied, keys)
        if len(occupied) > max_points:
            return None
        file.write(_vertices(thinned)[new].tobytes())
    file.seek(0)
    file.write(_header(len(occupied)))
    return len(occupied)


def _batches(reconstruction: ReconstructedMap, min_confidence: float) -> Iterator[CloudPoints]:
    waiting: list[CloudPoints] = []
    for frame, geometry in reconstruction.geometry():
        waiting.append(frame_points(geometry, frame.world_from_cam, min_confidence))
        if sum(len(points.positions) for points in waiting) >= BATCH_POINTS:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[CloudPoints]) -> CloudPoints:
    return CloudPoints(
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.colours for part in parts]),
        np.concatenate([part.confidence for part in parts]),
    )


def _thin(points: CloudPoints, voxel: float) -> tuple[CloudPoints, NDArray[np.int64]]:
    """One point per occupied voxel, the mean weighted by confidence, with the sorted keys of these voxels."""
    cells = np.floor(points.positions / voxel)
    near = np.abs(cells + 0.5).max(axis=1, initial=0) < 1 << (KEY_BITS - 1)
    shifted = cells[near].astype(np.int64) + (1 << (KEY_BITS - 1))
    packed = (shifted[:, 0] << 2 * KEY_BITS) | (shifted[:, 1] << KEY_BITS) | shifted[:, 2]
    keys, voxel_of = np.unique(packed, return_inverse=True)
    weights = points.confidence[near]
    totals = np.bincount(voxel_of, weights, len(keys))

    def mean(values: Array) -> Array:
        return np.asarray(np.bincount(voxel_of, weights * values[near], len(keys)) / totals)

    positions = np.stack([mean(column) for column in points.positions.T], axis=1)
    colours = np.stack([mean(column) for column in points.colours.T], axis=1)
    return CloudPoints(positions, colours, mean(points.confidence)), keys


def _vertices(points: CloudPoints) -> NDArray[np.void]:
    vertices = np.empty(len(points.positions), dtype=VERTEX)
    vertices["x"], vertices["y"], vertices["z"] = points.positions.T
    vertices["red"], vertices["green"], vertices["blue"] = np.round(points.colours).astype(np.uint8).T
    vertices["confidence"] = points.confidence
    return vertices
