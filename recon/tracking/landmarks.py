"""Corners in the world: rays with Gaussian inverse depths (Civera et al. 2008)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recon.core.similarity import Array, Sim3

SURE_DEPTH = 0.1  # relative standard deviation
LEAST_SIGMA = 0.005  # relative; errors of poses are shared by all corners, so that they do not average out
FURTHEST = 20.0  # times the depth before, after one update


@dataclass(frozen=True, eq=False)
class Landmarks:
    """n corners. eyes: (n, 3) centres of the cameras that saw them first. directions: (n, 3) from there, of length 1
    along the axis of that camera. inverse, sigma: (n,) inverse depth and its standard deviation; nan if unknown.
    """

    eyes: Array
    directions: Array
    inverse: Array
    sigma: Array

    @classmethod
    def none(cls) -> Landmarks:
        return cls(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0))

    @classmethod
    def first_seen(cls, seen: Array, cam_from_world: Array, inverse: Array, deviation: Array | float) -> Landmarks:
        """Corners at (n, 2) on the plane z = 1 of the camera that sees them first. deviation: of their inverse depths
        (n,), relative, for each or for all."""
        rotation = cam_from_world[:3, :3]
        eyes = np.tile(-rotation.T @ cam_from_world[:3, 3], (len(seen), 1))
        directions = np.column_stack([seen, np.ones(len(seen))]) @ rotation
        return cls(eyes, directions, inverse, deviation * inverse)

    def __len__(self) -> int:
        return len(self.inverse)

    def of(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Landmarks:
        """Some of the corners."""
        return Landmarks(self.eyes[rows], self.directions[rows], self.inverse[rows], self.sigma[rows])

    def replaced(self, rows: NDArray[np.int64], others: Landmarks) -> Landmarks:
        """With others in some rows."""
        copies = [array.copy() for array in (self.eyes, self.directions, self.inverse, self.sigma)]
        for copy, other in zip(copies, (others.eyes, others.directions, others.inverse, others.sigma), strict=True):
            copy[rows] = other
        return Landmarks(*copies)

    @property
    def is_sure(self) -> NDArray[np.bool_]:
        """Which depths (n,) are known well, not guessed."""
        return np.asarray(self.sigma < SURE_DEPTH * self.inverse)

    def points(self) -> Array:
        """Where they are in the world (n, 3)."""
        return np.asarray(self.eyes + self.directions / self.inverse[:, None])

    def depth_in(self, cam_from_world: Array) -> Array:
        """Their depths (n,) along the axis of a camera."""
        return np.asarray(self.points() @ cam_from_world[2, :3] + cam_from_world[2, 3])

    def projected(self, cam_from_world: Array) -> tuple[Array, Array]:
        """Where a camera sees them: points (n, 3) in it, times their inverse depths, and the derivatives (n, 2) of
        the projections with respect to the inverse depths."""
        rotation, shift = cam_from_world[:3, :3], cam_from_world[:3, 3]
        offset = self.eyes @ rotation.T + shift
        cam = offset * self.inverse[:, None] + self.directions @ rotation.T
        z = np.where(cam[:, 2:] > 1e-6, cam[:, 2:], np.inf)
        return cam, offset[:, :2] / z - cam[:, :2] * offset[:, 2:] / z**2

    def narrowed(self, seen: Array, cam_from_world: Array, noise: float) -> Landmarks:
        """After a camera of known pose saw them at (n, 2) on the plane z = 1, with a standard deviation: a Kalman
        update of each inverse depth."""
        cam, along = self.projected(cam_from_world)
        variance = self.sigma**2
        innovation = ((seen - cam[:, :2] / cam[:, 2:]) * along).sum(axis=1)
        total = noise**2 + variance * (along**2).sum(axis=1)
        inverse = np.maximum(self.inverse + variance * innovation / total, self.inverse / FURTHEST)
        sigma = np.sqrt(variance * noise**2 / total)
        return replace(self, inverse=inverse, sigma=np.maximum(sigma, LEAST_SIGMA * inverse))

    def moved(self, change: Sim3) -> Landmarks:
        """After the world has moved; change: world after from world before."""
        scale, directions = change.scale, self.directions @ change.rotation.T
        return Landmarks(change.apply(self.eyes), directions, self.inverse / scale, self.sigma / scale)
