"""Two places in one input, with little or nothing that shows how they lie to each other."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from recon.core.similarity import Array
from recon.core.types import Image
from tests.cases.case import Case, Input, picture, sample_truth, write
from tests.cases.videos import Track, write_video

PART = 12  # frames of a place
ELSEWHERE = 34  # frame of the sample at which the second place begins
DISSOLVE = 4  # frames
BLANK = 6  # frames


def dissolve(folder: Path) -> Input:
    """A film that dissolves from one place into another."""
    ends = [(picture(PART + step), picture(ELSEWHERE + step)) for step in range(DISSOLVE)]
    mixed = [
        np.asarray(cv2.addWeighted(first, 1 - share, second, share, 0), dtype=np.uint8)
        for share, (first, second) in zip(np.linspace(0.2, 0.8, DISSOLVE), ends, strict=True)
    ]
    folder.mkdir(parents=True)
    film = Track(_with_between(mixed, ELSEWHERE + DISSOLVE))
    return Input(write_video(folder / "film.mp4", film), _truth(DISSOLVE, ELSEWHERE + DISSOLVE))


def blank_wall(folder: Path) -> Input:
    """A walk past a wall without any detail."""
    random, shade = np.random.default_rng(0), np.linspace(180, 200, 640)[:, None]
    blank = [np.clip(shade + random.normal(0, 2, (480, 640, 3)), 0, 255).astype(np.uint8) for _ in range(BLANK)]
    return Input(write(folder / "pictures", _with_between(blank, ELSEWHERE)), _truth(BLANK, ELSEWHERE))


def gap(folder: Path) -> Input:
    """Photographs of two places that have nothing in common."""
    return Input(write(folder / "pictures", _with_between([], ELSEWHERE)), _truth(0, ELSEWHERE))


def _with_between(pictures: list[Image], second: int) -> list[Image]:
    """The pictures between two places. second: frame of the sample at which the second place begins."""
    return [*map(picture, range(PART)), *pictures, *map(picture, range(second, second + PART))]


def _truth(between: int, second: int) -> dict[int, Array]:
    indices = [*range(PART), *range(between), *range(second, second + PART)]
    known = sample_truth(indices)
    return {row: pose for row, pose in known.items() if not PART <= row < PART + between}


SEAM = "points join the"
CASES = (
    Case("gap", gap, "one place; the frames of the other are not placed", placed=PART, ate=0.01, says="NOT PLACED"),
    Case("dissolve", dissolve, "doubtful: hardly any points join the two places", says=SEAM),
    Case(
        "blank wall",
        blank_wall,
        "one place; the frames of the other are not placed",
        placed=PART,
        ate=0.01,
        says="NOT PLACED",
    ),
)
