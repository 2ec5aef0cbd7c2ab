"""World frame and unit of a finished map: its first camera and the median depth, or those of the map it extends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from recon.core.similarity import Sim3
from recon.core.types import FrameGeometry, PlacedFrame, SparsePoints
from recon.mapping.alignment import fit_similarity

CORNERS = np.vstack([np.zeros(3), np.eye(3)])  # of a camera: they fix its position, rotation and unit


def median_depth(frames: Sequence[FrameGeometry]) -> float:
    """Median of all depth in the frames, in the chunk's unit; 1 where there is none."""
    depths = [frame.depth[frame.depth > 0] for frame in frames]
    found = np.concatenate(depths) if depths else np.zeros(0)
    return float(np.median(found)) if found.size else 1.0


def typical_depth(frame: FrameGeometry) -> float:
    """Median of a frame's depth, in its own unit; of confident depth if there is any, 0 if there is none at all."""
    for depth in (frame.sure().depth, frame.depth):
        if (depth > 0).any():
            return float(np.median(depth[depth > 0]))
    return 0.0


def depth_seen(frames: Mapping[int, PlacedFrame], depths: Mapping[int, float]) -> dict[int, float]:
    """Distance in the world from a frame to the scene that it sees. depths: ``typical_depth`` by index."""
    known = {index: depth for index, depth in depths.items() if index in frames and depth > 0}
    return {index: frames[index].world_from_cam.scale * depth for index, depth in known.items()}


def final_from_grown(
    frames: Mapping[int, PlacedFrame],
    depths: Mapping[int, float],
    earlier: Mapping[int, Sim3],
    unit: float | None = None,
) -> Sim3:
    """The transform of a map into its final world: onto ``earlier`` if they share frames, else to the scale ``unit``,
    or if that is unknown, to unit depth.

    earlier: ``world_from_cam`` of a finished map. depths: see ``depth_seen``. Without any depth, the identity.
    """
    seen = depth_seen(frames, depths)
    shared = [index for index in seen if index in earlier]
    if shared:
        now, then = (
            np.concatenate([poses[index].apply(depths[index] * CORNERS) for index in shared])
            for poses in ({index: frames[index].world_from_cam for index in shared}, earlier)
        )
        return fit_similarity(now, then, np.ones(len(now)))
    unit = unit or (1 / float(np.median(list(seen.values()))) if seen else 1.0)
    return Sim3(unit, np.eye(3), np.zeros(3))


def moved(frame: PlacedFrame, to_from_world: Sim3) -> PlacedFrame:
    """A frame in another world."""
    return replace(frame, world_from_cam=to_from_world @ frame.world_from_cam)


def moved_points(points: SparsePoints, to_from_world: Sim3) -> SparsePoints:
    """Points in another world."""
    return replace(points, positions=to_from_world.apply(points.positions))
