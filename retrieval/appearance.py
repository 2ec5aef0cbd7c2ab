"""Whether a photo shows what the map would look like from its pose: a frame's pixels, moved there by their depth.

Matches between things that look alike, such as two chairs of a kind, can agree on a pose; their surroundings then look
different (Taira et al. 2018, dense pose verification).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.cameras import colmap_camera
from recon.core.similarity import Array, Sim3
from recon.core.types import Camera, Image
from recon.mapping.appearance import View, correlation, small_grey

ALIKE = 0.5  # least correlation


def agreement(image: Image, camera: Camera, cam_from_view: Sim3, view: View) -> tuple[float, float]:
    """Share of the view's detail that an image shows in the same way, and share of the view that lies in the image.

    image: (h, w, 3) RGB of any size, seen by ``camera``. cam_from_view: to its unit from that of the view.
    """
    small, shape = small_grey(image), view.grey.shape
    pixels, seen = _projected(camera, cam_from_view.apply(view.points()), small.shape[::-1])
    at = np.where(seen[..., None], pixels - 0.5, 0).astype(np.float32)
    shown = cv2.remap(
        small.astype(np.float32), at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    correlated, detail = correlation(view.grey.astype(np.float32), np.asarray(shown, np.float32), seen)
    compared = seen & detail
    return float((correlated[compared] > ALIKE).mean()) if compared.any() else 0.0, float(seen.sum() / np.prod(shape))


def _projected(camera: Camera, points_cam: Array, size: tuple[int, ...]) -> tuple[Array, NDArray[np.bool_]]:
    """Pixels (h, w, 2) of points (h, w, 3) in the camera's image at ``size`` (width, height), and which lie in it."""
    flat = points_cam.reshape(-1, 3)
    with np.errstate(invalid="ignore"):
        pixels = np.asarray(colmap_camera(camera).img_from_cam(flat)) * (np.array(size) / (camera.width, camera.height))
        seen = (flat[:, 2] > 0) & ((pixels > 0) & (pixels < size)).all(axis=1)
    return pixels.reshape(*points_cam.shape[:2], 2), seen.reshape(points_cam.shape[:2])
