"""Objects that move in front of the scene while the camera follows them, so that they stay in place in the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.types import Image, Mask
from tests.cases.case import Case, Input, picture, sample_truth, write

FRAMES = tuple(range(30))


@dataclass(frozen=True)
class Figure:
    """A person whom the camera follows. column: of the middle, as a share of the picture's width. width, height: shares
    of the picture's. enters: the first frame with the person.
    """

    column: float = 0.5
    width: float = 0.28
    height: float = 0.92
    enters: int = 0
    pattern: int = 0

    def place(self, step: int, shape: tuple[int, int]) -> tuple[Image, Mask]:
        """The person's clothes and pixels in a picture (height, width): swaying, walking, with varying size."""
        if step < self.enters:
            return np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.bool_)
        height, width = shape
        tall = self.height * height * (1 + 0.03 * np.sin(step / 5))
        wide = self.width * width * (1 + 0.03 * np.sin(step / 5))
        middle = self.column * width + 0.02 * width * np.sin(step / 4 + self.pattern)
        top = (1 - self.height) / 2 * height + 0.012 * height * np.sin(0.8 * step + self.pattern)
        to_picture = np.array([[wide / 100, 0, middle - wide / 2], [0, tall / 300, top]])
        clothes = _clothes((round(self.width * width), round(self.height * height)), self.pattern)
        from_clothes = to_picture @ np.diag([100 / clothes.shape[1], 300 / clothes.shape[0], 1])
        worn = cv2.warpAffine(clothes, from_clothes, (width, height))
        covered = cv2.warpAffine(_outline(step), to_picture, (width, height)) > 127
        return np.asarray(worn, dtype=np.uint8), np.asarray(covered)


def _clothes(size: tuple[int, int], pattern: int) -> Image:
    """A pattern (height, width, 3) with detail of two sizes."""
    random = np.random.default_rng(100 + pattern)
    coarse, fine = (
        cv2.resize(random.integers(0, 255, (size[1] // side, size[0] // side, 3), np.uint8), size) for side in (16, 7)
    )
    return np.asarray(cv2.addWeighted(coarse, 0.5, fine, 0.5, 0), dtype=np.uint8)


def _outline(step: int) -> NDArray[np.uint8]:
    """Head, body and two walking legs (300, 100), 255 inside."""
    inside, stride = np.zeros((300, 100), np.uint8), int(14 * np.sin(0.9 * step))
    cv2.ellipse(inside, (50, 32), (22, 30), 0, 0, 360, 255, -1)
    cv2.rectangle(inside, (8, 62), (92, 215), 255, -1)
    for foot in (30 + stride, 70 - stride):
        cv2.line(inside, ((foot + 50) // 2, 210), (foot, 292), 255, 26)
    return inside


def before(figures: Sequence[Figure], folder: Path, indices: Sequence[int] = FRAMES, width: int = 640) -> Input:
    """Pictures of the sample, ``width`` pixels wide, with figures in front."""
    pictures = []
    for step, index in enumerate(indices):
        room = picture(index)
        room = cv2.resize(room, (width, room.shape[0] * width // room.shape[1]), interpolation=cv2.INTER_AREA)
        for figure in figures:
            worn, covered = figure.place(step, room.shape[:2])
            room = np.where(covered[..., None], worn, room)
        pictures.append(np.asarray(room, dtype=np.uint8))
    return Input(write(folder / "pictures", pictures), sample_truth(indices))


def followed(folder: Path) -> Input:
    """A figure in the middle of every picture."""
    return before([Figure()], folder)


def large(folder: Path) -> Input:
    """A figure that covers 46% of every picture, with most of the matches."""
    return before([Figure(width=0.7, height=1.0)], folder)


def two(folder: Path) -> Input:
    """Two figures beside each other."""
    return before([Figure(column=0.33, width=0.2), Figure(column=0.68, width=0.2, pattern=1)], folder)


def entering(folder: Path) -> Input:
    """A figure that enters half-way through the pictures."""
    return before([Figure(enters=15)], folder)


def aside(folder: Path) -> Input:
    """A figure at the left edge."""
    return before([Figure(column=0.17)], folder)


MOVES = "something moves in front of the scene"
CASES = (
    Case("figure followed", followed, "30 of 30 in the room, the figure left out", placed=30, ate=0.03, says=MOVES),
    Case("large figure", large, "says that it cannot tell the two motions apart", says="two motions of similar extent"),
    Case("two figures", two, "30 of 30 in the room, the figures left out", placed=30, ate=0.03, says=MOVES),
    Case("figure enters", entering, "30 of 30 in the room, the figure left out", placed=30, ate=0.03, says=MOVES),
    Case("figure aside", aside, "30 of 30 in the room, the figure left out", placed=30, ate=0.03, says=MOVES),
)
