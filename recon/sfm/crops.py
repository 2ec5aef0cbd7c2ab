"""Whether images look cropped, so that the principal point may lie anywhere, and whether estimating it helped.

Images cropped by hand all differ in size, while a camera writes its images in one or two sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pycolmap

from recon.core.types import Camera
from recon.sfm.database import MatchDatabase

FEWEST_FRAMES = 6  # to separate the principal point from rotation
OFF_CENTRE = 0.002  # of the longest side; estimates start closer to the centre
POINTS_KEPT = 0.97  # of the observations


def look_cropped(database: MatchDatabase, frames: Sequence[int]) -> bool:
    """Whether the frames have many different sizes and no calibrated lens."""
    if len(frames) < FEWEST_FRAMES or database.lenses.fixed():
        return False
    cameras = [database.lenses[index] for index in frames]
    return 2 * len({(camera.width, camera.height) for camera in cameras}) > len(frames)


def have_moved(database: MatchDatabase, frames: Sequence[int]) -> bool:
    """Whether any frame's principal point is away from the image centre."""
    return any(off_centre(database.lenses[index]) > OFF_CENTRE for index in frames)


def have_different_centres(cameras: Iterable[Camera]) -> bool:
    """Whether lenses of images of one size have different principal points, as in a stabilised video."""
    centres = {(camera.width, camera.height, *camera.matrix()[:2, 2]) for camera in cameras}
    return len(centres) > 2 * len({centre[:2] for centre in centres})


def off_centre(camera: pycolmap.Camera) -> float:
    """Distance of the principal point from the image centre, in longest sides."""
    offset = camera.principal_point_x - camera.width / 2, camera.principal_point_y - camera.height / 2
    return float(np.hypot(*offset) / max(camera.width, camera.height))


def fits_better(freer: pycolmap.Reconstruction, usual: pycolmap.Reconstruction, share: float) -> bool:
    """Whether a model with freer lenses keeps the frames and observations, with at most ``share`` of the error."""
    if freer.num_reg_images() < usual.num_reg_images() or not usual.num_points3D():
        return False
    kept = freer.compute_num_observations() / usual.compute_num_observations()
    error = freer.compute_mean_reprojection_error() / usual.compute_mean_reprojection_error()
    return bool(kept >= POINTS_KEPT and error <= share)
