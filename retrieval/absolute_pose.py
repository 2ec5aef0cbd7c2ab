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
LEAST_SHARE = 0.02  # of matches that agree, for which RANSAC searches
STEP = 1e-6  # of a rotation [rad] and of a shift, as a share of the depth, for derivatives
FEWEST = 6  # points, to determine a pose and a lens and to judge their scatter


@dataclass(frozen=True, eq=False)
class AbsolutePose:
    """world_from_cam: of scale 1. inliers: (n,), which of the given pixels agree.

    position_deviation [world], rotation_deviation [rad]: standard deviations, over all directions together.
    focal_deviation: that of the focal length as a share of it, 0 if it was known.
    """

    world_from_cam: Sim3
    camera: Camera
    inliers: NDArray[np.bool_]
    position_deviation: float
    rotation_deviation: float
    focal_deviation: float


def estimate_pose(
    pixels: Array, points: Array, camera: Camera, max_error: float, *, free: bool = False
) -> AbsolutePose | None:
    """The pose from which most world points (n, 3) appear at pixels (n, 2); None if fewer than FEWEST do.

    max_error: of an inlier [px]. free: estimate the focal length and distortion, too; ``camera``, which is
    then SIMPLE_RADIAL, is where to begin.
    """
    lens = colmap_camera(camera)
    estimation = pycolmap.AbsolutePoseEstimationOptions(estimate_focal_length=free)
    estimation.ransac.max_error, estimation.ransac.random_seed = max_error, SEED
    estimation.ransac.max_num_trials, estimation.ransac.confidence = TRIALS, CONFIDENCE
    estimation.ransac.min_inlier_ratio = LEAST_SHARE
    refinement = pycolmap.AbsolutePoseRefinementOptions(refine_focal_length=free, refine_extra_params=free)
    refinement.loss_function_scale = max_error / 4
    found = pycolmap.estimate_and_refine_absolute_pose(pixels, points, lens, estimation, refinement)
    if found is None or not np.isfinite(found["cam_from_world"].matrix()).all():
        return None
    refined = replace(camera, params=tuple(float(value) for value in lens.params))
    pose = found["cam_from_world"].matrix()
    cam_from_world = Sim3(1.0, pose[:, :3], pose[:, 3])
    inliers = reprojection_errors(cam_from_world, refined, pixels, points) <= max_error
    if inliers.sum() < FEWEST:
        return None
    deviations = _deviations(cam_from_world, refined, pixels[inliers], points[inliers], free=free)
    return AbsolutePose(cam_from_world.inverse(), refined, inliers, *deviations)


def reprojection_errors(cam_from_world: Sim3, camera: Camera, pixels: Array, points: Array) -> Array:
    """Distances (n,) [px] of world points from their pixels, infinite behind the camera."""
    points_cam = cam_from_world.apply(points)
    errors = np.linalg.norm(_projected(camera, points_cam) - pixels, axis=1)
    return np.asarray(np.where(np.isfinite(errors) & (points_cam[:, 2] > 0), errors, np.inf))


def _projected(camera: Camera, points_cam: Array) -> Array:
    return np.asarray(colmap_camera(camera).img_from_cam(points_cam), dtype=np.float64)


def _deviations(
    cam_from_world: Sim3, camera: Camera, pixels: Array, points: Array, *, free: bool
) -> tuple[float, float, float]:
    """Standard deviations of position, rotation and focal length, from derivatives and the scatter of the residuals.

    The parameters are a small rotation and shift of the camera in its own axes, the shift as a share of the scene's
    depth, and those of the lens that were free.
    """
    points_cam = cam_from_world.apply(points)
    projected, depth = _projected(camera, points_cam), float(np.median(points_cam[:, 2]))
    turned = [points_cam @ Rotation.from_rotvec(STEP * axis).as_matrix().T for axis in np.eye(3)]
    shifted = [points_cam + STEP * depth * axis for axis in np.eye(3)]
    moved = [_projected(camera, places) for places in turned + shifted]
    moved += [_projected(lens, points_cam) for lens in _varied(camera)] if free else []
    jacobian = np.stack([(pixels_after - projected).ravel() / STEP for pixels_after in moved], axis=1)
    variance = ((projected - pixels) ** 2).sum() / max(1, pixels.size - jacobian.shape[1])
    scale = np.maximum(np.linalg.norm(jacobian, axis=0), 1e-12)  # the rotation's and the focal length's units differ
    variances = variance * np.diag(np.linalg.pinv((jacobian / scale).T @ (jacobian / scale))) / scale**2
    rotation, shift, focal = (float(np.sqrt(part.sum())) for part in (variances[:3], variances[3:6], variances[6:7]))
    return depth * shift, rotation, focal


def _varied(camera: Camera) -> list[Camera]:
    """A SIMPLE_RADIAL lens with a longer focal length, and with more distortion."""
    focal, *centre, distortion = camera.params
    return [
        replace(camera, params=(focal * (1 + STEP), *centre, distortion)),
        replace(camera, params=(focal, *centre, distortion + STEP)),
    ]
