"""How far two estimates of a lens are apart."""

from __future__ import annotations

import numpy as np
import pycolmap

from recon.similarity import Array
from recon.types import Camera


def lens_change(before: Camera, after: Camera) -> float:
    """Largest shift of the image border between two estimates of one lens, as a share of half the diagonal.

    A lens that is wrong by more than about one percent bends a map: its scale drifts from frame to frame.
    """
    width, height = before.width, before.height
    border = np.array([[x, y, 1.0] for x in (0, width / 2, width) for y in (0, height / 2, height)])
    rays = border @ np.linalg.inv(before.matrix()).T
    shift = np.linalg.norm(_project(after, rays) - _project(before, rays), axis=1)
    return float(shift.max() / (0.5 * np.hypot(width, height)))


def _project(camera: Camera, rays: Array) -> Array:
    lens = pycolmap.Camera(model=camera.model, width=camera.width, height=camera.height, params=camera.params)
    return np.asarray(lens.img_from_cam(rays))
