"""The points and the path that ``cloud.js`` draws, in the report and on a phone."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from recon.core.similarity import Array
from recon.core.types import Image, PlacedFrame
from viewer.level import Level, centres
from viewer.shapes import colours_along

STEPS = 2**16 - 1  # of a coordinate


@dataclass(frozen=True, eq=False)
class Drawing:
    """Points (n, 3) of the world with their colours, and the frames whose path is drawn with them; at least one of
    each. It has the level frame's axes, the middle of the points at 0 and the farthest of them at 1. upright: frames
    that decide which way is up and where the first view is.
    """

    points: Array
    colours: Image | Array
    frames: Sequence[PlacedFrame]
    upright: Sequence[PlacedFrame]

    def placed(self, points_world: Array) -> Array:
        """Points (n, 3) of the world in the drawing."""
        middle, reach = self._box
        return np.asarray((points_world @ self._level.level_from_world.T - middle) / reach)

    def data(self) -> dict[str, Any]:
        """What ``cloud.js`` needs. positions: 16 bits a coordinate. spacing: mean distance of neighbouring points. yaw:
        heading of the first view, from behind the cameras.
        """
        points, path = np.clip(self.placed(self.points), -1, 1), self.placed(centres(self.frames))
        across, along = self._level.heading(self.upright)
        return {
            "positions": as_base64(np.round((points + 1) / 2 * STEPS).astype("<u2")),
            "colours": as_base64(np.asarray(self.colours, dtype=np.uint8)),
            "path": np.round(path, 4).tolist(),
            "path_colours": as_base64(colours_along(len(path))),
            "spacing": _spacing(points),
            "yaw": float(np.arctan2(-across, -along)),
        }

    @cached_property
    def _level(self) -> Level:
        return Level.of(self.upright)

    @cached_property
    def _box(self) -> tuple[Array, float]:
        """The middle of the points in the level frame, and the largest coordinate from there."""
        points = self.points @ self._level.level_from_world.T
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        return middle, float(np.abs(points - middle).max()) or 1.0


def as_base64(array: Any) -> str:
    """The bytes of an array as text."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _spacing(points: Array) -> float:
    """Distance between neighbours if the points (n, 3) covered the sides of their bounding box evenly."""
    a, b, c = np.maximum(np.ptp(points, axis=0), 1e-3)
    return float(np.sqrt(2 * (a * b + b * c + c * a) / len(points)))
