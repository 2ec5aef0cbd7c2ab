"""Whether photos taken in order around an object are reconstructed as one steady walk around it.

If an object looks alike from two sides, the reconstruction may fold: photos of one side are placed among those of the
other, with small reprojection errors. The angle around the object then jumps where the fold begins and ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recon.core.similarity import Array

MAX_STEP_DEG = 45.0
FULL_TURN_DEG = (300.0, 420.0)


@dataclass(frozen=True)
class Ring:
    """How the cameras move around the point that they look at, in the order of the images.

    indices: the placed images. steps_deg: (images - 1,) change of the angle around the axis from one placed image to
    the next, in -180..180, positive in the direction of the whole walk.
    """

    indices: tuple[int, ...]
    steps_deg: tuple[float, ...]

    @property
    def total_deg(self) -> float:
        """The total angle, 360 for once around."""
        return sum(self.steps_deg)

    @property
    def largest_deg(self) -> float:
        """The largest change from one placed image to the next, in either direction."""
        return max((abs(step) for step in self.steps_deg), default=0.0)

    @property
    def folded(self) -> bool:
        """Whether a step is larger than a photographer would make: 45 degrees per image."""
        gaps = np.diff(self.indices)
        return bool((np.abs(self.steps_deg) > MAX_STEP_DEG * gaps).any())

    @property
    def once_around(self) -> bool:
        """Whether the cameras go once around, without folding."""
        low, high = FULL_TURN_DEG
        return not self.folded and low <= self.total_deg <= high


def measure_ring(indices: Sequence[int], world_from_cam: Array) -> Ring:
    """The ring of three or more cameras with image numbers ``indices`` in ascending order and poses (images, 4, 4). The
    centre is the point nearest to all optical axes. The axis is the direction most nearly perpendicular to the cameras'
    x axes: the vertical if the cameras are held level.
    """
    centres, forward, right = world_from_cam[:, :3, 3], world_from_cam[:, :3, 2], world_from_cam[:, :3, 0]
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    middle = np.linalg.solve(across.sum(axis=0), (across @ centres[:, :, None]).sum(axis=0)[:, 0])
    _, directions = np.linalg.eigh(right.T @ right)
    _, first, second = directions.T
    offsets = centres - middle
    angles = np.arctan2(offsets @ second, offsets @ first)
    steps = (np.diff(angles) + np.pi) % (2 * np.pi) - np.pi
    if steps.sum() < 0:
        steps = -steps
    return Ring(tuple(indices), tuple(np.degrees(steps).tolist()))
