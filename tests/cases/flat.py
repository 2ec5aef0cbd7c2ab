"""A poster on a wall, which is all that a moving camera sees."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from recon.core.types import Image
from recon.plan import random_texture
from tests.cases.case import picture

SHAPE = (240, 320)
FOCAL = 256.0  # px
SIZE = (4.0, 3.0)  # m


def poster(*, printed: bool = True) -> Image:
    """What is on it (900, 1200, 3): photographs that show some of the same things, or a texture."""
    rows = [np.hstack([picture(column + 4 * row) for column in range(4)]) for row in range(3)]
    whole = np.vstack(rows) if printed else random_texture(1200, 900)
    return np.asarray(cv2.resize(whole, (1200, 900), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def seen(of: Image, step: int) -> Image:
    """The poster from a camera that walks towards it."""
    centre = np.array([0.02 * np.sin(2 * step), 0.05 * np.cos(step), -2.6 + 0.1 * step])
    cam_from_world = Rotation.from_rotvec([0.02 * np.sin(step), 0.02 * np.cos(step), 0]).as_matrix().T
    height, width = SHAPE
    intrinsics = np.array([[FOCAL, 0, width / 2], [0, FOCAL, height / 2], [0, 0, 1]])
    scale = SIZE[0] / of.shape[1]
    plane_from_pixel = np.array([[scale, 0, -SIZE[0] / 2], [0, scale, -SIZE[1] / 2], [0, 0, 1]])
    to_camera = np.column_stack([cam_from_world[:, 0], cam_from_world[:, 1], -cam_from_world @ centre])
    homography = intrinsics @ to_camera @ plane_from_pixel
    return np.asarray(cv2.warpPerspective(of, homography, (width, height), flags=cv2.INTER_AREA), dtype=np.uint8)
