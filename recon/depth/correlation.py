"""Normalised cross-correlation of image patches between a view and warped copies of its sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.depth.views import PosedView

Volume = NDArray[np.float32]
OUTSIDE = -1e4  # grey value outside a source's image


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches of side ``window`` [px] around every pixel of a grey image (h, w): their mean and deviation."""

    image: Volume
    mean: Volume
    deviation: Volume
    window: tuple[int, int]

    @classmethod
    def of(cls, image: Volume, window: int) -> Patches:
        size = (window, window)
        mean = _box_mean(image, size)
        return cls(image, mean, np.sqrt(np.maximum(_box_mean(image * image, size) - mean * mean, 1.0)), size)

    def correlation(self, warped: Volume) -> Volume:
        """Correlation with the patches of ``warped``, -1 where it is OUTSIDE."""
        other_mean = _box_mean(warped, self.window)
        variance = _box_mean(warped * warped, self.window)
        variance -= other_mean * other_mean
        score = _box_mean(self.image * warped, self.window)
        score -= self.mean * other_mean
        np.sqrt(np.maximum(variance, 1.0, out=variance), out=variance)
        variance *= self.deviation
        score /= variance
        np.copyto(score, -1, where=other_mean < 0)
        return score


def two_best(scores: Sequence[Volume]) -> Volume:
    """Mean (h, w) of the two best correlations of each pixel, or the best if no second source sees it."""
    first = np.full_like(scores[0], -1)
    second = first.copy()
    for score in scores:
        np.maximum(second, np.minimum(first, score), out=second)
        np.maximum(first, score, out=first)
    return np.asarray(np.minimum(np.where(second > -1, 0.5 * (first + second), first), 1), dtype=np.float32)


def grey(view: PosedView) -> Volume:
    """The view's image as grey values (h, w)."""
    return np.asarray(cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY).astype(np.float32), dtype=np.float32)


def _box_mean(image: Volume, size: tuple[int, int]) -> Volume:
    return np.asarray(cv2.boxFilter(image, -1, size), dtype=np.float32)
