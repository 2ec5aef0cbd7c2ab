"""How much of its surface one view shares with another, by the depth of both."""

from __future__ import annotations

import numpy as np

from recon.core.projection import points_in_chunk
from recon.core.similarity import Array, Sim3
from recon.core.types import FrameGeometry


def shared_surface(
    target_from_source: Sim3, source: FrameGeometry, target: FrameGeometry, max_error: float, step: int = 4
) -> tuple[float, float]:
    """Share of the source's depth that projects onto depth of the target, and the share of that with the same depth.

    target_from_source: between the chunk frames. max_error: of the depth, relative. step: distance between compared
    pixels.
    """
    rows, columns = np.nonzero(source.depth[::step, ::step] > 0)
    points = points_in_chunk(source, rows * step, columns * step)
    points_cam = Sim3.from_matrix(target.cam_from_chunk).apply(target_from_source.apply(points))
    expected, measured = depth_at(points_cam, target)
    if not len(measured):
        return 0.0, 0.0
    same = _log_ratio(expected, measured) < np.log1p(max_error)
    return float(len(measured) / max(len(rows), 1)), float(same.mean())


def depth_at(points_cam: Array, frame: FrameGeometry) -> tuple[Array, Array]:
    """Depth (m,) in a frame's camera of those points (n, 3) that project onto stored depth, and that depth (m,)."""
    points_cam = points_cam[points_cam[:, 2] > 1e-9]
    pixels = points_cam @ frame.intrinsics.T
    pixels = np.floor(pixels[:, :2] / pixels[:, 2:])
    height, width = frame.depth.shape
    inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=1)
    columns, rows = pixels[inside].astype(np.int64).T
    measured = frame.depth[rows, columns].astype(np.float64)
    known = measured > 0
    return points_cam[inside, 2][known], measured[known]


def _log_ratio(projected: Array, measured: Array) -> Array:
    """|log| of projected over measured depth; infinite behind the camera."""
    ratio = np.maximum(projected, 1e-12) / measured
    return np.where(projected > 0, np.abs(np.log(ratio)), np.inf)
