"""The difference between two estimates of a lens."""

from __future__ import annotations

import numpy as np

from recon.core.cameras import colmap_camera
from recon.core.types import Camera, SparseModel


def lens_change(before: Camera, after: Camera) -> float:
    """Largest shift of the image border between two estimates of one lens, as a share of half the diagonal.

    A lens error above about 1% bends the map: its scale drifts from frame to frame.
    """
    width, height = before.width, before.height
    border = np.array([[x, y, 1.0] for x in (0, width / 2, width) for y in (0, height / 2, height)])
    rays = border @ np.linalg.inv(before.matrix()).T
    pixels = [np.asarray(colmap_camera(camera).img_from_cam(rays)) for camera in (before, after)]
    shift = np.linalg.norm(pixels[1] - pixels[0], axis=1)
    return float(shift.max() / (0.5 * np.hypot(width, height)))


def largest_change(before: SparseModel, after: SparseModel) -> float:
    """The largest ``lens_change`` over all frames in both models."""
    pairs = {(before.cameras[index], after.cameras[index]) for index in before.cameras.keys() & after.cameras.keys()}
    return max((lens_change(*pair) for pair in pairs), default=0.0)
