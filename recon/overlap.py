"""How much of its surface one view shares with another, by the depth of both."""

from __future__ import annotations

import numpy as np

from recon.alignment import unproject
from recon.similarity import Array, Sim3
from recon.types import FrameGeometry


def shared_surface(
    target_from_source: Sim3, source: FrameGeometry, target: FrameGeometry, max_error: float, step: int = 4
) -> tuple[float, float]:
    """Share of the source's depth that falls onto depth of the target, and the share of that with the same depth.

    target_from_source: between the chunk frames. max_error: of the depth, relative. step: pixels between those that
    are compared.
    """
    rows, columns = np.nonzero(source.depth[::step, ::step] > 0)
    points = unproject(source, rows * step, columns * step)
    points_cam = Sim3.from_matrix(target.cam_from_chunk).apply(target_from_source.apply(points))
    points_cam = points_cam[points_cam[:, 2] > 1e-9]
    pixels = points_cam @ target.intrinsics.T
    pixels = np.floor(pixels[:, :2] / pixels[:, 2:]).astype(np.int64)
    height, width = target.depth.shape
    inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=1)
    measured = target.depth[pixels[inside, 1], pixels[inside, 0]].astype(np.float64)
    known = measured > 0
    if not known.any():
        return 0.0, 0.0
    same = log_ratio(points_cam[inside, 2][known], measured[known]) < np.log1p(max_error)
    return float(known.sum() / max(len(rows), 1)), float(same.mean())


def log_ratio(projected: Array, measured: Array) -> Array:
    """|log| of projected over measured depth; infinite behind the camera."""
    ratio = np.maximum(projected, 1e-12) / measured
    return np.where(projected > 0, np.abs(np.log(ratio)), np.inf)
