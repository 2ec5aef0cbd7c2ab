"""Whether a photo shows what the map would look like from its pose: a frame's pixels, moved there by their depth.

Matches between things that look alike, such as two chairs of a kind, can agree on a pose; their surroundings then look
different (Taira et al. 2018, dense pose verification).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.cameras import colmap_camera
from recon.core.projection import points_in_camera
from recon.core.similarity import Sim3
from recon.core.types import Camera, FrameGeometry, Image, PlacedFrame

SIDE = 160  # px, longest side of a view
WINDOW = 9  # px, within which patterns are compared
DETAIL = 4.0  # grey levels, standard deviation within a window; less shows nothing to compare
ALIKE = 0.5  # least correlation
Grey = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class View:
    """A frame seen small. grey: (h, w) uint8. points: (h, w, 3) float32 in the world, NaN without depth."""

    grey: NDArray[np.uint8]
    points: NDArray[np.float32]

    @classmethod
    def of(cls, placed: PlacedFrame, geometry: FrameGeometry) -> View:
        """The undistorted view of a frame with its depth, certain or not."""
        height, width = geometry.depth.shape
        factor = min(1.0, SIDE / max(height, width))
        small = (max(1, round(width * factor)), max(1, round(height * factor)))
        columns, rows = (
            ((np.arange(count) + 0.5) * full / count).astype(np.int64)
            for count, full in zip(small, (width, height), strict=True)
        )
        grid = np.meshgrid(rows, columns, indexing="ij")
        points = placed.world_from_cam.apply(points_in_camera(geometry, grid[0].ravel(), grid[1].ravel()))
        points[geometry.depth[grid[0], grid[1]].ravel() <= 0] = np.nan
        return cls(_small_grey(geometry.colour, small), points.reshape(*grid[0].shape, 3).astype(np.float32))


def agreement(image: Image, camera: Camera, world_from_cam: Sim3, view: View) -> tuple[float, float]:
    """Share of the view's detail that the image shows in the same way, and share of the view that lies in the image.

    image: (h, w, 3) RGB of any size, as ``camera`` at ``world_from_cam`` sees it.
    """
    height, width = image.shape[:2]
    factor = min(1.0, SIDE / max(height, width))
    small = _small_grey(image, (max(1, round(width * factor)), max(1, round(height * factor))))
    points_cam = world_from_cam.inverse().apply(view.points.reshape(-1, 3).astype(np.float64))
    with np.errstate(invalid="ignore"):
        pixels = np.asarray(colmap_camera(camera).img_from_cam(points_cam)) * (
            np.array(small.shape[::-1]) / (camera.width, camera.height)
        )
        seen = (points_cam[:, 2] > 0) & ((pixels > 0) & (pixels < small.shape[::-1])).all(axis=1)
    seen = seen.reshape(view.grey.shape)
    at = np.where(seen[..., None], pixels.reshape(*view.grey.shape, 2) - 0.5, -9).astype(np.float32)
    shown = cv2.remap(small, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    correlation, detail = _correlation(view.grey.astype(np.float32), np.asarray(shown, np.float32), seen)
    compared = seen & detail
    return float((correlation[compared] > ALIKE).mean()) if compared.any() else 0.0, float(seen.mean())


def _small_grey(image: Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _correlation(first: Grey, second: Grey, valid: NDArray[np.bool_]) -> tuple[Grey, NDArray[np.bool_]]:
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
