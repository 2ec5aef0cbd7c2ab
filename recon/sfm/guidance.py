"""Which features of two frames may show the same point, once the geometry between the frames is known."""

from __future__ import annotations

import numpy as np
import pycolmap
from numpy.typing import NDArray

from recon.similarity import Array

PLANAR = (
    pycolmap.TwoViewGeometryConfiguration.PLANAR,
    pycolmap.TwoViewGeometryConfiguration.PANORAMIC,
    pycolmap.TwoViewGeometryConfiguration.PLANAR_OR_PANORAMIC,
)


def allowed_matches(
    geometry: pycolmap.TwoViewGeometry, first: Array, second: Array, max_error: float
) -> NDArray[np.bool_]:
    """Whether features at pixels ``first`` (n, 2) and ``second`` (m, 2) fit the geometry: (n, m).

    Fitting is a transfer error by homography, or a Sampson error by fundamental matrix, of at most ``max_error`` [px].
    """
    if geometry.config in PLANAR:
        return _transfer_errors(np.asarray(geometry.H), first, second) <= max_error**2
    return _sampson_errors(np.asarray(geometry.F), first, second) <= max_error**2


def _transfer_errors(second_from_first: Array, first: Array, second: Array) -> NDArray[np.float32]:
    """Squared distance [px^2] of every second pixel from every first pixel mapped by a homography (3, 3): (n, m)."""
    mapped = _homogeneous(first) @ second_from_first.T
    mapped = mapped[:, :2] / np.where(np.abs(mapped[:, 2:]) > 1e-12, mapped[:, 2:], 1e-12)
    columns, rows = (
        mapped[:, None, axis].astype(np.float32) - second[None, :, axis].astype(np.float32) for axis in (0, 1)
    )
    return np.asarray(columns**2 + rows**2)


def _sampson_errors(fundamental: Array, first: Array, second: Array) -> NDArray[np.float32]:
    """Squared Sampson error [px^2] of every pair of pixels: (n, m). Hartley and Zisserman 2004, equation 11.9."""
    points_first, points_second = _homogeneous(first), _homogeneous(second)
    lines_second, lines_first = points_first @ fundamental.T, points_second @ fundamental
    residual = (lines_second @ points_second.T).astype(np.float32)
    spread = (lines_second[:, :2] ** 2).sum(1)[:, None] + (lines_first[:, :2] ** 2).sum(1)[None]
    return np.asarray(residual**2 / np.maximum(spread, 1e-20).astype(np.float32))


def _homogeneous(pixels: Array) -> Array:
    return np.column_stack([pixels, np.ones(len(pixels))])
