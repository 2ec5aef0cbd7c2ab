"""Bundle adjustment of a few views: robust Levenberg and Marquardt steps, points eliminated first (Triggs et al. 1999).

It is small enough for NumPy, which shares the interpreter with the capture; COLMAP's would hold its lock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.similarity import Array

CONVERGED = 3e-3  # relative decrease of the cost
LARGE = 2.0  # standard deviations, from which errors count less (Cauchy)
CLOSEST = 1e-3  # z of a point that counts as in front of a camera
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Bundle:
    """Poses and points that explain what cameras see.

    poses: (c, 4, 4) cam_from_world. points: (p, 3). sigma: (p,) relative standard deviations of their distances from
    the first cameras that see them, before the adjustment. cameras, rows: (n,) camera and point of each observation,
    by ascending point; every point has some. seen: (n, 2) where it is on the plane z = 1, by a lens whose focal length
    is ``stretch`` times too short.
    """

    poses: Array
    points: Array
    sigma: Array
    cameras: Rows
    rows: Rows
    seen: Array
    stretch: float = 1.0


@dataclass(frozen=True, eq=False)
class Adjusted:
    """bundle: with better poses, points and lens. errors: (n,) of the observations, in standard deviations. sigma: (p,)
    relative standard deviation of the distance from the first camera that sees a point. stretch_sigma: of the lens, 0
    if it was kept.
    """

    bundle: Bundle
    errors: Array
    sigma: Array
    stretch_sigma: float


@dataclass(frozen=True, eq=False)
class _System:
    """Normal equations, in blocks: of the free cameras and the lens (k, k), of each point (p, 3, 3), and of both
    (p, 3, k), with the gradients (k,) and (p, 3)."""

    cameras: Array
    points: Array
    both: Array
    camera_side: Array
    point_side: Array

    def step(self, damping: float) -> tuple[Array, Array]:
        """The changes (k,) and (p, 3)."""
        points = self.points * (1 + damping * np.eye(3))
        cameras = self.cameras * (1 + damping * np.eye(len(self.cameras)))
        solved = np.linalg.solve(points, np.concatenate([self.both, self.point_side[..., None]], axis=2))
        flat, size = self.both.reshape(-1, len(cameras)), len(cameras)
        reduced = cameras - flat.T @ solved[..., :size].reshape(-1, size)
        change = np.linalg.solve(reduced, self.camera_side - flat.T @ solved[..., size].ravel())
        return np.asarray(change), np.asarray(solved[..., size] - solved[..., :size] @ change)


class _Problem:
    """A bundle, with what stays as it is: the first ``fixed`` poses, the lens if ``stretch_prior`` is 0, and the
    priors of the distances, which keep points of little parallax where they are."""

    def __init__(self, bundle: Bundle, fixed: int, noise: float, stretch_prior: float) -> None:
        self.fixed, self.noise, self.stretch_prior = fixed, noise, stretch_prior
        self.start, self.starts = bundle, np.searchsorted(bundle.rows, np.arange(len(bundle.points)))
        first = bundle.poses[bundle.cameras[self.starts]]
        offsets = bundle.points + np.einsum("pji,pj->pi", first[:, :3, :3], first[:, :3, 3])
        self.distance = np.maximum(np.linalg.norm(offsets, axis=1), CLOSEST)
        self.directions = offsets / self.distance[:, None]
        self.deviation = bundle.sigma * self.distance

    def cost(self, bundle: Bundle) -> float:
        """Of all errors, in standard deviations."""
        errors = LARGE**2 * np.log1p((self.errors(bundle) / LARGE) ** 2)
        return float(errors.sum() + (self.depth_errors(bundle) ** 2).sum() + self._lens_error(bundle) ** 2)

    def errors(self, bundle: Bundle) -> Array:
        """Length (n,) of the errors of the observations."""
        return np.asarray(np.linalg.norm(self._residuals(bundle)[0], axis=1)) / self.noise

    def system(self, bundle: Bundle) -> _System:
        """The normal equations at a bundle."""
        residuals, cam = self._residuals(bundle)
        root = 1 / np.sqrt(self.noise**2 + (residuals**2).sum(axis=1) / LARGE**2)
        turns, shifts = _derivatives(cam)
        lens = (cam[:, :2] / cam[:, 2:])[..., None]
        by_camera = bundle.stretch * root[:, None, None] * np.concatenate([turns, shifts, lens], axis=2)
        by_point = by_camera[..., 3:6] @ bundle.poses[bundle.cameras, :3, :3]
        residuals = (residuals * root[:, None])[..., None]
        prior = self.directions / self.deviation[:, None]
        transposed = by_point.transpose(0, 2, 1)
        points = self._by_point(transposed @ by_point) + prior[:, :, None] * prior[:, None]
        side = self._by_point((transposed @ residuals)[..., 0]) - prior * self.depth_errors(bundle)[:, None]
        cameras, camera_side = self._of_cameras(bundle, by_camera, residuals)
        return _System(cameras, points, self._of_both(bundle, transposed @ by_camera), camera_side, side)

    def _of_cameras(self, bundle: Bundle, by_camera: Array, residuals: Array) -> tuple[Array, Array]:
        """The block (k, k) of the cameras and the lens, and its gradient. by_camera: (n, 2, 7), the lens last."""
        transposed, count = by_camera.transpose(0, 2, 1), len(bundle.poses)
        both = np.concatenate([transposed @ by_camera, transposed @ residuals], axis=2)
        mine = (bundle.cameras == np.arange(count)[:, None]).astype(np.float64)
        sums = (mine @ both.reshape(len(both), -1)).reshape(count, 7, 8)
        block, side = np.zeros((6 * count + 1, 6 * count + 1)), np.zeros(6 * count + 1)
        for number, total in enumerate(sums):
            rows = np.r_[6 * number : 6 * number + 6, -1]
            block[np.ix_(rows, rows)] += total[:, :7]
            side[rows] += total[:, 7]
        if self.stretch_prior:
            block[-1, -1] += 1 / self.stretch_prior**2
            side[-1] -= self._lens_error(bundle) / self.stretch_prior
        return block[self._free, self._free], side[self._free]

    def _of_both(self, bundle: Bundle, blocks: Array) -> Array:
        """The block (p, 3, k) of points and cameras, from those (n, 3, 7) of the observations."""
        poses = np.zeros((len(bundle.points), len(bundle.poses), 3, 6))
        poses[bundle.rows, bundle.cameras] = blocks[..., :6]
        flat = poses.transpose(0, 2, 1, 3).reshape(len(poses), 3, -1)
        return np.concatenate([flat, self._by_point(blocks[..., 6])[..., None]], axis=2)[..., self._free]

    def moved(self, bundle: Bundle, cameras: Array, points: Array) -> Bundle:
        """After a step."""
        poses, free = bundle.poses.copy(), len(bundle.poses) - self.fixed
        for number, (turn, shift) in enumerate(cameras[: 6 * free].reshape(free, 2, 3), self.fixed):
            change = np.eye(4)
            change[:3, :3], change[:3, 3] = cv2.Rodrigues(turn)[0], shift
            poses[number] = change @ poses[number]
        stretch = bundle.stretch * float(np.exp(cameras[-1])) if self.stretch_prior else bundle.stretch
        return replace(bundle, poses=poses, points=bundle.points + points, stretch=stretch)

    def _residuals(self, bundle: Bundle) -> tuple[Array, Array]:
        """Errors (n, 2) on the plane z = 1, large behind a camera, and the points (n, 3) in the cameras."""
        poses = bundle.poses[bundle.cameras]
        cam = np.einsum("nij,nj->ni", poses[:, :3, :3], bundle.points[bundle.rows]) + poses[:, :3, 3]
        cam[:, 2] = np.maximum(cam[:, 2], CLOSEST)
        return bundle.seen - bundle.stretch * cam[:, :2] / cam[:, 2:], cam

    def depth_errors(self, bundle: Bundle) -> Array:
        """How far the distances (p,) are from those at the start, in their standard deviations."""
        along = ((bundle.points - self.start.points) * self.directions).sum(axis=1)
        return np.asarray(along / self.deviation)

    def _lens_error(self, bundle: Bundle) -> float:
        return float(np.log(bundle.stretch)) / self.stretch_prior if self.stretch_prior else 0.0

    @property
    def _free(self) -> slice:
        """The parameters that change, of six for each camera and one for the lens."""
        return slice(6 * self.fixed, 6 * len(self.start.poses) + (self.stretch_prior > 0))

    def _by_point(self, values: Array) -> Array:
        """The sums over the observations of each point."""
        return np.add.reduceat(values, self.starts, axis=0)


def adjust(bundle: Bundle, noise: float, *, iterations: int, fixed: int = 1, stretch_prior: float = 0.0) -> Adjusted:
    """Adjust the poses, but for the first ``fixed``, the points, and the lens.

    noise: standard deviation of ``seen``. stretch_prior: that of the logarithm of ``stretch``, 0 to keep it. Raises
    np.linalg.LinAlgError if the views do not determine the poses.
    """
    problem, damping = _Problem(bundle, fixed, noise, stretch_prior), 1e-4
    cost, system = problem.cost(bundle), problem.system(bundle)
    for _ in range(iterations):
        moved = problem.moved(bundle, *system.step(damping))
        after = problem.cost(moved)
        if not after < cost:
            damping *= 100
            continue
        settled = after > (1 - CONVERGED) * cost
        bundle, cost, damping = moved, after, damping / 10
        system = problem.system(bundle)
        if settled:
            break
    spread = np.linalg.inv(system.points)
    sigma = np.sqrt(np.einsum("pi,pij,pj->p", problem.directions, spread, problem.directions))
    offsets = problem.distance + problem.deviation * problem.depth_errors(bundle)
    stretch_sigma = _last_sigma(system) if stretch_prior else 0.0
    return Adjusted(bundle, problem.errors(bundle), sigma / np.maximum(offsets, CLOSEST), stretch_sigma)


def _last_sigma(system: _System) -> float:
    """Standard deviation of the last of the cameras' parameters."""
    solved = np.linalg.solve(system.points, system.both)
    size = len(system.cameras)
    reduced = system.cameras - system.both.reshape(-1, size).T @ solved.reshape(-1, size)
    return float(np.sqrt(np.linalg.inv(reduced)[-1, -1]))


def _derivatives(cam: Array) -> tuple[Array, Array]:
    """Of the projections (n, 2) of points (n, 3) with respect to turns and shifts of the camera, each (n, 2, 3)."""
    x, y, z = cam.T
    u, v, inverse, zero = x / z, y / z, 1 / z, np.zeros(len(cam))
    turns = np.stack([-u * v, 1 + u * u, -v, -1 - v * v, u * v, u], axis=1).reshape(-1, 2, 3)
    shifts = np.stack([inverse, zero, -u * inverse, zero, inverse, -v * inverse], axis=1).reshape(-1, 2, 3)
    return turns, shifts
