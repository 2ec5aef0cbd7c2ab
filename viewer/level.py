"""The map on the level: which way is up, and a first view of all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recon.core.similarity import Array
from recon.core.types import PlacedFrame

TILT = np.radians(30)  # from which the first view looks down
BACK = 1.7  # distance of the first view from the middle, in radii of the scene


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

    def heading(self, frames: Sequence[PlacedFrame]) -> tuple[float, float]:
        """The x and z of where the cameras look on average, in the level frame."""
        ahead = self.level_from_world @ np.mean([frame.world_from_cam.rotation[:, 2] for frame in frames], axis=0)
        return float(ahead[0]), float(ahead[2])

    def first_view(self, points: Array, frames: Sequence[PlacedFrame]) -> tuple[Array, Array]:
        """Where an eye sees all of the world's points (n, 3), from behind the cameras and above them, and the middle at
        which it looks.
        """
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        reach = float(np.percentile(np.linalg.norm(points - middle, axis=1), 95))
        up = self.level_from_world[1]
        across, along = self.heading(frames)
        length = float(np.hypot(across, along))
        back = np.array([-across, 0, -along]) / length if length > 1e-6 else np.array([0.0, 0, 1])
        behind = back @ self.level_from_world
        return middle + BACK * reach * (np.cos(TILT) * behind + np.sin(TILT) * up), middle


def centres(frames: Sequence[PlacedFrame]) -> Array:
    """Camera centres (n, 3) in the world."""
    return np.array([frame.world_from_cam.translation for frame in frames]).reshape(-1, 3)


def _any_across(up: Array) -> Array:
    """Some direction at right angles to ``up``, for a path without horizontal extent."""
    return np.cross(up, np.eye(3)[np.abs(up).argmin()])
