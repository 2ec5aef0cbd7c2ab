"""Several lenses in one set of pictures: zooms, many cameras, and one camera that looks like many."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from recon.core.types import Image
from tests.cases.case import Case, Input, picture, sample_truth, write

FRAMES = 24


def zoomed(image: Image, factor: float) -> Image:
    """The picture by a lens ``factor`` times as long, of the same size."""
    height, width = image.shape[:2]
    shift = (1 - factor) / 2 * np.array([width - 1, height - 1])
    larger = np.array([[factor, 0, shift[0]], [0, factor, shift[1]]])
    return np.asarray(cv2.warpAffine(image, larger, (width, height), flags=cv2.INTER_CUBIC), dtype=np.uint8)


def zooms(folder: Path, factors: Sequence[float]) -> Input:
    """The first photos of the sample, each with its own focal length, without EXIF."""
    pictures = [zoomed(picture(index), factor) for index, factor in enumerate(factors)]
    return Input(write(folder / "photos", pictures), sample_truth(range(len(factors))))


def in_no_order(factors: Sequence[float], seed: int) -> list[float]:
    """A factor for every frame, drawn from ``factors``."""
    return np.random.default_rng(seed).choice(factors, FRAMES).tolist()


def zoomed_video(folder: Path) -> Input:
    """A video whose zoom changes once, in the middle."""
    folder.mkdir(parents=True)
    path = folder / "zoom.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (640, 480))
    for index in range(FRAMES):
        writer.write(zoomed(picture(index), 1.4 if index >= FRAMES // 2 else 1.0))
    writer.release()
    return Input(path, sample_truth(range(FRAMES)))


def folders(folder: Path) -> Input:
    """Two cameras with their photos in separate folders, read by a pattern."""
    half = FRAMES // 2
    write(folder / "a", [picture(index) for index in range(half)])
    write(folder / "b", [zoomed(picture(index), 1.3) for index in range(half, FRAMES)])
    return Input(folder / "*" / "*.jpg", sample_truth(range(FRAMES)), ("--cameras", "per-folder"))


def ten_cameras(folder: Path) -> Input:
    """Tourists' photos: ten cameras, some of which took several."""
    return zooms(folder, in_no_order(np.random.default_rng(5).uniform(1, 1.7, 10).tolist(), 4))


LENSES = {
    "zoom-1.5": [1.0, 1.5] * (FRAMES // 2),
    "zoom-2": [1.0, 2.0] * (FRAMES // 2),
    "zoom-1.2": in_no_order([1.0, 1.2], 1),
    "zoom-three": in_no_order([1.0, 1.25, 1.6], 3),
}
PLACED = f"{FRAMES} of {FRAMES}, a lens for each focal length"
CASES = (
    *(Case(name, partial(zooms, factors=factors), PLACED, placed=FRAMES, ate=0.02) for name, factors in LENSES.items()),
    Case("zoom-video", zoomed_video, PLACED, placed=FRAMES, ate=0.02),
    Case("cameras-ten", ten_cameras, f"{FRAMES} of {FRAMES}", placed=FRAMES, ate=0.05),
    Case("cameras-folders", folders, PLACED, placed=FRAMES, ate=0.02),
)
