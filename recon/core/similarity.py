"""Similarity transforms Sim(3): the poses of frames, submaps and loop edges.

A transform named ``b_from_a`` maps coordinates in frame a to coordinates in frame b.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ROTATION_ERROR = 1e-5


@dataclass(frozen=True, eq=False)
class Sim3:
    """``x_b = scale * rotation @ x_a + translation``.

    rotation: (3, 3), orthonormal with determinant 1. translation: (3,), in units of b.
    Raises ValueError if the scale is not positive and finite or the matrix is not a rotation.
    """

    scale: float
    rotation: Array
    translation: Array

    def __post_init__(self) -> None:
        rotation = np.array(self.rotation, dtype=np.float64)
        translation = np.array(self.translation, dtype=np.float64)
        if rotation.shape != (3, 3) or translation.shape != (3,):
            raise ValueError(f"Sim3 needs shapes (3, 3) and (3,), got {rotation.shape} and {translation.shape}")
        if not (np.isfinite(self.scale) and self.scale > 0 and np.isfinite(translation).all()):
            raise ValueError(f"Sim3 needs a positive scale and finite numbers, got scale {self.scale}")
        # np.allclose takes ten times as long, and long maps have many transforms.
        if not np.abs(rotation @ rotation.T - np.eye(3)).max() < ROTATION_ERROR or np.linalg.det(rotation) < 0:
            raise ValueError("Sim3 needs a rotation: orthonormal, determinant 1")
        rotation.flags.writeable = translation.flags.writeable = False
        object.__setattr__(self, "scale", float(self.scale))
        object.__setattr__(self, "rotation", rotation)
        object.__setattr__(self, "translation", translation)

    @classmethod
    def identity(cls) -> Sim3:
        return cls(1.0, np.eye(3), np.zeros(3))

    @classmethod
    def from_matrix(cls, matrix: Array) -> Sim3:
        """From a (4, 4) matrix ``[[scale * rotation, translation], [0, 1]]``."""
        linear = np.asarray(matrix, dtype=np.float64)[:3, :3]
        scale = float(np.cbrt(np.linalg.det(linear)))
        with np.errstate(all="ignore"):  # the constructor refuses what is not finite
            return cls(scale, linear / scale, np.asarray(matrix)[:3, 3])

    def matrix(self) -> Array:
        """The (4, 4) matrix ``[[scale * rotation, translation], [0, 1]]``."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.scale * self.rotation
        matrix[:3, 3] = self.translation
        return matrix

    def __matmul__(self, other: Sim3) -> Sim3:
        """``c_from_a = c_from_b @ b_from_a``."""
        return Sim3(
            self.scale * other.scale,
            self.rotation @ other.rotation,
            self.scale * self.rotation @ other.translation + self.translation,
        )

    def inverse(self) -> Sim3:
        rotation = self.rotation.T
        return Sim3(1.0 / self.scale, rotation, -(rotation @ self.translation) / self.scale)

    def apply(self, points: Array) -> Array:
        """Map points (..., 3) of a to points (..., 3) of b."""
        return np.asarray(self.scale * (points @ self.rotation.T) + self.translation)

    def isclose(self, other: Sim3, atol: float = 1e-9) -> bool:
        return bool(np.allclose(self.matrix(), other.matrix(), atol=atol))
