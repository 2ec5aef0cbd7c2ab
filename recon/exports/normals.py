"""Surface normals from a depth map."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.similarity import Array
from recon.core.types import DepthMap

WINDOW = 5
AT = np.arange(WINDOW, dtype=np.float32) - WINDOW // 2  # px from the middle of the window
ONE = np.ones(WINDOW, dtype=np.float32)


def depth_normals(depth: DepthMap, intrinsics: Array) -> Array:
    """Unit normals (h, w, 3) in camera coordinates, facing the camera; straight at it where too little is known.

    On a plane, inverse depth is an affine function of the pixel; its three coefficients give the plane's normal through
    the transposed intrinsics. They are fitted to the WINDOW x WINDOW pixels around each pixel by least squares.
    """
    known = (depth > 0).astype(np.float32)
    inverse = np.divide(1.0, depth, out=np.zeros(depth.shape, np.float32), where=depth > 0)
    count = np.maximum(_sum(known, ONE, ONE), 1)
    # Moments about the pixel itself, so that single precision is enough.
    x, y, q = _sum(known, AT, ONE) / count, _sum(known, ONE, AT) / count, _sum(inverse, ONE, ONE) / count
    xx = _sum(known, AT**2, ONE) / count - x * x
    xy = _sum(known, AT, AT) / count - x * y
    yy = _sum(known, ONE, AT**2) / count - y * y
    xq = _sum(inverse, AT, ONE) / count - x * q
    yq = _sum(inverse, ONE, AT) / count - y * q
    determinant = xx * yy - xy * xy
    fitted = determinant > 0.1
    divisor = np.where(fitted, determinant, 1)
    along_x, along_y = (yy * xq - xy * yq) / divisor, (xx * yq - xy * xq) / divisor
    rows, columns = np.mgrid[: depth.shape[0], : depth.shape[1]].astype(np.float32) + np.float32(0.5)
    plane = along_x, along_y, q - along_x * (x + columns) - along_y * (y + rows)
    rays = columns, rows, np.ones_like(rows)
    normals = np.stack(
        [
            np.where(fitted, _product(plane, by_plane), _product(rays, by_ray))
            for by_plane, by_ray in zip(-intrinsics.T, -np.linalg.inv(intrinsics), strict=True)
        ],
        axis=-1,
    )
    return np.asarray(normals / np.linalg.norm(normals, axis=-1, keepdims=True))


def _product(maps: Sequence[NDArray[np.floating]], factors: Array) -> NDArray[np.floating]:
    """Sum of three maps (h, w), each times its factor."""
    first, second, third = (values * np.float32(factor) for values, factor in zip(maps, factors, strict=True))
    return np.asarray(first + second + third)


def _sum(values: DepthMap, columns: DepthMap, rows: DepthMap) -> DepthMap:
    """Sum over the window, each value times its weights by column and by row."""
    return np.asarray(cv2.sepFilter2D(values, cv2.CV_32F, columns, rows, borderType=cv2.BORDER_CONSTANT))
