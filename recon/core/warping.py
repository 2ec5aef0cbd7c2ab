"""Depth maps seen from other views."""

from __future__ import annotations

import cv2
import numpy as np

from recon.core.similarity import Array
from recon.core.types import DepthMap


def look_up(
    depth: DepthMap, intrinsics: Array, other_depth: DepthMap, other_intrinsics: Array, other_from_view: Array
) -> tuple[DepthMap, DepthMap]:
    """Look up the points of a depth map in another view.

    other_from_view: (4, 4), rigid or with a scale. Returns two maps (h, w) over the pixels of ``depth``, both in the
    other view's unit: the depth of the point in the other view, and the depth stored there. The second is 0 if the view
    stores none, if the point lies outside or behind the view, or if ``depth`` is 0.
    """
    height, width = depth.shape
    columns, rows = (np.arange(count, dtype=np.float32) + np.float32(0.5) for count in (width, height))
    rotation = (other_intrinsics @ other_from_view[:3, :3] @ np.linalg.inv(intrinsics)).astype(np.float32)
    offset = (other_intrinsics @ other_from_view[:3, 3]).astype(np.float32)
    x, y, z = (
        (np.add.outer(rotation[axis, 1] * rows, rotation[axis, 0] * columns) + rotation[axis, 2]) * depth + offset[axis]
        for axis in range(3)
    )
    safe = np.where(z > 1e-6, z, 1)
    found = cv2.remap(other_depth, x / safe - 0.5, y / safe - 0.5, cv2.INTER_NEAREST, borderValue=0)
    return z, np.where((depth > 0) & (z > 1e-6), found, np.float32(0))
