"""Depth of a keyframe at corners."""

from __future__ import annotations

import numpy as np

from recon.core.similarity import Array
from recon.core.types import FrameGeometry

STEEP = 1.1  # ratio of depths around a pixel that lies on an edge


def depth_at(geometry: FrameGeometry, pixels: Array) -> Array:
    """Depth (n,) at pixels (n, 2) of the depth map; 0 outside, where it is unsure, and at its steps."""
    sure = geometry.sure().depth
    columns, rows = np.floor(pixels).astype(np.int64).T
    height, width = sure.shape
    inside = (rows >= 1) & (columns >= 1) & (rows < height - 1) & (columns < width - 1)
    offsets = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
    around = np.stack([sure[rows[inside] + row, columns[inside] + column] for row, column in offsets])
    least, most = around.min(axis=0), around.max(axis=0)
    found = np.zeros(len(pixels))
    found[inside] = np.where((least > 0) & (most < STEEP * least), around[len(offsets) // 2], 0)
    return found
