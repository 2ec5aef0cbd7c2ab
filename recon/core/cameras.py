"""Cameras as pycolmap's objects, for its projections and model files."""

from __future__ import annotations

import numpy as np
import pycolmap

from recon.core.similarity import Array
from recon.core.types import Camera


def colmap_camera(camera: Camera, camera_id: int = 1) -> pycolmap.Camera:
    """The camera for pycolmap's projection functions and model files."""
    return pycolmap.Camera(
        model=camera.model, width=camera.width, height=camera.height, params=list(camera.params), camera_id=camera_id
    )


def points_at_depth_one(camera: pycolmap.Camera, pixels: Array) -> Array:
    """The points (n, 2) of the plane z = 1 that the camera sees at pixels (n, 2)."""
    return np.asarray(camera.cam_from_img(np.asarray(pixels, dtype=np.float64)), dtype=np.float64)
