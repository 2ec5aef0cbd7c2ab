"""Final poses for the captured frames that the map does not have.

The reconstruction of a camera maps some of its frames, and the others cannot be read again. But the tracker said where
each of them was, in the map as it was then. From the keyframe before, its motion leads from the final pose of that
keyframe to the frame, and on to the keyframe behind; how far it misses that one is the error. It is spread over the
frames, and if it is large, they get no pose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from scipy.spatial.transform import Rotation

from recon.core.similarity import Array, Sim3
from recon.core.types import PassedFrame, PlacedFrame, SparsePoints
from recon.store.tracked import TrackedPoses

LARGEST_ERROR = 0.05  # rotation [rad] plus motion as a share of the depth, from one keyframe to the next
LARGEST_STEP = 0.5  # the same from one frame to the next; the tracker follows no faster camera
TINY = 1e-18
AROUND = 2  # further keyframes on either side that tell the unit of the tracker's map
UNCERTAIN = "was captured while the map was busy with others, and what the tracker said of it is not certain"


def place_tracked(
    passed: Mapping[int, PassedFrame],
    pieces: Sequence[TrackedPoses],
    keyframes: Sequence[PlacedFrame],
    points: SparsePoints,
) -> list[PlacedFrame]:
    """Those of the frames ``passed``, by index, whose poses are certain.

    pieces: what the tracker said, keyframes included. keyframes: with their final poses, by index. points: of the
    finished map, in the unit of these poses.
    """
    depths, found = _median_depths(keyframes, points), list[PlacedFrame]()
    for piece in pieces:
        known = set(piece.indices.tolist()) & depths.keys()
        found += _between(passed, piece, [frame for frame in keyframes if frame.index in known], depths)
    return found


def _between(
    passed: Mapping[int, PassedFrame],
    piece: TrackedPoses,
    keyframes: Sequence[PlacedFrame],
    depths: Mapping[int, float],
) -> Iterator[PlacedFrame]:
    """The frames between keyframes that a piece has, too."""
    rows = np.searchsorted(piece.indices, [frame.index for frame in keyframes])
    said, final = piece.world_from_cam[rows], np.array([np.linalg.inv(frame.cam_from_world) for frame in keyframes])
    for number, (first, last) in enumerate(pairwise(rows)):
        ends, near = [number, number + 1], slice(max(0, number - AROUND), number + 2 + AROUND)
        before, behind = keyframes[number], keyframes[number + 1]
        indices = piece.indices[first : last + 1]
        unit = _unit(said[near], final[near])
        paths = _from_either_end(piece.world_from_cam[first : last + 1], final[ends], unit)
        depth = min(depths[before.index], depths[behind.index])
        if _error(paths[0][-1], final[number + 1], depth) > LARGEST_ERROR:
            continue
        if max(_error(pose, after, depth) for pose, after in pairwise(paths[0])) > LARGEST_STEP:
            continue
        shares = np.linspace(0, 1, len(indices))
        for index, share, pose in zip(indices.tolist(), shares, _blended(*paths, shares), strict=True):
            if frame := passed.get(index):
                camera = before.camera if share < 0.5 else behind.camera
                yield PlacedFrame(index, frame.timestamp, frame.name, camera, Sim3.from_matrix(pose))


def _unit(said: Array, final: Array) -> float:
    """How long in the map is what has length 1 for the tracker: the median of the steps between keyframes (n, 4, 4),
    by their length in the map, as the tracker may have jumped.
    """
    steps, true = ((np.linalg.inv(poses[:-1]) @ poses[1:])[:, :3, 3] for poses in (said, final))
    ratios = (steps * true).sum(axis=1) / np.maximum((steps**2).sum(axis=1), TINY)
    order = np.argsort(ratios)
    lengths = np.cumsum(np.linalg.norm(true, axis=1)[order])
    return float(ratios[order][np.searchsorted(lengths, lengths[-1] / 2)])


def _from_either_end(said: Array, ends: Array, unit: float) -> tuple[Array, Array]:
    """Poses (n, 4, 4) in the map, if the motion starts at the first, or leads to the last of the poses ``ends``."""
    paths = []
    for end, known in zip((said[0], said[-1]), ends, strict=True):
        steps = np.linalg.inv(end) @ said
        steps[:, :3, 3] *= unit
        paths.append(known @ steps)
    return paths[0], paths[1]


def _error(pose: Array, other: Array, depth: float) -> float:
    """How far a pose is from another one: rotation [rad] plus distance as a share of the depth."""
    missed = np.linalg.inv(pose) @ other
    turn = Rotation.from_matrix(missed[:3, :3]).magnitude()
    return float(turn + np.linalg.norm(missed[:3, 3]) / depth)


def _blended(first: Array, second: Array, shares: Array) -> Array:
    """Poses (n, 4, 4) between two each, with shares (n,) of the second."""
    poses = first.copy()
    turns = Rotation.from_matrix(np.swapaxes(first[:, :3, :3], 1, 2) @ second[:, :3, :3]).as_rotvec()
    poses[:, :3, :3] = first[:, :3, :3] @ Rotation.from_rotvec(shares[:, None] * turns).as_matrix()
    poses[:, :3, 3] += shares[:, None] * (second - first)[:, :3, 3]
    return poses


def _median_depths(keyframes: Sequence[PlacedFrame], points: SparsePoints) -> dict[int, float]:
    """Median depth of the points that a keyframe sees, by index; keyframes without points are missing."""
    rows, depths = points.rows_by_frame(), {}
    for frame in keyframes:
        if frame.index in rows:
            seen = points.positions[points.point_ids[rows[frame.index]]]
            depths[frame.index] = float(np.median(seen @ frame.cam_from_world[2, :3] + frame.cam_from_world[2, 3]))
    return depths
