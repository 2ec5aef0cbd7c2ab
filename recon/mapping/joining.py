"""The similarity between two maps from loops between them, if enough loops agree on it.

Nothing but the loops says how two maps lie to each other, so one loop is not enough, nor are several that contradict
each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon.core.similarity import Array, Sim3
from recon.mapping.alignment import fit_robustly
from recon.mapping.loops import DRIFT_TRANSLATION, FEWEST_BRIDGES, LOOP_TRANSLATION
from recon.mapping.posegraph.agreement import largest_clique
from recon.mapping.world import CORNERS

DEVIATIONS = 4.0  # by which right loops may differ
LEAST_STEP = 0.05  # of log scale
CLEAR_STEP = 3.0  # mean differences from the scale of the loops before or after it


@dataclass(frozen=True, eq=False)
class Bridge:
    """A verified loop between two maps. frames: of the first and of the second.

    first_from_second: between their worlds. second_from_cam: pose of the second frame; its scale is the depth of the
    scene that the frame sees, in the world of the second map.
    """

    frames: tuple[int, int]
    first_from_second: Sim3
    second_from_cam: Sim3

    @property
    def corners(self) -> Array:
        """Points (4, 3) of the second map that fix the position, rotation and scale of what the frame sees."""
        return self.second_from_cam.apply(CORNERS)

    def turned(self) -> Bridge:
        """The same loop from the second map to the first."""
        pose = self.first_from_second @ self.second_from_cam
        return Bridge(self.frames[::-1], self.first_from_second.inverse(), pose)

    def agrees_with(self, first_from_second: Sim3) -> bool:
        """Whether a similarity of the maps explains the loop."""
        return self.residual(first_from_second) <= DEVIATIONS

    def residual(self, first_from_second: Sim3) -> float:
        """By how many standard deviations the loop differs from a similarity of the maps."""
        errors = first_from_second.apply(self.corners) - self.first_from_second.apply(self.corners)
        return float(np.linalg.norm(errors, axis=1).max() / self.deviation)

    @property
    def deviation(self) -> float:
        """Standard deviation of where the first map sees the scene of the second, with its own drift there."""
        depth = self.first_from_second.scale * self.second_from_cam.scale
        return float(np.hypot(LOOP_TRANSLATION, DRIFT_TRANSLATION) * depth)


def join(bridges: Sequence[Bridge]) -> tuple[Sim3, list[int]] | None:
    """The similarity on which most bridges agree, and their rows; None if there is too little evidence.

    At least FEWEST_BRIDGES that share no frame on either side must agree, and they must be the majority.
    """
    agreed = largest_clique(_agreement(bridges)) if bridges else []
    fewest = min((len({bridges[row].frames[side] for row in agreed}) for side in (0, 1)), default=0)
    if fewest < FEWEST_BRIDGES or 2 * len(agreed) <= len(bridges):
        return None
    corners = np.concatenate([bridges[row].corners for row in agreed])
    seen = np.concatenate([bridges[row].first_from_second.apply(bridges[row].corners) for row in agreed])
    start = bridges[agreed[0]].first_from_second
    return fit_robustly(corners, seen, np.ones(len(corners)), start).b_from_a, agreed


@dataclass(frozen=True)
class ScaleStep:
    """Where the loops between two maps begin to say another scale. frames: of the last loop before it and of the first
    after it. before, after: the median scale of the second map in the first."""

    frames: tuple[tuple[int, int], tuple[int, int]]
    before: float
    after: float


def scale_step(bridges: Sequence[Bridge]) -> ScaleStep | None:
    """The step in scale along the frames of one of the maps, if it is clear; the scale of that map then jumps there, or
    that of the other one. At least two loops are on either side.
    """
    found = [step for side in (0, 1) if (step := _step_along(sorted(bridges, key=lambda one: one.frames[side])))]
    return min(found, key=lambda step: step[0])[1] if found else None


def _step_along(bridges: Sequence[Bridge]) -> tuple[float, ScaleStep] | None:
    """The step that explains the scales of loops in some order best, if it is clear, and what it leaves unexplained."""
    scales = np.log([bridge.first_from_second.scale for bridge in bridges])
    splits = [(scales[:row], scales[row:]) for row in range(2, len(scales) - 1)]
    if not splits:
        return None
    spreads = [float(np.concatenate([abs(part - np.median(part)) for part in split]).mean()) for split in splits]
    best = int(np.argmin(spreads))
    before, after = (float(np.median(part)) for part in splits[best])
    if abs(after - before) < max(LEAST_STEP, CLEAR_STEP * spreads[best]):
        return None
    frames = bridges[best + 1].frames, bridges[best + 2].frames
    return spreads[best], ScaleStep(frames, float(np.exp(before)), float(np.exp(after)))


def _agreement(bridges: Sequence[Bridge]) -> NDArray[np.bool_]:
    """Which bridges agree: (bridges, bridges).

    Each must see the scene of the other where the other sees it, within the errors of both and the drift between them.
    """
    corners = np.array([bridge.corners for bridge in bridges])
    seen = np.array([[bridge.first_from_second.apply(points) for points in corners] for bridge in bridges])
    own = seen[np.arange(len(bridges)), np.arange(len(bridges))]
    error = np.linalg.norm(seen - own, axis=3).max(axis=2)  # of a row's loop at a column's scene
    depth = np.array([bridge.first_from_second.scale * bridge.second_from_cam.scale for bridge in bridges])
    apart = np.linalg.norm(own[:, None, 0] - own[None, :, 0], axis=2)
    drift = DRIFT_TRANSLATION * (apart + depth)
    deviation = np.sqrt(2 * (LOOP_TRANSLATION * depth) ** 2 + drift**2)
    agrees = error <= DEVIATIONS * deviation
    return np.asarray(agrees & agrees.T)
