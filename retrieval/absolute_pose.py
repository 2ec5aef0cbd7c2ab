"""The pose of one photo from pixels and the points that they show: RANSAC, refinement, and its uncertainty.

RANSAC and its minimal solvers (P3P; P4Pf if the focal length is unknown) are COLMAP's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pycolmap
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from recon.core.cameras import colmap_camera
from recon.core.similarity import Array, Sim3
from recon.core.types import Camera

SEED = 0
TRIALS = 10_000
CONFIDENCE = 0.9999
STEP = 1e-6  # of a rotation [rad] and of a shift, as a share of the depth, for derivatives
FEWEST = 6  # points that determine a pose, a focal length, and their scatter


@dataclass(frozen=True, eq=False)
class AbsolutePose:
    """world_from_cam: of scale 1. inliers: (n,), which of the given pixels agree.

    position_deviation [world], rotation_deviation [rad]: standard deviations, over all directions together.
    """

    world_from_cam: Sim3
    camera: Camera
    inliers: NDArray[np.bool_]
    position_deviation: float
    rotation_deviation: float


def estimate_pose(
    pixels: Array, points: Array, camera: Camera, max_error: float, *, free_focal: bool = False
) -> AbsolutePose | None:
    """The pose from which most world points (n, 3) appear at pixels (n, 2); None if there is none.

    max_error: of an inlier [px]. free_focal: estimate the focal length too; that of ``camera`` is only where to begin.
    """
    lens = colmap_camera(camera)
    estimation = pycolmap.AbsolutePoseEstimationOptions(estimate_focal_length=free_focal)
    estimation.ransac.max_error, estimation.ransac.random_seed = max_error, SEED
    estimation.ransac.max_num_trials, estimation.ransac.confidence = TRIALS, CONFIDENCE
    estimation.ransac.min_inlier_ratio = 0.02
    refinement = pycolmap.AbsolutePoseRefinementOptions(refine_focal_length=free_focal)
    refinement.loss_function_scale = max_error / 4
    found = pycolmap.estimate_and_refine_absolute_pose(pixels, points, lens, estimation, refinement)
    if found is None:
        return None
    refined = replace(camera, params=tuple(float(value) for value in lens.params))
    pose = found["cam_from_world"].matrix()
    cam_from_world = Sim3(1.0, pose[:, :3], pose[:, 3])
    inliers = reprojection_errors(cam_from_world, refined, pixels, points) <= max_error
    if inliers.sum() < FEWEST:
        return None
    deviations = _deviations(cam_from_world, refined, pixels[inliers], points[inliers], free_focal=free_focal)
    return AbsolutePose(cam_from_world.inverse(), refined, inliers, *deviations)


def reprojection_errors(cam_from_world: Sim3, camera: Camera, pixels: Array, points: Array) -> Array:
    """Distances (n,) [px] of world points from their pixels, infinite behind the camera."""
    points_cam = cam_from_world.apply(points)
    errors = np.linalg.norm(_projected(camera, points_cam) - pixels, axis=1)
    return np.asarray(np.where(np.isfinite(errors) & (points_cam[:, 2] > 0), errors, np.inf))


def _projected(camera: Camera, points_cam: Array) -> Array:
    return np.asarray(colmap_camera(camera).img_from_cam(points_cam), dtype=np.float64)


def _deviations(
    cam_from_world: Sim3, camera: Camera, pixels: Array, points: Array, *, free_focal: bool
) -> tuple[float, float]:
    """Standard deviations of position and rotation, from the derivatives and the scatter of the residuals.

    The parameters are a small rotation and shift of the camera, and the logarithm of the focal length if it was free:
    the shift is that of the camera's centre, in its own axes.
    """
    points_cam = cam_from_world.apply(points)
    residuals = _projected(camera, points_cam) - pixels
    depth = float(np.median(points_cam[:, 2]))
    columns = []
    for axis in np.eye(3):
        turned = points_cam @ Rotation.from_rotvec(STEP * axis).as_matrix().T
        columns.append((_projected(camera, turned) - pixels - residuals) / STEP)
    for axis in np.eye(3):
        columns.append((_projected(camera, points_cam + STEP * depth * axis) - pixels - residuals) / (STEP * depth))
    if free_focal:
        centre = camera.matrix()[:2, 2]
        columns.append(residuals + pixels - centre)
    jacobian = np.stack([column.ravel() for column in columns], axis=1)
    variance = (residuals**2).sum() / max(1, residuals.size - jacobian.shape[1])
    scale = np.linalg.norm(jacobian, axis=0)
    covariance = variance * np.linalg.pinv((jacobian / scale).T @ (jacobian / scale)) / np.outer(scale, scale)
    return float(np.sqrt(np.trace(covariance[3:6, 3:6]))), float(np.sqrt(np.trace(covariance[:3, :3])))
