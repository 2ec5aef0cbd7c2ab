"""Arrays to draw: thinned points of a submap, camera frusta, colours along the path, small images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.errors import MapError
from recon.core.projection import points_in_chunk
from recon.core.similarity import Array, Sim3
from recon.core.types import Camera, FrameGeometry, Image
from recon.exports.ply import CloudPoints, read_points
from recon.mapping.world import median_depth
from recon.sources.base import working_image

# The four edges of the image plane and the four to the camera centre, drawn in one stroke.
_FRUSTUM_STROKE = (0, 1, 2, 3, 0, 4, 1, 2, 4, 3)
OVERSAMPLING = 10
SHOWN = 98  # percentile of the distances from the middle of a cloud that are shown


def thin_points(frames: Sequence[FrameGeometry], budget: int, seed: int) -> tuple[Array, Image]:
    """At most ``budget`` points (points, 3) in chunk coordinates with their colours (points, 3), one per voxel.

    A voxel starts with the size of a pixel on the surface and grows until the budget is met. The point that represents
    it is chosen as in ``sample_points``.
    """
    positions, colours = sample_points(frames, OVERSAMPLING * budget, seed)
    edge = median_depth(frames) / frames[0].intrinsics[0, 0] if frames else 1.0
    kept = one_per_voxel(positions, edge)
    while len(kept) > max(budget, 8):  # a grid has eight voxels around its origin, however large
        edge *= 1.05 * math.sqrt(len(kept) / max(budget, 8))
        kept = one_per_voxel(positions, edge)
    kept = kept[:budget]
    return positions[kept], colours[kept]


def one_per_voxel(positions: Array, edge: float) -> NDArray[np.intp]:
    """Rows of the first point (points, 3) in each occupied voxel of a grid."""
    if not len(positions):
        return np.zeros(0, dtype=np.intp)
    cells = np.floor(positions / edge)
    cells -= cells.min(axis=0)
    sides = cells.max(axis=0) + 1
    return np.unique((cells[:, 0] * sides[1] + cells[:, 1]) * sides[2] + cells[:, 2], return_index=True)[1]


def sample_points(frames: Sequence[FrameGeometry], budget: int, seed: int) -> tuple[Array, Image]:
    """At most ``budget`` points (points, 3) in chunk coordinates with their colours (points, 3).

    Every frame contributes an equal share, sampled without replacement and in proportion to confidence, so that
    doubtful depth fades out instead of being cut off. The same seed gives the same points.
    """
    generator = np.random.default_rng(seed)
    share = budget // max(len(frames), 1)
    sampled = [_sample_frame(frame, share, generator) for frame in frames]
    if not sampled:
        return np.zeros((0, 3)), np.zeros((0, 3), dtype=np.uint8)
    positions, colours = zip(*sampled, strict=True)
    return np.concatenate(positions), np.concatenate(colours)


def _sample_frame(frame: FrameGeometry, count: int, generator: np.random.Generator) -> tuple[Array, Image]:
    weights = np.where(frame.depth > 0, frame.confidence, 0).ravel().astype(np.float64)
    usable = int(np.count_nonzero(weights))
    if usable == 0:
        return np.zeros((0, 3)), np.zeros((0, 3), dtype=np.uint8)
    chosen = generator.choice(weights.size, min(count, usable), replace=False, p=weights / weights.sum())
    rows, columns = np.unravel_index(chosen, frame.depth.shape)
    return points_in_chunk(frame, rows, columns), frame.colour[rows, columns]


def frustum(camera: Camera, world_from_cam: Sim3, length: float) -> Array:
    """One line (10, 3) in the world that draws a camera's field of view, ``length`` world units deep."""
    corners = np.array([[0, 0, 1], [camera.width, 0, 1], [camera.width, camera.height, 1], [0, camera.height, 1]])
    rays = corners @ np.linalg.inv(camera.matrix()).T
    shape = np.vstack([rays * (length / world_from_cam.scale), np.zeros(3)])
    return world_from_cam.apply(shape)[list(_FRUSTUM_STROKE)]


def colours_along(count: int) -> Image:
    """Colours (count, 3) that run from the start of the path (dark purple) to its end (yellow)."""
    ramp = np.linspace(0, 255, max(count, 1)).astype(np.uint8)
    rgb = cv2.cvtColor(cv2.applyColorMap(ramp, cv2.COLORMAP_PLASMA), cv2.COLOR_BGR2RGB)
    return np.asarray(rgb, dtype=np.uint8).reshape(-1, 3)[:count]


def shrink(frame: FrameGeometry, longest: int) -> tuple[Image, NDArray[np.float32], NDArray[np.float32], Array]:
    """Colour, depth, confidence and intrinsics of a frame, reduced by an integer factor to ``longest`` pixels."""
    height, width = frame.depth.shape
    factor = math.ceil(max(height, width) / longest)
    size = (math.ceil(width / factor), math.ceil(height / factor))
    colour = np.asarray(cv2.resize(frame.colour, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    scale = np.diag([size[0] / width, size[1] / height, 1.0])
    every = slice(None, None, factor)
    return colour, frame.depth[every, every], frame.confidence[every, every], scale @ frame.intrinsics


def read_small(path: Path, longest: int) -> Image | None:
    """An image file (h, w, 3), reduced to at most ``longest`` pixels a side; None if it cannot be read."""
    stored = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) if path.is_file() else None
    return None if stored is None else working_image(np.asarray(stored, dtype=np.uint8), longest)


def read_cloud(path: Path, most: int) -> CloudPoints | None:
    """At most ``most`` points of a run's cloud, without its outermost ones; None if there is no readable cloud."""
    try:
        cloud = read_points(path, most)
    except MapError:
        return None
    if not len(cloud.positions):
        return None
    near = central(cloud.positions)
    return CloudPoints(cloud.positions[near], cloud.colours[near], cloud.confidence[near])


def central(positions: Array) -> NDArray[np.bool_]:
    """Which points (n, 3) are not among the outermost ones."""
    distance = np.linalg.norm(positions - np.median(positions, axis=0), axis=1)
    return np.asarray(distance <= np.percentile(distance, SHOWN))
