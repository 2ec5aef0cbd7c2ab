"""Whether pictures look like crops, whose principal points may lie anywhere, and whether freeing these has helped.

Pictures that were cropped by hand have a size each, while cameras write all their pictures in one size or two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pycolmap

from recon.sfm.database import MatchDatabase

FEWEST_FRAMES = 6  # that tell principal points from turned cameras
OFF_CENTRE = 0.002  # of the longest side; no lens starts so far from the middle
POINTS_KEPT = 0.97  # of the observations


def look_cropped(database: MatchDatabase, frames: Sequence[int]) -> bool:
    """Whether most of the frames have a size of their own, and no calibrated lens."""
    if len(frames) < FEWEST_FRAMES or database.fixed_cameras():
        return False
    cameras = [database.camera(index) for index in frames]
    return 2 * len({(camera.width, camera.height) for camera in cameras}) > len(frames)


def have_moved(database: MatchDatabase, frames: Sequence[int]) -> bool:
    """Whether a principal point of the frames was found away from the middle."""
    return any(off_centre(database.camera(index)) > OFF_CENTRE for index in frames)


def off_centre(camera: pycolmap.Camera) -> float:
    """Distance of the principal point from the middle of the picture, in longest sides."""
    offset = camera.principal_point_x - camera.width / 2, camera.principal_point_y - camera.height / 2
    return float(np.hypot(*offset) / max(camera.width, camera.height))


def fits_better(freer: pycolmap.Reconstruction, usual: pycolmap.Reconstruction, share: float) -> bool:
    """Whether a model with freer lenses explains as many observations with at most ``share`` of the error."""
    if freer.num_reg_images() < usual.num_reg_images() or not usual.num_points3D():
        return False
    kept = freer.compute_num_observations() / usual.compute_num_observations()
    error = freer.compute_mean_reprojection_error() / usual.compute_mean_reprojection_error()
    return bool(kept >= POINTS_KEPT and error <= share)
