"""Keeps the depth that a second view confirms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recon.core.warping import look_up
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
