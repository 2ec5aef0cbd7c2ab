"""The height of the camera above the ground, which a robot or a person keeps.

The ground is the lowest plane below the cameras on which many of the triangulated points lie: a table top has the floor
below it (RANSAC, Fischler and Bolles 1981). Where the path as a whole has no such plane, its halves may have one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon.core.errors import SettingsError
from recon.core.similarity import Array
from recon.core.types import PlacedFrame, SparsePoints
from recon.metric.observations import Length
from recon.store.map import ReconstructedMap

TRIALS, ROUNDS, SEED = 400, 3, 0
MOST_TILT = np.cos(np.radians(25))  # between the ground and the cameras' mean upward axis
SAME_PLANE = 0.02  # distance from the ground, as a share of the cameras' height
BELOW = 0.1  # the same, of points that lie below it
PER_BELOW = 10  # points on the plane that one point below it outweighs
FEWEST, LEAST_SHARE = 30, 0.05  # points on the ground, and their share of all points below the cameras
MOST_BELOW = 0.05  # points below the ground, as a share of those on it
SHORTEST = 5  # frames of a stretch
UPRIGHT = 0.5  # length of the mean upward axis; less if cameras are turned in all ways
VARIES = 0.2  # relative difference of two heights of a camera that is carried


@dataclass(frozen=True, eq=False)
class _Plane:
    """normal: (3,), up. offset: height of the world's origin."""

    normal: Array
    offset: float

    def heights(self, points: Array) -> Array:
        """Heights (n,) of points (n, 3)."""
        return np.asarray(points @ self.normal + self.offset)


def camera_heights(reconstruction: ReconstructedMap, metres: float) -> list[Length]:
    """The mean height above the ground of the frames of each stretch that sees it, as a length from each of them.

    Raises SettingsError if ``metres`` is not positive, or no ground is found.
    """
    if not (np.isfinite(metres) and metres > 0):
        raise SettingsError(f"--camera-height needs a positive number of metres, got {metres:g}.")
    lengths = [
        Length(f"height of {frame.name}", np.array([centre, centre - height * plane.normal]), metres, VARIES)
        for frames, plane in _grounds(reconstruction.frames, reconstruction.points)
        for frame, centre, height in zip(frames, _centres(frames), plane.heights(_centres(frames)), strict=True)
        if height > 0
    ]
    if not lengths:
        raise SettingsError(
            f"No ground is seen below the cameras of {reconstruction.folder}: no level plane holds enough points. "
            "Give a known --length instead."
        )
    return lengths


def _grounds(frames: Sequence[PlacedFrame], points: SparsePoints) -> list[tuple[Sequence[PlacedFrame], _Plane]]:
    """Stretches of a path, each with its ground."""
    plane = _ground(frames, points)
    if plane:
        return [(frames, plane)]
    half = len(frames) // 2
    return [*_grounds(frames[:half], points), *_grounds(frames[half:], points)] if half >= SHORTEST else []


def _ground(frames: Sequence[PlacedFrame], points: SparsePoints) -> _Plane | None:
    """The ground that some frames see; None without a plane that holds enough points."""
    up = -np.mean([frame.world_from_cam.rotation[:, 1] for frame in frames], axis=0)
    length = float(np.linalg.norm(up))
    centres = _centres(frames)
    seen = points.seen_by([frame.index for frame in frames]).positions
    seen = seen[(seen - np.median(centres, axis=0)) @ up < 0]
    if length < UPRIGHT or len(seen) < FEWEST:
        return None
    rng = np.random.default_rng(SEED)
    trials = (_plane(seen[rng.choice(len(seen), 3, replace=False)], up / length, centres) for _ in range(TRIALS))
    best = max((one for one in trials if one), key=lambda one: _support(one, seen, centres), default=None)
    for _ in range(ROUNDS):
        best = _plane(seen[_near(best, seen, centres)], up / length, centres) if best else None
    if best is None:
        return None
    on, below = _near(best, seen, centres).sum(), _below(best, seen, centres).sum()
    return best if on >= max(FEWEST, LEAST_SHARE * len(seen)) and below <= MOST_BELOW * on else None


def _plane(points: Array, up: Array, centres: Array) -> _Plane | None:
    """The plane through points (n, 3); None if it is steep, or not below the cameras."""
    if len(points) < 3:
        return None
    middle = points.mean(axis=0)
    normal = np.linalg.svd(points - middle, full_matrices=False)[2][2]
    normal = normal if normal @ up > 0 else -normal
    plane = _Plane(normal, float(-normal @ middle))
    return plane if normal @ up >= MOST_TILT and _height(plane, centres) > 0 else None


def _height(plane: _Plane, centres: Array) -> float:
    return float(np.median(plane.heights(centres)))


def _near(plane: _Plane, points: Array, centres: Array) -> NDArray[np.bool_]:
    return np.asarray(np.abs(plane.heights(points)) < SAME_PLANE * _height(plane, centres))


def _below(plane: _Plane, points: Array, centres: Array) -> NDArray[np.bool_]:
    return np.asarray(plane.heights(points) < -BELOW * _height(plane, centres))


def _support(plane: _Plane, points: Array, centres: Array) -> float:
    """Number of points on a plane, less the weighted number below it."""
    return float(_near(plane, points, centres).sum() - PER_BELOW * _below(plane, points, centres).sum())


def _centres(frames: Sequence[PlacedFrame]) -> Array:
    return np.array([frame.world_from_cam.translation for frame in frames])
