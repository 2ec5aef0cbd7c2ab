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
from recon.core.projection import back_project
from recon.core.similarity import Array, Sim3
from recon.core.sizes import scaled
from recon.core.types import Camera, FrameGeometry, Image

SIDE = 160  # px, longest side of a view
WINDOW = 9  # px, within which patterns are compared
DETAIL = 4.0  # grey levels, standard deviation within a window; less shows nothing to compare
ALIKE = 0.5  # least correlation
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
        return cls(_small_grey(geometry.colour), depth, scale @ geometry.intrinsics)

    def points(self) -> Array:
        """Points (h, w, 3) in the frame's camera, in its unit, NaN without depth."""
        height, width = self.depth.shape
        columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        depth = np.where(self.depth > 0, self.depth.astype(np.float64), np.nan)
        pixels = np.column_stack([columns.ravel(), rows.ravel()])
        return back_project(pixels, depth.ravel(), self.intrinsics).reshape(height, width, 3)


def agreement(image: Image, camera: Camera, cam_from_view: Sim3, view: View) -> tuple[float, float]:
    """Share of the view's detail that an image shows in the same way, and share of the view that lies in the image.

    image: (h, w, 3) RGB of any size, seen by ``camera``. cam_from_view: to its unit from that of the view.
    """
    small, shape = _small_grey(image), view.grey.shape
    pixels, seen = _projected(camera, cam_from_view.apply(view.points()), small.shape[::-1])
    at = np.where(seen[..., None], pixels - 0.5, 0).astype(np.float32)
    shown = cv2.remap(
        small.astype(np.float32), at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    correlation, detail = _correlation(view.grey.astype(np.float32), np.asarray(shown, np.float32), seen)
    compared = seen & detail
    return float((correlation[compared] > ALIKE).mean()) if compared.any() else 0.0, float(seen.sum() / np.prod(shape))


def _projected(camera: Camera, points_cam: Array, size: tuple[int, ...]) -> tuple[Array, NDArray[np.bool_]]:
    """Pixels (h, w, 2) of points (h, w, 3) in the camera's image at ``size`` (width, height), and which lie in it."""
    flat = points_cam.reshape(-1, 3)
    with np.errstate(invalid="ignore"):
        pixels = np.asarray(colmap_camera(camera).img_from_cam(flat)) * (np.array(size) / (camera.width, camera.height))
        seen = (flat[:, 2] > 0) & ((pixels > 0) & (pixels < size)).all(axis=1)
    return pixels.reshape(*points_cam.shape[:2], 2), seen.reshape(points_cam.shape[:2])


def _small_grey(image: Image) -> NDArray[np.uint8]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    size = scaled((image.shape[1], image.shape[0]), SIDE)
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
