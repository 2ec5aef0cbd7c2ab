"""Images that are mirrored left to right among others that are not."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

import numpy as np

from recon.core.types import Image
from tests.cases.case import Case, Input, picture, sample_truth, write

FRAMES = 24
LATER_HALF, SOME = range(FRAMES // 2, FRAMES), (5, 11, 17)


def mirrored(image: Image) -> Image:
    """The picture mirrored left to right."""
    return np.ascontiguousarray(image[:, ::-1])


def among_others(folder: Path, chosen: Collection[int]) -> Input:
    """The first pictures of the sample, some of them mirrored."""
    pictures = [mirrored(picture(index)) if index in chosen else picture(index) for index in range(FRAMES)]
    return Input(write(folder / "photos", pictures), sample_truth(range(FRAMES)))


SAID = "the image is mirrored left to right, unlike the others"
CASES = (
    Case("mirrored half", partial(among_others, chosen=LATER_HALF), "12 of 24; the others are named", placed=12,
         ate=0.01, says=SAID),
    Case("some mirrored", partial(among_others, chosen=SOME), "21 of 24; the others are named", placed=21, ate=0.01,
         says=SAID),
)  # fmt: skip
