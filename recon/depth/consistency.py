"""Keeps the depth that a second view confirms."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.similarity import Array
from recon.core.types import DepthMap
from recon.depth.views import Depth, PosedView

MAX_DIFFERENCE = 0.02


def keep_consistent(view: PosedView, depth: Depth, others: list[tuple[PosedView, Depth]]) -> Depth:
    """Drop depth confirmed by fewer than two other views; one suffices if at most two see the point.

    A view confirms a point if its own depth there differs by at most 2%. Points confirmed by a single view get half the
    confidence.
    """
    confirmed = np.zeros(depth.depth.shape, np.int32)
    seen = np.zeros(depth.depth.shape, np.int32)
    for other, other_depth in others:
        in_view, agrees = _confirm(view, depth, other, other_depth)
        seen += in_view
        confirmed += agrees
    keep = (confirmed >= 2) | ((confirmed == 1) & (seen <= 2))
    share = np.where(confirmed >= 2, 1.0, 0.5)
    confidence = np.where(keep, depth.confidence * share, 0).astype(np.float32)
    return Depth(np.where(confidence > 0, depth.depth, 0).astype(np.float32), confidence)


def _confirm(
    view: PosedView, depth: Depth, other: PosedView, other_depth: Depth
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which pixels (h, w) project onto depth in the other view, and which agree with it."""
    other_from_view = other.cam_from_chunk @ np.linalg.inv(view.cam_from_chunk)
    z, found = look_up(depth.depth, view.intrinsics, other_depth.depth, other.intrinsics, other_from_view)
    return found > 0, (found > 0) & (np.abs(found - z) < MAX_DIFFERENCE * z)


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
