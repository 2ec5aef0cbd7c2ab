"""Transfers a refined sparse model to the frames of the map: new poses, and the scale of their stored depth."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recon.core.similarity import Array, Sim3
from recon.core.types import DepthMap, FrameGeometry, PlacedFrame, SparseModel, SparsePoints
from recon.mapping.doubts import Doubts
from recon.store.map import ReconstructedMap

ENOUGH_PIXELS = 20
STALE = 0.03  # misfit above which depth is computed again; usually 0.002 to 0.02


class Correction(NamedTuple):
    """Placed frames and coloured points (in the world) of a refined model.

    stale: the frames whose depth is so far from that of their sparse points that it has to be computed again.
    """

    frames: tuple[PlacedFrame, ...]
    points: SparsePoints
    stale: frozenset[int]


class Renewed(NamedTuple):
    """What is known of depth that was computed again.

    depths: typical depth by frame. doubts: by submap. unread: the images that could not be read, with the reason; their
    frames keep their depth.
    """

    depths: dict[int, float]
    doubts: dict[int, Doubts]
    unread: tuple[str, ...]


def correct(reconstruction: ReconstructedMap, model: SparseModel, names: dict[int, tuple[str, float]]) -> Correction:
    """Transfer the refined ``model`` to the frames of the map.

    names: name and timestamp by frame index. The scale of a frame is the median ratio of its sparse points' depth to
    its stored dense depth at the same pixels; with too few such pixels it stays unchanged. Frames placed by the model
    alone may have depth too, in the unit of a separate piece.
    """
    scales = {frame.index: frame.world_from_cam.scale for frame in reconstruction.frames}
    everywhere = replace(
        reconstruction, frames=tuple(_placed(index, model, scales, names) for index in model.cam_from_model)
    )
    stale = set[int]()
    colours = np.zeros((len(model.points.positions), 3))
    counts = np.zeros(len(model.points.positions))
    rows_of = model.points.rows_by_frame()
    for _, geometry in everywhere.geometry():
        pose = model.cam_from_model[geometry.index]
        ids = model.points.point_ids[rows_of.get(geometry.index, np.zeros(0, np.int64))]
        ids, rows, columns, depth = _project(model.points.positions, ids, pose, geometry)
        np.add.at(colours, ids, geometry.colour[rows, columns])
        np.add.at(counts, ids, 1)
        stored = geometry.depth[rows, columns]
        if np.count_nonzero(stored) >= ENOUGH_PIXELS:
            scales[geometry.index] = float(np.median(depth[stored > 0] / stored[stored > 0]))
            if misfit(stored * scales[geometry.index], depth) > STALE:
                stale.add(geometry.index)
    grey = np.full_like(colours, 128)
    mean = np.where(counts[:, None] > 0, colours / np.maximum(counts, 1)[:, None], grey)
    points = SparsePoints(
        positions=model.points.positions,
        colours=np.round(mean).astype(np.uint8),
        point_ids=model.points.point_ids,
        frame_indices=model.points.frame_indices,
        pixels=model.points.pixels,
    )
    frames = tuple(_placed(index, model, scales, names) for index in sorted(model.cam_from_model))
    return Correction(frames, points, frozenset(stale))


def depth_doubt(frames: int, why: str = "") -> str:
    """A sentence about frames whose depth had to be computed again, and could not be."""
    reason = f": {why}" if why else ""
    return f"the depth of {frames} frames contradicts the final poses, and could not be computed again{reason}"


def misfit(dense: Array | DepthMap, sparse: Array) -> float:
    """Median relative difference between dense depth (n,), where there is any, and that of sparse points (n,)."""
    known = dense > 0
    return float(np.median(np.abs(np.log(dense[known] / sparse[known])))) if known.any() else np.inf


def _project(
    positions: Array, ids: NDArray[np.int64], pose: Array, geometry: FrameGeometry
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Array]:
    """Ids of the points that project into the frame's depth map, with their row, column and depth there."""
    points_cam = positions[ids] @ pose[:3, :3].T + pose[:3, 3]
    pixels = points_cam @ geometry.intrinsics.T
    depth = points_cam[:, 2]
    columns, rows = np.floor(pixels[:, :2] / np.maximum(depth, 1e-12)[:, None]).T.astype(np.int64)
    height, width = geometry.depth.shape
    inside = (depth > 0) & (rows >= 0) & (columns >= 0) & (rows < height) & (columns < width)
    return ids[inside], rows[inside], columns[inside], depth[inside]


def _placed(
    index: int, model: SparseModel, scales: dict[int, float], names: dict[int, tuple[str, float]]
) -> PlacedFrame:
    name, timestamp = names[index]
    world_from_cam = Sim3.from_matrix(model.cam_from_model[index]).inverse()
    placed = world_from_cam @ Sim3(scales.get(index, 1.0), np.eye(3), np.zeros(3))
    return PlacedFrame(index, timestamp, name, model.cameras[index], placed)
