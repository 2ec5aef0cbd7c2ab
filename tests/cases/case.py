"""The definition of a case, and pictures of the sample from which to make one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from recon.core.similarity import Array
from recon.core.types import Image
from recon.exports.trajectory import read_tum

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"


@dataclass(frozen=True)
class Input:
    """Input of ``recon run``. source: its argument. truth: true world_from_cam (4, 4) by frame index, if known.
    options: of the command line.
    """

    source: Path
    truth: dict[int, Array] | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One situation. make: writes the input into a new folder. expected: in words, for the table.

    exit_code: of ``recon run``. placed: least number of frames with a pose. ate: largest RMSE of the camera centres
    after Sim(3) alignment [m of the sample's room]. says: a part of the output.
    """

    name: str
    make: Callable[[Path], Input]
    expected: str
    exit_code: int = 0
    placed: int = 0
    ate: float | None = None
    says: str = ""


def picture(index: int) -> Image:
    """A picture (480, 640, 3) of the sample, BGR as in OpenCV."""
    found = cv2.imread(str(SAMPLE / "images" / f"{index:06d}.jpg"))
    return np.asarray(found, dtype=np.uint8)


def write(folder: Path, pictures: Sequence[Image], quality: int = 93) -> Path:
    """Write pictures as numbered JPEG files into ``folder``, which is created."""
    folder.mkdir(parents=True)
    for number, image in enumerate(pictures):
        cv2.imwrite(str(folder / f"{number:06d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return folder


def sample_truth(indices: Sequence[int]) -> dict[int, Array]:
    """True poses if frame i shows the sample's frame ``indices[i]``."""
    poses = read_tum(SAMPLE / "poses.txt").world_from_cam
    return {number: poses[index] for number, index in enumerate(indices)}
