"""Lenses as pycolmap knows them, for its projections and model files."""

from __future__ import annotations

import pycolmap

from recon.core.types import Camera


def colmap_camera(camera: Camera, camera_id: int = 1) -> pycolmap.Camera:
    """The camera for pycolmap's projection functions and model files."""
    return pycolmap.Camera(
        model=camera.model, width=camera.width, height=camera.height, params=list(camera.params), camera_id=camera_id
    )
