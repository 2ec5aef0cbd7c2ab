"""How the camera moves: it only turns, hardly moves, stands still, or stands still while the object turns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from recon.core.similarity import Array
from recon.core.types import Image
from tests.cases.case import Case, Input, picture, sample_truth, write

SIZE = (640, 480)
FOCAL = 500.0
HALF_ROOM = np.array([3.0, 1.4, 2.5])  # m; x right, y down, z forward


def rays(size: tuple[int, int] = SIZE) -> Array:
    """Directions (height, width, 3) of the pixels of a camera whose focal length is FOCAL at a width of 640."""
    focal = FOCAL * size[0] / SIZE[0]
    u, v = np.meshgrid(np.arange(size[0]) + 0.5 - size[0] / 2, np.arange(size[1]) + 0.5 - size[1] / 2)
    return np.stack([u / focal, v / focal, np.ones_like(u)], axis=-1)


@cache
def wall(number: int) -> Image:
    """The picture (960, 1280, 3) on one of the six sides of the room."""
    tiles = [picture(7 * number + step) for step in range(4)]
    return np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])])


def room(world_from_cam: Array, size: tuple[int, int] = SIZE) -> Image:
    """What a camera at a pose (4, 4) sees inside a box of HALF_ROOM with a picture on each side."""
    directions = rays(size) @ world_from_cam[:3, :3].T
    centre = world_from_cam[:3, 3]
    with np.errstate(divide="ignore"):
        lengths = (np.sign(directions) * HALF_ROOM - centre) / directions
    axis = lengths.argmin(axis=-1)
    hit = (centre + np.take_along_axis(lengths, axis[..., None], -1) * directions) / HALF_ROOM
    image = np.zeros((*axis.shape, 3), np.uint8)
    for side in range(6):
        along, sign = side // 2, 1 if side % 2 else -1
        across = [other for other in (0, 2, 1) if other != along]
        x, y = (((hit[..., other] + 1) / 2).astype(np.float32) for other in across)
        texture = wall(side)
        seen = cv2.remap(texture, x * (texture.shape[1] - 1), y * (texture.shape[0] - 1), cv2.INTER_LINEAR)
        mask = (axis == along) & (np.sign(hit[..., along]) == sign)
        image[mask] = seen[mask]
    return image


def pose(centre: Sequence[float], yaw: float, pitch: float = 0.0) -> Array:
    """world_from_cam (4, 4) of a camera at ``centre`` [m] that is turned [degrees]."""
    result = np.eye(4)
    result[:3, :3] = Rotation.from_euler("yx", [yaw, pitch], degrees=True).as_matrix()
    result[:3, 3] = centre
    return result


def shoot(folder: Path, poses: Sequence[Array], size: tuple[int, int] = SIZE) -> Input:
    """Pictures of the room from ``poses``, with a little noise as a sensor has."""
    noise = np.random.default_rng(1)
    pictures = [
        np.clip(room(found, size) + noise.normal(0, 2, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
        for found in poses
    ]
    return Input(write(folder / "images", pictures), dict(enumerate(poses)))


def pan(folder: Path, shake: float = 0.0, count: int = 16, size: tuple[int, int] = SIZE) -> Input:
    """A camera on a tripod that turns by 6 degrees a frame. shake: motion of the camera's centre [m]."""
    shifts = shake * np.random.default_rng(2).uniform(-1, 1, (count, 3))
    return shoot(folder, [pose(shifts[i], 6 * i, 4 * np.sin(i / 3)) for i in range(count)], size)


def walk(start: float, count: int, yaw: float = 0.0) -> list[Array]:
    """Poses of a walk to the right, 0.12 m a frame, looking ahead."""
    return [pose((start + 0.12 * i, 0.05 * np.sin(i), -1.2), yaw + 2 * np.sin(i / 4)) for i in range(count)]


def pan_in_a_walk(folder: Path, size: tuple[int, int] = SIZE) -> Input:
    """A walk that stops for a look to the side and back, then continues."""
    before = walk(-1.4, 12)
    after = walk(-1.4 + 0.12 * 12, 12)
    place = before[-1][:3, 3]
    turns = [pose(place, 2 * np.sin(11 / 4) + 60 * np.sin(np.pi * i / 16)) for i in range(1, 16)]
    return shoot(folder, [*before, *turns, *after], size)


def poster(folder: Path, moves: float = 0.0, count: int = 12, size: tuple[int, int] = SIZE) -> Input:
    """A wall 3 m away, filmed from one place or from places that are ``moves`` [m] apart."""
    texture, turn = wall(2), np.random.default_rng(4).uniform(-1, 1, (count, 3))
    centre = np.array([[size[0] / 2], [size[1] / 2]])
    matrix = np.diag([FOCAL * size[0] / SIZE[0], FOCAL * size[0] / SIZE[0], 1.0])
    matrix[:2, 2:] = centre
    pictures, poses = [], []
    for i in range(count):
        found = pose((moves * (i - count / 2), 0.3 * moves * turn[i, 0], -3.0), 12 * turn[i, 1], 8 * turn[i, 2])
        cam_from_world = np.linalg.inv(found)
        plane_from_texture = np.array([[0.005, 0, -3.2], [0, 0.005, -2.4], [0, 0, 1]])
        homography = matrix @ np.column_stack([cam_from_world[:3, :2], cam_from_world[:3, 3]]) @ plane_from_texture
        pictures.append(cv2.warpPerspective(texture, homography, size, borderMode=cv2.BORDER_REFLECT))
        poses.append(found)
    return Input(write(folder / "images", pictures), dict(enumerate(poses)))


def turntable(folder: Path, count: int = 16, size: tuple[int, int] = SIZE) -> Input:
    """A textured jar on a turntable in front of a wall, 9 degrees a frame, filmed by a static camera."""
    scale = size[0] / SIZE[0]
    background = cv2.resize(picture(40), size)
    print_ = np.hstack([cv2.resize(picture(index), (320, 320)) for index in (0, 12, 24, 36)])
    u, v = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    x, y = (u / scale - 320) / 120, (v / scale - 100) / 280  # of the jar's radius and height
    inside = (np.abs(x) < 1) & (y > 0) & (y < 1)
    around = np.arcsin(np.clip(x, -1, 1)) / (2 * np.pi)
    noise, pictures = np.random.default_rng(3), []
    for i in range(count):
        column = ((around + i / 40) % 1 * print_.shape[1]).astype(np.float32)
        jar = cv2.remap(print_, column, (y * 319).astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        image = np.where(inside[..., None], jar, background) + noise.normal(0, 2, (*x.shape, 3))
        pictures.append(np.clip(image, 0, 255).astype(np.uint8))
    return Input(write(folder / "images", pictures))


def static_start(folder: Path, still: int = 16, moving: int = 16) -> Input:
    """The camera stands still at first, with a sensor's noise, and then walks."""
    order = [0] * still + list(range(moving))
    noise = np.random.default_rng(5)
    pictures = [np.clip(picture(index) + noise.normal(0, 3, (480, 640, 3)), 0, 255).astype(np.uint8) for index in order]
    return Input(write(folder / "images", pictures), sample_truth(order))


def tripod(folder: Path, count: int = 12) -> Input:
    """A camera that stands still and films the same view."""
    return static_start(folder, still=count, moving=0)


def blank(folder: Path, count: int = 4) -> Input:
    """A white wall."""
    noise = np.random.default_rng(6)
    plain = [np.clip(noise.normal(230, 1, (240, 320, 3)), 0, 255).astype(np.uint8) for _ in range(count)]
    return Input(write(folder / "images", [cv2.GaussianBlur(image, (0, 0), 4) for image in plain]))


def two(folder: Path) -> Input:
    """Two photographs, half a metre apart in a room."""
    return Input(write(folder / "photos", [picture(index) for index in (0, 3)]), sample_truth((0, 3)))


TURNED = "the camera only turned on the spot: rotations alone explain"
CASES = (
    Case("pan on a tripod", pan, "refused: the camera only turned", exit_code=2, says=TURNED),
    Case("pan by hand, 1 cm", partial(pan, shake=0.01), "refused: the camera only turned", exit_code=2, says=TURNED),
    Case("poster from one place", poster, "refused: the camera only turned", exit_code=2, says=TURNED),
    Case("poster from several places", partial(poster, moves=0.25), "12 of 12", placed=12, ate=0.05),
    Case("pan in a walk", pan_in_a_walk, "a map of at least the walk's 24 frames", placed=24, ate=0.05),
    Case("still camera", tripod, "refused: the camera stood still", exit_code=2, says="the camera stood still, and"),
    Case("turntable", turntable, "refused: use masks", exit_code=2, says="mask the background with --masks"),
    Case("still at first", static_start, "32 of 32", placed=32, ate=0.02),
    Case("white wall", blank, "refused: no detail", exit_code=2, says="they show too little detail"),
    Case("two photographs", two, "refused: three are needed", exit_code=2, says="a map needs three or more"),
)
