"""Overlays and objects before the lens that never move, and ground without depth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from recon.core.similarity import Array
from recon.core.types import Image
from tests.cases.case import Case, Input, picture, sample_truth, write

FRAMES = 20
FONT = cv2.FONT_HERSHEY_SIMPLEX
WHITE = (255, 255, 255)
Drawing = Callable[[Image, int], Image]


def text(image: Image, words: str, corner: tuple[int, int], size: float) -> None:
    """White words with a black rim, drawn into the image."""
    cv2.putText(image, words, corner, FONT, size, (0, 0, 0), 4, cv2.LINE_AA)
    cv2.putText(image, words, corner, FONT, size, WHITE, 1, cv2.LINE_AA)


def with_clock(image: Image, number: int) -> Image:
    """The line of a doorbell: a clock whose seconds change, and a name."""
    text(image, f"17-03-2027 08:41:{number:02d}", (300, 470), 0.75)
    text(image, "GATE 2", (12, 28), 0.8)
    return image


def with_flight_data(image: Image, number: int) -> Image:
    """A drone's telemetry, all of which changes, and a cross in the middle."""
    text(image, f"H {51.3 + 0.4 * number:.1f}m  D {112 + 3 * number}m", (14, 466), 0.6)
    text(image, f"BAT {91 - number // 4}%", (540, 24), 0.5)
    text(image, f"47.{373100 + 41 * number}N 8.{541700 + 13 * number}E", (330, 466), 0.6)
    cv2.drawMarker(image, (320, 240), WHITE, cv2.MARKER_CROSS, 40, 2)
    return image


def with_logo(image: Image, _: int) -> Image:
    """A station's logo, two thirds transparent."""
    drawn = np.zeros(image.shape, np.uint8)
    cv2.circle(drawn, (560, 60), 34, WHITE, -1, cv2.LINE_AA)
    cv2.putText(drawn, "TV9", (532, 70), FONT, 0.9, (0, 0, 0), 3, cv2.LINE_AA)
    return np.asarray(cv2.addWeighted(image, 1.0, drawn, 0.35, 0.0), dtype=np.uint8)


def with_watermark(image: Image, _: int) -> Image:
    """The name of an app, 60 x 12 pixels."""
    cv2.putText(image, "SnapCam", (568, 472), FONT, 0.42, (235, 235, 235), 1, cv2.LINE_AA)
    return image


def with_bars(image: Image, _: int) -> Image:
    """A wide film in a narrow picture."""
    image[:54], image[-54:] = 16, 16
    return image


def with_bonnet(image: Image, _: int) -> Image:
    """A dark car in the lower part, in which the room is reflected."""
    mirrored = cv2.GaussianBlur(image[::-1], (0, 0), 9) // 6
    bonnet = np.zeros(image.shape[:2], np.uint8)
    cv2.ellipse(bonnet, (300, 530), (460, 140), 0, 0, 360, 1, -1)
    return np.where(bonnet[..., None] > 0, mirrored, image)


def drawn_over(draw: Drawing, count: int = FRAMES) -> Callable[[Path], Input]:
    """The sample's first frames with something drawn over each, by its number."""

    def make(folder: Path) -> Input:
        images = [draw(picture(index).copy(), index) for index in range(count)]
        return Input(write(folder / "images", images, 90), sample_truth(range(count)))

    return make


def flat_ground(folder: Path, count: int = 24, size: int = 640) -> Input:
    """A drone that flies lines over a flat field and looks straight down: the scene has no relief."""
    random = np.random.default_rng(7)
    scales = (3, 8, 24, 70, 200)
    layers = [
        cv2.resize(random.normal(0, 12, (1500 // s + 2, 2200 // s + 2)), (2200, 1500), interpolation=cv2.INTER_CUBIC)
        for s in scales
    ]
    field = cv2.applyColorMap(np.clip(np.sum(layers, axis=0) + 128, 0, 255).astype(np.uint8), cv2.COLORMAP_SUMMER)
    poses = {number: _above(number, random) for number in range(count)}
    images = [_seen(field, pose, size) for pose in poses.values()]
    return Input(write(folder / "images", images), poses)


def _above(number: int, random: np.random.Generator) -> Array:
    """world_from_cam (4, 4) of a camera 6 m above the field, whose x and y are those of the picture."""
    row, column = divmod(number, 6)
    pose = np.eye(4)
    turn = random.normal(0, 1.5, 3) + np.array([0, 0, 180 * (row % 2)])
    pose[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    pose[:3, 3] = [5 + 2 * (5 - column if row % 2 else column), 4 + 2 * row, -6 + random.normal(0, 0.1)]
    return pose


def _seen(field: Image, world_from_cam: Array, size: int) -> Image:
    intrinsics = np.array([[0.8 * size, 0, size / 2], [0, 0.8 * size, 0.375 * size], [0, 0, 1]])
    turn, centre = world_from_cam[:3, :3].T, world_from_cam[:3, 3]
    image_from_field = intrinsics @ np.column_stack([turn[:, :2], -turn @ centre]) @ np.diag([0.01, 0.01, 1])
    shape = (size, 3 * size // 4)
    return np.asarray(cv2.warpPerspective(field, image_from_field, shape, borderMode=cv2.BORDER_REFLECT), np.uint8)


LEFT_OUT = "of the picture and is left out"
CASES = (
    Case("clock", drawn_over(with_clock), "20 of 20 in one map", placed=20, ate=0.01, says=LEFT_OUT),
    Case("flight-data", drawn_over(with_flight_data), "20 of 20 in one map", placed=20, ate=0.01, says=LEFT_OUT),
    Case("logo", drawn_over(with_logo), "20 of 20 in one map", placed=20, ate=0.01, says=LEFT_OUT),
    Case("watermark", drawn_over(with_watermark), "20 of 20 in one map", placed=20, ate=0.01, says=LEFT_OUT),
    Case("bars", drawn_over(with_bars), "20 of 20 in one map", placed=20, ate=0.01, says=LEFT_OUT),
    Case("bonnet", drawn_over(with_bonnet), "20 of 20 in one map", placed=20, ate=0.01, says=LEFT_OUT),
    Case("flat-ground", flat_ground, "24 of 24, no bowl", placed=24, ate=0.1),
)
