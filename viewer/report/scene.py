"""What the report draws of the map: its cloud, its path, and some of its frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from recon.core.errors import MapError
from recon.core.similarity import Array
from recon.core.types import FrameGeometry, Image, PlacedFrame
from recon.exports.ply import CloudPoints, read_points
from recon.store.map import ReconstructedMap

MOST_POINTS = 250_000
FRAMES_SHOWN = 8
THUMBNAIL = 320  # px
VIEWED = 98  # percentile of the distances from the middle of the cloud that are shown
NO_DEPTH = 40  # grey level


@dataclass(frozen=True, eq=False)
class Level:
    """A level coordinate frame of the map.

    level_from_world: (3, 3) rotation; x along the longest horizontal extent of the path, y up. Up is the mean of the
    cameras' upward axes, since people hold cameras upright.
    """

    level_from_world: Array

    @classmethod
    def of(cls, frames: Sequence[PlacedFrame]) -> Level:
        """The level frame of a path."""
        up = -np.mean([frame.world_from_cam.rotation[:, 1] for frame in frames], axis=0)
        up = up / np.linalg.norm(up) if np.linalg.norm(up) > 1e-6 else np.array([0.0, -1.0, 0.0])
        centred = centres(frames) - centres(frames).mean(axis=0)
        flat = centred - np.outer(centred @ up, up)
        along = np.linalg.svd(np.vstack([flat, 1e-9 * _any_across(up)]), full_matrices=False)[2][0]
        along = along - (along @ up) * up
        along = along / np.linalg.norm(along)
        return cls(np.stack([along, up, np.cross(along, up)]))


@dataclass(frozen=True, eq=False)
class Shot:
    """Small pictures of one frame. depth: near is bright, pixels without depth are grey. sure: share with depth."""

    name: str
    colour: Image
    depth: Image
    sure: float


def centres(frames: Sequence[PlacedFrame]) -> Array:
    """Camera centres (n, 3) in the world."""
    return np.array([frame.world_from_cam.translation for frame in frames]).reshape(-1, 3)


def read_cloud(path: Path) -> CloudPoints | None:
    """At most MOST_POINTS points of a run's cloud, without its outermost ones; None if there is no readable cloud."""
    try:
        cloud = read_points(path, MOST_POINTS)
    except MapError:
        return None
    if not len(cloud.positions):
        return None
    distance = np.linalg.norm(cloud.positions - np.median(cloud.positions, axis=0), axis=1)
    near = distance <= np.percentile(distance, VIEWED)
    return CloudPoints(cloud.positions[near], cloud.colours[near], cloud.confidence[near])


def shots(reconstruction: ReconstructedMap) -> list[Shot]:
    """FRAMES_SHOWN frames with depth, evenly spread over the source."""
    frames = reconstruction.frames
    rows = np.linspace(0, len(frames) - 1, min(FRAMES_SHOWN, len(frames))).round().astype(int)
    wanted = {frames[row].index for row in rows}
    return [_shot(frame.name, found) for frame, found in reconstruction.geometry() if frame.index in wanted]


def _shot(name: str, found: FrameGeometry) -> Shot:
    known = (found.depth > 0) & (found.confidence > 0)
    inverse = np.where(known, 1 / np.where(known, found.depth, 1), 0)
    low, high = np.percentile(inverse[known], (2, 98)) if known.any() else (0.0, 1.0)
    levels = np.clip((inverse - low) / max(high - low, 1e-12), 0, 1) * 255
    depth = np.array(cv2.applyColorMap(levels.astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1], dtype=np.uint8)
    depth[~known] = NO_DEPTH
    return Shot(name, _small(found.colour), _small(depth), float(known.mean()))


def _small(image: Image) -> Image:
    factor = THUMBNAIL / max(image.shape[:2])
    if factor >= 1:
        return image
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _any_across(up: Array) -> Array:
    """Some direction at right angles to ``up``, for a path without horizontal extent."""
    return np.cross(up, np.eye(3)[np.abs(up).argmin()])
