"""Surface normals from a depth map."""

from __future__ import annotations

import cv2
import numpy as np

from recon.core.similarity import Array
from recon.core.types import DepthMap

WINDOW = 5


def depth_normals(depth: DepthMap, intrinsics: Array) -> Array:
    """Unit normals (h, w, 3) in camera coordinates, facing the camera; straight at it where too little is known.

    On a plane, inverse depth is an affine function of the pixel; its three coefficients give the plane's normal through
    the transposed intrinsics. They are fitted to the WINDOW x WINDOW pixels around each pixel by least squares.
    """
    rows, columns = np.mgrid[: depth.shape[0], : depth.shape[1]] + 0.5
    known = (depth > 0).astype(np.float64)
    inverse = np.divide(1.0, depth, out=np.zeros(depth.shape), where=depth > 0)
    count = np.maximum(_sum(known), 1)
    x, y, q = (_sum(known * values) / count for values in (columns, rows, inverse))
    xx = _sum(known * columns * columns) / count - x * x
    xy = _sum(known * columns * rows) / count - x * y
    yy = _sum(known * rows * rows) / count - y * y
    xq = _sum(inverse * columns) / count - x * q
    yq = _sum(inverse * rows) / count - y * q
    determinant = xx * yy - xy * xy
    fitted = determinant > 0.1
    divisor = np.where(fitted, determinant, 1)
    along_x, along_y = (yy * xq - xy * yq) / divisor, (xx * yq - xy * xq) / divisor
    plane = np.stack([along_x, along_y, q - along_x * x - along_y * y], axis=-1)
    rays = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(intrinsics).T
    normals = -np.where(fitted[..., None], plane @ intrinsics, rays)
    return np.asarray(normals / np.linalg.norm(normals, axis=-1, keepdims=True))


def _sum(values: Array) -> Array:
    return np.asarray(cv2.boxFilter(values, -1, (WINDOW, WINDOW), normalize=False, borderType=cv2.BORDER_CONSTANT))
