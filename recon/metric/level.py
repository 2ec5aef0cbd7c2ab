"""Which way is up in a map, by the upright lines of the scene: edges of walls, doors and furniture.

The plane through the camera centre and a line segment of an image contains the line's direction. Up is the direction
that lies in most of these planes (a vanishing point, Barnard 1983), near the cameras' mean upward axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from recon.core.errors import SettingsError
from recon.core.similarity import Array, Sim3
from recon.core.types import FrameGeometry, PlacedFrame
from recon.store.lock import sole_writer
from recon.store.map import ReconstructedMap, move_map, open_map

MOST_FRAMES = 60
SHORTEST = 0.06  # segment, as a share of the image's longest side
UPRIGHT = 0.5  # length of the cameras' mean upward axis; less if they are turned in all ways
REACH, STEP = 35.0, 1.0  # directions that are tried, around that axis, and between them [deg]
WIDE, NARROW = 1.5, 0.7  # angle between a segment's plane and up, of a trial and of the result [deg]
ROUNDS = 6
APART = 6.0  # another direction [deg]
CLEARLY = 1.4  # ratio of the support of the best direction and of another one
FEWEST = 30  # segments that agree
SPREAD = 0.02  # share of the segments' planes that faces another way, so that they meet in one direction only
HALVES = 2.0  # angle between the results of both halves of the frames [deg]
LARGEST_TURN = 30.0  # between up and the cameras' upward axis [deg]; at the edge of what is tried, up may lie beyond


@dataclass(frozen=True, eq=False)
class Up:
    """direction: (3,) unit, in the world. lines: segments that agree. deviation: its standard deviation, roughly [deg],
    from how much two halves of the frames differ.
    """

    direction: Array
    lines: int
    deviation: float


@dataclass(frozen=True, eq=False)
class _Lines:
    """Segments of images. normals: (n, 3) unit, of their planes, in the world. lengths: (n,) as shares of the image.
    frames: (n,) positions of their frames.
    """

    normals: Array
    lengths: Array
    frames: Array

    def support(self, directions: Array, width: float) -> Array:
        """Share (m,) of the lengths whose planes hold the directions (m, 3), up to an angle [deg]."""
        angles = np.arcsin(np.clip(np.abs(self.normals @ directions.T), 0, 1))
        weights = np.maximum(0, 1 - (angles / np.radians(width)) ** 2)
        return np.asarray(self.lengths @ weights / max(float(self.lengths.sum()), 1e-9))

    def half(self, second: bool) -> _Lines:
        """Those of the first or the second half of the frames."""
        rows = (self.frames > np.median(self.frames)) == second
        return _Lines(self.normals[rows], self.lengths[rows], self.frames[rows])


def find_up(reconstruction: ReconstructedMap) -> Up:
    """Which way is up. Raises SettingsError if the map's lines do not tell, or if it lies in the world already, and
    MapError if it is unfinished or its depth is damaged.
    """
    reconstruction.require_finished()
    if not reconstruction.frames:
        raise _unknown(reconstruction, "it has no frames")
    if reconstruction.metric and reconstruction.metric.origin:
        raise SettingsError(f"z is up already in {reconstruction.folder}, from its place on the Earth. Omit --level.")
    axis = -np.mean([frame.world_from_cam.rotation[:, 1] for frame in reconstruction.frames], axis=0)
    if np.linalg.norm(axis) < UPRIGHT:
        raise _unknown(reconstruction, "the cameras are turned in all ways")
    axis = axis / np.linalg.norm(axis)
    lines = _lines(reconstruction)
    up = _common_direction(lines, axis)
    if up is None:
        raise _unknown(reconstruction, "too few lines in its images are upright, or those of several directions may be")
    halves = [_common_direction(lines.half(second), up, alone=False) for second in (False, True)]
    apart = _angle(halves[0], halves[1]) if halves[0] is not None and halves[1] is not None else np.inf
    if apart > HALVES:
        raise _unknown(reconstruction, "both halves of its frames disagree about it")
    if _angle(up, axis) > LARGEST_TURN:
        raise _unknown(reconstruction, "the cameras are not held upright")
    agreeing = int((np.abs(lines.normals @ up) < np.sin(np.radians(NARROW))).sum())
    return Up(up, agreeing, apart / 2)


def turn_level(folder: Path, up: Up) -> Sim3:
    """Turn a finished map by the smallest angle that makes z up; returns the turn.

    This is one transaction. Raises MapError if the map is damaged, and OutputError if ``folder`` is in use or cannot
    be written.
    """
    turn, _ = Rotation.align_vectors([[0.0, 0, 1]], [up.direction])
    change = Sim3(1.0, turn.as_matrix(), np.zeros(3))
    with sole_writer(folder, "scale"):
        reconstruction = open_map(folder)
        for _ in reconstruction.geometry():  # the outputs need all of it: nothing is turned if some is damaged
            pass
        move_map(folder, change, reconstruction.metric)
    return change


def _unknown(reconstruction: ReconstructedMap, why: str) -> SettingsError:
    return SettingsError(f"Which way is up in {reconstruction.folder} is not known: {why}. The map stays as it is.")


def _lines(reconstruction: ReconstructedMap) -> _Lines:
    frames = reconstruction.frames[:: -(-len(reconstruction.frames) // MOST_FRAMES)]
    chosen = [frame.index for frame in frames]
    found = [_lines_of(frame, geometry) for frame, geometry in reconstruction.geometry(chosen)]
    return _Lines(*(np.concatenate([getattr(one, name) for one in found]) for name in _Lines.__dataclass_fields__))


def _lines_of(frame: PlacedFrame, geometry: FrameGeometry) -> _Lines:
    """The segments of a frame's undistorted image (LSD, von Gioi et al. 2010)."""
    grey = cv2.cvtColor(geometry.colour, cv2.COLOR_RGB2GRAY)
    found = cv2.createLineSegmentDetector().detect(grey)[0]
    ends = np.zeros((0, 2, 2)) if found is None else np.asarray(found, np.float64).reshape(-1, 2, 2)
    lengths = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) / max(grey.shape)
    ends = ends[lengths > SHORTEST] + 0.5
    rays = np.concatenate([ends, np.ones((*ends.shape[:2], 1))], axis=2) @ np.linalg.inv(geometry.intrinsics).T
    normals = np.cross(rays[:, 0], rays[:, 1])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    in_world = normals @ frame.world_from_cam.rotation.T
    return _Lines(in_world, lengths[lengths > SHORTEST], np.full(len(ends), float(frame.index)))


def _common_direction(lines: _Lines, axis: Array, *, alone: bool = True) -> Array | None:
    """The direction (3,) near an axis that lies in most of the planes; None if too few agree, or, unless it need not be
    ``alone``, if another direction is about as good.
    """
    tried = _around(axis)
    support = lines.support(tried, WIDE)
    best = tried[support.argmax()]
    other = support[tried @ best < np.cos(np.radians(APART))].max()
    if alone and support.max() < CLEARLY * other:
        return None
    for width in np.geomspace(WIDE, NARROW, ROUNDS):
        weights = lines.lengths * np.maximum(0, 1 - (np.arcsin(np.abs(lines.normals @ best)) / np.radians(width)) ** 2)
        if np.count_nonzero(weights) < FEWEST // (1 if alone else 2):
            return None
        shares, directions = np.linalg.eigh((lines.normals.T * weights) @ lines.normals / weights.sum())
        best = directions[:, 0] * np.sign(directions[:, 0] @ best)
    return best if shares[1] > SPREAD else None


def _around(axis: Array) -> Array:
    """Directions (n, 3) up to REACH from an axis."""
    across = np.linalg.svd(axis[None])[2][1:]
    steps = np.tan(np.radians(np.arange(-REACH, REACH + STEP, STEP)))
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    directions = axis + grid @ across
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return np.asarray(directions[directions @ axis >= np.cos(np.radians(REACH))])


def _angle(one: Array, other: Array) -> float:
    """Between two unit vectors [deg]."""
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(one, other)), one @ other)))
