"""A box of the world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon.core.errors import SettingsError
from recon.core.similarity import Array


@dataclass(frozen=True, eq=False)
class Box:
    """low, high: (3,), its smallest and largest coordinates; its sides lie along the axes."""

    low: Array
    high: Array

    @classmethod
    def of(cls, text: str) -> Box:
        """The box between two opposite corners, ``"X,Y,Z X,Y,Z"``. Raises SettingsError for anything else."""
        try:
            first, second = (np.array([float(number) for number in word.split(",")]) for word in text.split())
            sound = (
                first.shape == second.shape == (3,) and np.isfinite([first, second]).all() and (first != second).all()
            )
        except ValueError:
            sound = False
        if not sound:
            raise SettingsError(f'--box takes two opposite corners, "X,Y,Z X,Y,Z", got "{text}".')
        return cls(np.minimum(first, second), np.maximum(first, second))

    def contains(self, points: Array) -> NDArray[np.bool_]:
        """Which points (..., 3) lie in the box."""
        return np.asarray(((points >= self.low) & (points <= self.high)).all(axis=-1))
