"""The dense cloud as a binary PLY file, thinned by a voxel grid and written batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from recon.core.errors import MapError, OutputError
from recon.core.files import write_atomically
from recon.core.projection import points_in_camera
from recon.core.similarity import Array, Sim3
from recon.core.types import FrameGeometry, Image
from recon.exports.cleaning import PosedGeometry, own_depth, surfaces, survey
from recon.exports.normals import depth_normals
from recon.settings import CloudSettings
from recon.store.map import ReconstructedMap

POSITION = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
NORMAL = [("nx", "<f4"), ("ny", "<f4"), ("nz", "<f4")]
COLOUR = [("red", "u1"), ("green", "u1"), ("blue", "u1")]
CONFIDENCE = [("confidence", "<f4")]
PLAIN_VERTEX = np.dtype(POSITION + COLOUR + CONFIDENCE)
VERTEX = np.dtype(POSITION + NORMAL + COLOUR + CONFIDENCE)
TYPE_NAMES = {"f4": "float", "u1": "uchar"}
BATCH_POINTS = 2_000_000
KEY_BITS = 21
LONGEST_HEADER = 1000  # bytes


@dataclass(frozen=True, eq=False)
class CloudPoints:
    """Points of the world. positions: (points, 3). colours: (points, 3) in 0..255. confidence: (points,) in 0..1.

    normals: (points, 3) of length 1, towards the camera that saw the point; None where they are not known.
    """

    positions: Array
    colours: Array | Image
    confidence: Array
    normals: Array | None = None


def write_ply(reconstruction: ReconstructedMap, path: Path, settings: CloudSettings | None = None) -> int:
    """Write the cloud of all depth maps as ``x y z nx ny nz red green blue confidence``; returns the number of points.

    Points of one batch of frames that share a voxel become their mean, weighted by confidence; a later batch only fills
    voxels that are still empty. Depth with a confidence of 0 is left out, as is depth that ``settings`` removes. If
    there are too many points, the voxel doubles until they fit, so that memory is bounded by one batch and 16 bytes per
    written point. Points over a million voxels away from the origin are left out. Raises OutputError if ``path`` cannot
    be written or has another suffix, and MapError if a submap is damaged.
    """
    if path.suffix.lower() != ".ply":
        raise OutputError(f"A PLY file ends in .ply, got {path}. Use --out {path.with_suffix('.ply')}.")
    settings = settings or CloudSettings()
    known = survey(own_depth(reconstruction))
    edge = settings.voxel or known.footprint
    count = 0

    def write(file: IO[bytes]) -> None:
        nonlocal edge, count
        written = None
        while written is None:
            cloud = surfaces(reconstruction, known, settings)
            written = _write_cloud(file, cloud, edge, settings.max_points, str(reconstruction.metric or ""))
            edge *= 2
        count = written

    write_atomically(path, write)
    return count


def frame_points(geometry: FrameGeometry, world_from_cam: Sim3) -> CloudPoints:
    """The depth map as points of the world with normals, without pixels of confidence 0."""
    kept = (geometry.depth > 0) & (geometry.confidence > 0)
    rows, columns = np.nonzero(kept)
    normals_cam = depth_normals(np.where(kept, geometry.depth, np.float32(0)), geometry.intrinsics)[kept]
    return CloudPoints(
        positions=world_from_cam.apply(points_in_camera(geometry, rows, columns)),
        colours=geometry.colour[kept],
        confidence=geometry.confidence[kept].astype(np.float64),
        normals=normals_cam @ world_from_cam.rotation.T,
    )


def write_points(file: IO[bytes], points: CloudPoints) -> None:
    """Write a whole PLY file of ``points`` with the columns of the cloud, without normals if there are none."""
    vertices = _vertices(points)
    file.write(_header(len(vertices), vertices.dtype))
    file.write(vertices.tobytes())


def read_points(path: Path, most: int | None = None) -> CloudPoints:
    """Read a PLY file that ``write_ply`` wrote, or ``most`` of its points, drawn at random, but always the same ones.

    Raises MapError for any other file, naming it.
    """
    vertices = mapped_vertices(path)
    if most is not None and len(vertices) > most:
        vertices = vertices[np.sort(np.random.default_rng(0).choice(len(vertices), most, replace=False))]
    return CloudPoints(
        positions=np.stack([vertices[axis] for axis in ("x", "y", "z")], axis=1).astype(np.float64),
        colours=np.stack([vertices[channel] for channel in ("red", "green", "blue")], axis=1),
        confidence=vertices["confidence"].astype(np.float64),
        normals=np.stack([vertices[axis] for axis in ("nx", "ny", "nz")], axis=1).astype(np.float64),
    )


def mapped_vertices(path: Path) -> NDArray[np.void]:
    """The vertices of a PLY file that ``write_ply`` wrote, left on disk. Raises MapError for any other file."""
    try:
        header, size = _read_header(path), path.stat().st_size
    except OSError as error:
        raise MapError(f"Cannot read {path}: {error.strerror}. Rebuild it with: recon export --to ply") from error
    count, rest = divmod(size - len(header), VERTEX.itemsize)
    lines = [line for line in _header(count).splitlines() if not line.startswith(b"comment")]
    found = [line for line in header.splitlines() if not line.startswith(b"comment")]
    if found != lines or rest:
        raise MapError(f"{path} is truncated, or not a cloud of this program. Rebuild it with: recon export --to ply")
    return np.memmap(path, VERTEX, "r", len(header), count) if count else np.zeros(0, VERTEX)


def _read_header(path: Path) -> bytes:
    """The header of a PLY file to its end; what a file begins with that has none. Raises OSError."""
    with path.open("rb") as file:
        return b"".join(file.read(LONGEST_HEADER).partition(b"end_header\n")[:2])


def stated_unit(path: Path) -> str:
    """What a cloud that ``write_ply`` wrote says about metres; empty if it is in a map's own unit."""
    lines = _read_header(path).decode("ascii", errors="replace").splitlines()
    return next((line.removeprefix("comment ") for line in lines if line.startswith("comment metres")), "")


def _header(count: int, vertex: np.dtype[np.void] = VERTEX, unit: str = "") -> bytes:
    """The header, of a fixed length: a streamed cloud overwrites it once the number of points is known.

    unit: a comment.
    """
    padding = "-" * (20 - len(str(count)))
    comments = [f"comment {text}" for text in (padding, unit) if text]
    lines = ["ply", "format binary_little_endian 1.0", *comments, f"element vertex {count}"]
    return "\n".join([*lines, *properties(vertex), "end_header\n"]).encode("ascii")


def properties(vertex: np.dtype[np.void]) -> list[str]:
    """The header's lines for the columns of a vertex."""
    return [f"property {TYPE_NAMES[column[0].str[1:]]} {name}" for name, column in (vertex.fields or {}).items()]


def _write_cloud(
    file: IO[bytes], frames: Iterable[PosedGeometry], voxel: float, max_points: int, unit: str
) -> int | None:
    """Write header and points; None if there are more than ``max_points`` voxels."""
    file.seek(0)
    file.truncate()
    file.write(_header(0, unit=unit))
    occupied, seen = np.zeros(0, dtype=np.int64), 0
    for batch in _batches(frames):
        seen += len(batch.positions)
        thinned, keys = thin(batch, voxel)
        new = ~np.isin(keys, occupied, assume_unique=True)
        occupied = np.sort(np.concatenate([occupied, keys[new]]))
        if len(occupied) > max_points:
            return None
        file.write(_vertices(thinned)[new].tobytes())
    if seen and not len(occupied):
        raise MapError("All of the map lies too far from the origin to be written as a cloud.")
    file.seek(0)
    file.write(_header(len(occupied), unit=unit))
    return len(occupied)


def _batches(frames: Iterable[PosedGeometry]) -> Iterator[CloudPoints]:
    waiting: list[CloudPoints] = []
    for frame, geometry in frames:
        waiting.append(frame_points(geometry, frame.world_from_cam))
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
        np.concatenate([part.normals for part in parts if part.normals is not None]),
    )


def thin(points: CloudPoints, voxel: float) -> tuple[CloudPoints, NDArray[np.int64]]:
    """One point per occupied voxel, the mean weighted by confidence, with the sorted keys of these voxels."""
    cells = np.floor(points.positions / voxel)
    near = np.abs(cells + 0.5).max(axis=1, initial=0) < 1 << (KEY_BITS - 1)
    shifted = cells[near].astype(np.int64) + (1 << (KEY_BITS - 1))
    packed = (shifted[:, 0] << 2 * KEY_BITS) | (shifted[:, 1] << KEY_BITS) | shifted[:, 2]
    order = np.argsort(packed)
    packed = packed[order]
    starts = np.flatnonzero(np.r_[True, packed[1:] != packed[:-1]][: len(packed)])
    rows = np.flatnonzero(near)[order]
    weights = points.confidence[rows]
    totals = np.add.reduceat(weights, starts)

    def mean(values: Array) -> Array:
        return np.asarray(np.add.reduceat(weights * values[rows], starts) / totals)

    def means(values: Array | Image) -> Array:
        return np.stack([mean(column) for column in values.T], axis=1)

    normals = None if points.normals is None else _unit(means(points.normals))
    thinned = CloudPoints(means(points.positions), means(points.colours), mean(points.confidence), normals)
    return thinned, packed[starts]


def _unit(normals: Array) -> Array:
    return np.asarray(normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9))


def _vertices(points: CloudPoints) -> NDArray[np.void]:
    vertices = np.empty(len(points.positions), dtype=PLAIN_VERTEX if points.normals is None else VERTEX)
    vertices["x"], vertices["y"], vertices["z"] = points.positions.T
    if points.normals is not None:
        vertices["nx"], vertices["ny"], vertices["nz"] = points.normals.T
    vertices["red"], vertices["green"], vertices["blue"] = np.round(points.colours).astype(np.uint8).T
    vertices["confidence"] = points.confidence
    return vertices


def linear(colours: Array) -> Array:
    """Linear colours (n, 3) in 0..1 from sRGB colours in 0..1 (IEC 61966-2-1)."""
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
