"""The pose of a view from corners of roughly known depth, and how well they determine it.

Where depth is unsure, a corner still says something: its projection is unsure along one line only.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.similarity import Array
from recon.tracking.landmarks import Landmarks

FEWEST = 15  # inliers
FEWEST_SHARE = 0.4  # of the corners
LARGEST_SPREAD = 0.05
MANY, MOST, SMALL_SPREAD = 30, 0.6, 0.01  # the same for a pose that is sure
MOST_ERROR = 3.0  # standard deviations
ITERATIONS = 12
CONVERGED = 1e-4
UNSURE = 2.0  # relative standard deviation of depths that are not sure: errors of guesses are shared
TRIALS = 100


@dataclass(frozen=True, eq=False)
class Pose:
    """cam_from_world: (4, 4) rigid. inliers: (n,) which of the corners agree. spread: standard deviation of the
    camera's centre, as a share of the scene's depth, from the noise of the corners and their depths.
    """

    cam_from_world: Array
    inliers: NDArray[np.bool_]
    spread: float

    @property
    def share(self) -> float:
        """Of the corners that agree."""
        return float(self.inliers.mean())

    @property
    def is_sure(self) -> bool:
        """Whether many corners agree, most of all, and determine the pose well."""
        return self.inliers.sum() >= MANY and self.share >= MOST and self.spread < SMALL_SPREAD


def locate(landmarks: Landmarks, seen: Array, prior: Array, noise: float) -> Pose | None:
    """The pose by robust least squares from the prior, else from P3P in RANSAC; None if too few corners agree.

    seen: (n, 2), where the corners are on the plane z = 1. prior: (4, 4), the expected cam_from_world. noise: standard
    deviation of ``seen``.
    """
    if len(landmarks) < FEWEST:
        return None
    found = _refined(landmarks, seen, prior, noise)
    if found.share < 0.8:
        sampled = _sampled(landmarks, seen, noise)
        again = found if sampled is None else _refined(landmarks, seen, sampled, noise)
        found = max(found, again, key=lambda one: one.share)
    agrees = found.inliers.sum() >= FEWEST and found.share >= FEWEST_SHARE
    return found if agrees and found.spread < LARGEST_SPREAD else None


def _refined(landmarks: Landmarks, seen: Array, start: Array, noise: float) -> Pose:
    """Gauss-Newton with Cauchy's weights, whose scale falls with the median error."""
    pose = start
    for _ in range(ITERATIONS):
        errors, jacobian, front = _whitened(landmarks, seen, pose, noise)
        if front.sum() < FEWEST:
            break
        lengths = np.linalg.norm(errors, axis=1)
        scale = max(1.0, 1.5 * float(np.median(lengths)))
        weights = front / (1 + (lengths / scale) ** 2)
        rows = jacobian * weights[:, None, None]
        information = np.einsum("nij,nik->jk", rows, jacobian) + 1e-9 * np.eye(6)
        step = np.linalg.solve(information, np.einsum("nij,ni->j", rows, errors))
        pose = _moved(pose, step)
        if np.abs(step).max() < CONVERGED:
            break
    errors, jacobian, front = _whitened(landmarks, seen, pose, noise)
    inliers = (np.linalg.norm(errors, axis=1) < MOST_ERROR) & (front > 0)
    return Pose(pose, inliers, _spread(landmarks, jacobian, inliers, pose))


def _whitened(landmarks: Landmarks, seen: Array, pose: Array, noise: float) -> tuple[Array, Array, Array]:
    """Errors (n, 2) in standard deviations, their derivatives (n, 2, 6) with respect to turn and shift of the camera,
    and whether the corners are in front of it (n,)."""
    cam, along = landmarks.projected(pose)
    front = (cam[:, 2] > 1e-6).astype(np.float64)
    x, y, z = np.where(front[:, None] > 0, cam, [0.0, 0.0, 1.0]).T
    w, zero = landmarks.inverse, np.zeros(len(cam))
    u, v = x / z, y / z
    jacobian = np.stack([
        np.stack([-u * v, 1 + u * u, -v, w / z, zero, -u * w / z], axis=1),
        np.stack([-1 - v * v, u * v, u, zero, w / z, -v * w / z], axis=1),
    ], axis=1)  # fmt: skip
    length = np.linalg.norm(along, axis=1)
    unit = np.where(length[:, None] > 0, along / np.maximum(length, 1e-30)[:, None], [1.0, 0.0])
    axes = np.stack([unit, unit[:, ::-1] * [-1, 1]], axis=1)
    sigma = np.where(landmarks.is_sure, landmarks.sigma, UNSURE * landmarks.inverse)
    deviations = np.stack([np.hypot(noise, sigma * length), np.full(len(cam), noise)], axis=1)
    axes = axes / deviations[:, :, None]
    errors = np.einsum("nij,nj->ni", axes, seen - np.column_stack([u, v]))
    return errors, axes @ jacobian, front


def _spread(landmarks: Landmarks, jacobian: Array, inliers: NDArray[np.bool_], pose: Array) -> float:
    rows = jacobian[inliers].reshape(-1, 6)
    information = rows.T @ rows
    if len(rows) < 2 * FEWEST or np.linalg.matrix_rank(information) < 6:
        return float("inf")
    covariance = np.linalg.inv(information)[3:, 3:]
    return float(np.sqrt(np.linalg.eigvalsh(covariance)[-1]) / np.median(landmarks.of(inliers).depth_in(pose)))


def _sampled(landmarks: Landmarks, seen: Array, noise: float) -> Array | None:
    sure = landmarks.is_sure
    if sure.sum() < FEWEST:
        return None
    found, turn, shift, _ = cv2.solvePnPRansac(
        landmarks.of(sure).points(), seen[sure], np.eye(3), None, iterationsCount=TRIALS,
        reprojectionError=MOST_ERROR * noise, flags=cv2.SOLVEPNP_AP3P,
    )  # fmt: skip
    if not found:
        return None
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(turn)[0], shift.ravel()
    return pose if np.isfinite(pose).all() else None


def _moved(pose: Array, step: Array) -> Array:
    """The pose after a small turn (3,) and shift (3,) in the camera."""
    change = np.eye(4)
    change[:3, :3], change[:3, 3] = cv2.Rodrigues(step[:3])[0], step[3:]
    return np.asarray(change @ pose)
