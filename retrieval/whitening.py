"""PCA whitening: shorter descriptors whose directions count alike (Jegou and Chum 2012)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon.core.types import Image
from retrieval.describer import Descriptors, Masks, PlaceDescriber, normalised
from retrieval.digest import digest_of_arrays

FLOOR = 1e-3  # of the largest variance: directions below it are noise that whitening would blow up


@dataclass(frozen=True, eq=False)
class Whitening:
    """mean: (dim,). projection: (dim, shorter)."""

    mean: NDArray[np.float32]
    projection: NDArray[np.float32]

    @classmethod
    def learn(cls, descriptors: Descriptors, dim: int = 512) -> Whitening:
        """From descriptors (n, any); the result is no longer than n - 1. Raises ValueError for fewer than 2."""
        if len(descriptors) < 2:
            raise ValueError(f"whitening needs at least 2 descriptors, got {len(descriptors)}")
        mean = descriptors.mean(axis=0, dtype=np.float64)
        _, spread, directions = np.linalg.svd(descriptors - mean, full_matrices=False)
        kept = min(dim, len(descriptors) - 1, int(np.count_nonzero(spread > 1e-6 * spread[0])))
        deviation = np.sqrt(spread[:kept] ** 2 + FLOOR * spread[0] ** 2)
        projection = directions[:kept].T / deviation
        return cls(mean.astype(np.float32), projection.astype(np.float32))

    @property
    def dim(self) -> int:
        return int(self.projection.shape[1])

    def apply(self, descriptors: Descriptors) -> Descriptors:
        """Whitened descriptors (n, shorter) of length 1."""
        return normalised((descriptors - self.mean) @ self.projection)


class WhitenedDescriber:
    """A describer whose descriptors are whitened."""

    def __init__(self, describer: PlaceDescriber, whitening: Whitening) -> None:
        self._describer, self._whitening = describer, whitening
        self.name = f"{describer.name} whitened {digest_of_arrays(whitening.mean, whitening.projection)}"
        self.dim = whitening.dim

    def describe(self, images: Sequence[Image], masks: Masks = None) -> Descriptors:
        return self._whitening.apply(self._describer.describe(images, masks))
