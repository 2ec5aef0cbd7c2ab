"""Frames seen small, with depth, and the comparison of what two images show in the same place."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.projection import back_project
from recon.core.similarity import Array
from recon.core.sizes import scaled
from recon.core.types import FrameGeometry, Image

SIDE = 160  # px, longest side of a view
WINDOW = 9  # px, within which patterns are compared
DETAIL = 4.0  # grey levels, standard deviation within a window; less shows nothing to compare
Grey = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class View:
    """A frame seen small, undistorted. grey: (h, w) uint8. depth: (h, w) float16 in the frame's unit, 0 = none.

    intrinsics: (3, 3) of both.
    """

    grey: NDArray[np.uint8]
    depth: NDArray[np.float16]
    intrinsics: Array

    @classmethod
    def of(cls, geometry: FrameGeometry) -> View:
        """The view of a frame with all of its depth, certain or not."""
        height, width = geometry.depth.shape
        size = scaled((width, height), SIDE)
        rows, columns = (
            ((np.arange(n) + 0.5) * full / n).astype(np.int64)
            for n, full in zip(size[::-1], (height, width), strict=True)
        )
        scale = np.diag([size[0] / width, size[1] / height, 1.0])
        depth = geometry.depth[np.ix_(rows, columns)].astype(np.float16)
        return cls(small_grey(geometry.colour), depth, scale @ geometry.intrinsics)

    def points(self) -> Array:
        """Points (h, w, 3) in the frame's camera, in its unit, NaN without depth."""
        height, width = self.depth.shape
        columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        depth = np.where(self.depth > 0, self.depth.astype(np.float64), np.nan)
        pixels = np.column_stack([columns.ravel(), rows.ravel()])
        return back_project(pixels, depth.ravel(), self.intrinsics).reshape(height, width, 3)


def small_grey(image: Image) -> NDArray[np.uint8]:
    """Grey levels of an RGB image, at most SIDE pixels long."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    size = scaled((image.shape[1], image.shape[0]), SIDE)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def correlation(first: Grey, second: Grey, valid: NDArray[np.bool_]) -> tuple[Grey, NDArray[np.bool_]]:
    """Normalised correlation (h, w) of the valid pixels of two images around each pixel, and where there is detail."""
    weight = valid.astype(np.float32)
    count = np.maximum(_mean(weight), 1e-6)
    first_mean, second_mean = _mean(first * weight) / count, _mean(second * weight) / count
    first_variance = np.maximum(_mean(first**2 * weight) / count - first_mean**2, 0)
    second_variance = np.maximum(_mean(second**2 * weight) / count - second_mean**2, 0)
    covariance = _mean(first * second * weight) / count - first_mean * second_mean
    detail = (np.maximum(first_variance, second_variance) > DETAIL**2) & (count > 0.5)
    return covariance / np.sqrt(np.maximum(first_variance * second_variance, 1e-3)), detail


def _mean(values: Grey) -> Grey:
    return np.asarray(cv2.blur(values, (WINDOW, WINDOW), borderType=cv2.BORDER_ISOLATED), dtype=np.float32)
