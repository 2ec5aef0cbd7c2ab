"""Video stabilised by software: each picture is a window that moves within a larger one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.cases.case import SAMPLE, Case, Input, picture, sample_truth, write

MARGIN = 40  # px on each side
FRAMES = len(list((SAMPLE / "images").iterdir()))


def drift(count: int, most: int, seed: int = 1) -> NDArray[np.int64]:
    """Smooth random shifts (count, 2) [px], the largest of which is ``most``."""
    steps = np.random.default_rng(seed).normal(size=(count + 4, 2))
    path = np.cumsum([np.convolve(column, np.ones(5) / 5, "valid") for column in steps.T], axis=1).T
    path -= path.mean(axis=0)
    return np.round(path / np.abs(path).max() * most).astype(np.int64)


def stabilised(folder: Path, most: int) -> Input:
    """The sample as seen through a moving window. most: its largest shift [px]."""
    shown = [
        picture(index)[MARGIN + down : down - MARGIN, MARGIN + right : right - MARGIN]
        for index, (right, down) in enumerate(drift(FRAMES, most).tolist())
    ]
    return Input(write(folder / "photos", shown), sample_truth(range(FRAMES)))


CASES = (
    Case("stabilised", partial(stabilised, most=38), "as accurate as whole pictures, with a note", placed=FRAMES,
         ate=0.02, says="the image moves from frame to frame"),
)  # fmt: skip
