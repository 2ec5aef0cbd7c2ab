"""Whether the centre of projection moves in the image from frame to frame, as in a stabilised video or in crops.

A pose makes up for most of such a shift, but not for all of it: turning the camera also bends the image.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from recon.core.cameras import colmap_camera
from recon.core.similarity import Array
from recon.core.types import Camera, SparsePoints

MOVING = 0.94  # of the squared errors; 0.98 and more in right maps, 0.8 in a video stabilised by 7% of the width
FEWEST_FRAMES, MOST_FRAMES = 6, 60
FEWEST_SEEN = 50  # points
EXACT = 1e-5  # errors below this, in focal lengths, are those of arithmetic
ROUNDS = 5  # of robust least squares
EFFICIENT_SCALE = 2.385  # at which Cauchy's loss is 95% as efficient as least squares (Holland and Welsch 1977)

View = tuple[int, Camera, Array]  # index of a frame, its lens, cam_from_world (4, 4)


def centres_move(views: Iterable[View], points: SparsePoints) -> bool:
    """Whether free principal points would explain clearly more of the errors in most frames."""
    rows, views = points.rows_by_frame(), list(views)
    left = [
        _left(camera, pose, points.positions[points.point_ids[rows[index]]], points.pixels[rows[index]])
        for index, camera, pose in views[:: len(views) // MOST_FRAMES + 1]
        if len(rows.get(index, ())) >= FEWEST_SEEN
    ]
    return len(left) >= FEWEST_FRAMES and float(np.median(left)) < MOVING


def _left(camera: Camera, cam_from_world: Array, positions: Array, pixels: Array) -> float:
    """The share of the squared errors that remains if the principal point is adjusted along with the pose."""
    points_cam = positions @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    before = points_cam[:, 2] > 0
    points_cam = points_cam[before]
    errors = (pixels[before] - np.asarray(colmap_camera(camera).img_from_cam(points_cam))) / camera.matrix()[0, 0]
    slopes, values = _slopes(points_cam), errors.T.ravel()
    weights = np.ones(len(values))
    for _ in range(ROUNDS):
        rest = values - slopes @ _solve(slopes, values, weights)
        deviation = 1.4826 * float(np.median(np.abs(rest))) + 1e-12
        weights = 1 / (1 + (rest / (EFFICIENT_SCALE * deviation)) ** 2)
    by_pose = values - slopes[:, :6] @ _solve(slopes[:, :6], values, weights)
    return float(((weights * rest**2).mean() + EXACT**2) / ((weights * by_pose**2).mean() + EXACT**2))


def _slopes(points_cam: Array) -> Array:
    """Derivatives (2n, 8) of projections at focal length 1, all x first: by rotation, shift, principal point."""
    x, y = (points_cam[:, :2] / points_cam[:, 2:]).T
    near, one, zero = 1 / points_cam[:, 2], np.ones_like(x), np.zeros_like(x)
    return np.vstack(
        [
            np.column_stack([-x * y, 1 + x * x, -y, near, zero, -x * near, one, zero]),
            np.column_stack([-1 - y * y, x * y, x, zero, near, -y * near, zero, one]),
        ]
    )


def _solve(slopes: Array, values: Array, weights: Array) -> Array:
    root = np.sqrt(weights)
    return np.asarray(np.linalg.lstsq(slopes * root[:, None], values * root, rcond=None)[0])
