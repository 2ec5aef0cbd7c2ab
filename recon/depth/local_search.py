"""Searches for the best correlation close to known depth.

Every pixel has its own depth, so windows follow slanted surfaces; those of a plane sweep face the camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from recon.core.types import DepthMap
from recon.depth.correlation import OUTSIDE, Patches, Volume, grey, two_best
from recon.depth.views import PosedView, relative_projection

WINDOW = 7  # px

Warp = Callable[[DepthMap], Volume]


@dataclass(frozen=True, eq=False)
class Match:
    """inverse_depth, correlation: (h, w)."""

    inverse_depth: DepthMap
    correlation: DepthMap


def search(view: PosedView, sources: list[PosedView], inverse_depth: DepthMap, step: float) -> Match:
    """The best of three inverse depths (h, w), ``step`` apart, at every pixel, refined by a parabola.

    The result is at most one step from the middle; a second search can continue from there.
    """
    reference = Patches.of(grey(view), WINDOW)
    warps = [_warp_onto(view, source) for source in sources]
    before, here, after = (
        two_best([reference.correlation(warp(inverse_depth + np.float32(offset))) for warp in warps])
        for offset in (-step, 0, step)
    )
    curvature = 2 * here - before - after
    peak = 0.5 * (after - before) / np.maximum(curvature, 1e-6)
    offset = np.clip(np.where(curvature > 1e-6, peak, np.sign(after - before)), -1, 1)
    return Match(inverse_depth + np.float32(step) * offset, np.maximum(np.maximum(before, after), here))


def _warp_onto(view: PosedView, source: PosedView) -> Warp:
    """Warps the source's grey image onto the view, whose pixels lie at given inverse depths (h, w)."""
    image = grey(source)
    rotation, offset = relative_projection(view, source)
    offset = offset.astype(np.float32)
    rows, columns = np.ogrid[: view.mask.shape[0], : view.mask.shape[1]]
    rays = [(row[0] * (columns + 0.5) + row[1] * (rows + 0.5) + row[2]).astype(np.float32) for row in rotation]

    def warp(inverse_depth: DepthMap) -> Volume:
        x, y, z = (ray + part * inverse_depth for ray, part in zip(rays, offset, strict=True))
        scale = 1 / np.maximum(z, np.float32(1e-6))
        x, y = x * scale - np.float32(0.5), y * scale - np.float32(0.5)
        return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderValue=OUTSIDE), dtype=np.float32)

    return warp
