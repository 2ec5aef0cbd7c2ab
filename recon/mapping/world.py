"""Frame and unit of a finished map: its first camera and the median depth, or those of the map that it continues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from recon.core.files import write_atomically
from recon.core.similarity import Sim3
from recon.core.types import FrameGeometry, PlacedFrame, SparsePoints
from recon.mapping.alignment import fit_similarity
from recon.store.map import open_map

KEPT = "finished.json"
CORNERS = np.vstack([np.zeros(3), np.eye(3)])  # of a camera: they tell its place, direction and unit


def typical_depth(frame: FrameGeometry) -> float:
    """Median of a frame's depth in its own unit, of that which it is sure of where there is such; 0 without any."""
    for depth in (frame.sure().depth, frame.depth):
        if (depth > 0).any():
            return float(np.median(depth[depth > 0]))
    return 0.0


def depth_seen(frames: Mapping[int, PlacedFrame], depths: Mapping[int, float]) -> dict[int, float]:
    """How far away in the world the scene lies that a frame sees. depths: ``typical_depth`` by index."""
    known = {index: depth for index, depth in depths.items() if index in frames and depth > 0}
    return {index: frames[index].world_from_cam.scale * depth for index, depth in known.items()}


def final_from_grown(
    frames: Mapping[int, PlacedFrame], depths: Mapping[int, float], earlier: Mapping[int, Sim3]
) -> Sim3:
    """What moves a map into its final world: onto ``earlier`` where it shares frames with it, else to unit depth.

    earlier: ``world_from_cam`` of a finished map. depths: see ``depth_seen``. Without any depth the map stays.
    """
    seen = depth_seen(frames, depths)
    shared = [index for index in seen if index in earlier]
    if shared:
        now, then = (
            np.concatenate([poses[index].apply(depths[index] * CORNERS) for index in shared])
            for poses in ({index: frames[index].world_from_cam for index in shared}, earlier)
        )
        return fit_similarity(now, then, np.ones(len(now)))
    return Sim3(1 / float(np.median(list(seen.values()))) if seen else 1.0, np.eye(3), np.zeros(3))


def moved(frame: PlacedFrame, to_from_world: Sim3) -> PlacedFrame:
    """A frame in another world."""
    return replace(frame, world_from_cam=to_from_world @ frame.world_from_cam)


def moved_points(points: SparsePoints, to_from_world: Sim3) -> SparsePoints:
    """Points in another world."""
    return replace(points, positions=to_from_world.apply(points.positions))


def finished_world(folder: Path) -> dict[int, Sim3]:
    """``world_from_cam`` by index of the finished map in ``folder``, or of the one that a killed run was continuing.

    Empty without one. Raises MapError for a damaged map.
    """
    path = folder / "map" / KEPT
    if path.is_file():
        return {int(index): Sim3.from_matrix(np.array(pose)) for index, pose in json.loads(path.read_text()).items()}
    if not (folder / "map" / "map.json").is_file():
        return {}
    finished = open_map(folder)
    return {frame.index: frame.world_from_cam for frame in finished.frames} if finished.complete else {}


def keep_finished(folder: Path, poses: Mapping[int, Sim3]) -> None:
    """Keep ``finished_world`` in a file before the map changes: it is not finished any more, and may be killed."""
    path = folder / "map" / KEPT
    if poses and not path.is_file():
        text = json.dumps({index: pose.matrix().tolist() for index, pose in poses.items()})
        write_atomically(path, lambda file: file.write(text.encode()))


def forget_finished(folder: Path) -> None:
    """Delete what ``keep_finished`` kept: the map in ``folder`` is finished again."""
    (folder / "map" / KEPT).unlink(missing_ok=True)
