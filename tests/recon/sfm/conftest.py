"""The first frames of the bundled sample, with their features matched."""

from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest

from recon.core.types import Frame
from recon.sfm.database import MatchDatabase
from recon.sfm.frontend import WINDOW
from recon.sfm.matching import Features, SiftMatcher
from recon.sfm.pairs import window_pairs

SAMPLE = Path(__file__).parents[3] / "data" / "sample"
FRAMES = 14


class RememberingSift(SiftMatcher):
    """SIFT that describes an image once, however many tests use it."""

    _described: ClassVar[dict[tuple[object, ...], Features]] = {}

    def describe(self, frame: Frame) -> Features:
        key = (self, frame.image.tobytes(), frame.mask.tobytes(), frame.original_size)
        if key not in self._described:
            self._described[key] = super().describe(frame)
        return self._described[key]


SIFT = RememberingSift()
FEW_FEATURES = RememberingSift(max_features=1000)  # the time of the mapper is proportional to them


def read_frame(index: int) -> Frame:
    image = cv2.cvtColor(cv2.imread(str(SAMPLE / "images" / f"{index:06d}.jpg")), cv2.COLOR_BGR2RGB)
    height, width = image.shape[:2]
    return Frame(
        index=index,
        timestamp=float(index),
        image=np.asarray(image, dtype=np.uint8),
        name=f"# {index} of a walk.jpg",  # COLMAP's lists of pairs know no such names
        original_size=(width, height),
        lens="sample",
        focal=500.0,
        mask=np.ones((height, width), dtype=bool),
    )


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> MatchDatabase:
    database = MatchDatabase(tmp_path_factory.mktemp("sfm") / "features.db", SIFT, "SIMPLE_RADIAL", None)
    for index in range(FRAMES):
        database.add(read_frame(index))
    database.match(window_pairs(list(range(FRAMES)), WINDOW))
    return database
