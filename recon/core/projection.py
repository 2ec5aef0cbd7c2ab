"""From pixels with depth to points; docs/conventions.md says where pixels lie and what depth is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recon.core.similarity import Array
from recon.core.types import FrameGeometry


def back_project(pixels: Array, depth: Array, intrinsics: Array) -> Array:
    """Points (n, 3) in the camera: pixels (n, 2) of a pinhole image with intrinsics (3, 3) at their depth (n,)."""
    rays = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(intrinsics).T
    return np.asarray(rays * depth[:, None])


def points_in_camera(frame: FrameGeometry, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Array:
    """Points (n, 3) in the camera at pixels of the frame's depth map."""
    pixels = np.column_stack([columns + 0.5, rows + 0.5])
    return back_project(pixels, frame.depth[rows, columns].astype(np.float64), frame.intrinsics)


def points_in_chunk(frame: FrameGeometry, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Array:
    """Points (n, 3) in the chunk's frame at pixels of the frame's depth map."""
    return moved_to_chunk(points_in_camera(frame, rows, columns), frame.cam_from_chunk)


def moved_to_chunk(points_cam: Array, cam_from_chunk: Array) -> Array:
    """Points (n, 3) of a camera in the chunk's frame, by the camera's rigid pose (4, 4)."""
    chunk_from_cam = np.linalg.inv(cam_from_chunk)
    return np.asarray(points_cam @ chunk_from_cam[:3, :3].T + chunk_from_cam[:3, 3])


def centre_of(cam_from_world: Array) -> Array:
    """Where a camera is (3,), from its rigid pose (4, 4)."""
    return np.asarray(-cam_from_world[:3, :3].T @ cam_from_world[:3, 3])


def plane_homography(rotation: Array, offset: Array, inverse_depth: float, stride: int = 1) -> Array:
    """Homography (3, 3) from a view's pixels to another's by a plane that faces the view, for OpenCV's warps.

    rotation: (3, 3), the homography at infinity. offset: (3,), the image of the view's centre. Both are for full-size
    pixels, whose centres lie at .5; the result is for images reduced by ``stride``, whose pixel centres are integers.
    """
    matrix = rotation.copy()
    matrix[:, 2] += inverse_depth * offset
    full_from_reduced = np.array([[stride, 0, stride / 2], [0, stride, stride / 2], [0, 0, 1]])
    return np.asarray(np.linalg.inv(full_from_reduced) @ matrix @ full_from_reduced)


def begins_shot(indices: Sequence[int], views: int) -> NDArray[np.bool_]:
    """Which frames, in order, are the first of those with their shot; a rig takes ``views`` frames in a shot."""
    shots = np.array(indices, dtype=np.int64) // views
    return np.asarray(np.r_[True, np.diff(shots) != 0][: len(shots)], dtype=np.bool_)
