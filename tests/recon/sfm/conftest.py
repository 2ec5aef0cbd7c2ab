"""The first frames of the bundled sample, with their features matched."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from recon.core.types import Frame
from recon.sfm.database import MatchDatabase
from recon.sfm.frontend import WINDOW
from recon.sfm.matching import SiftMatcher
from recon.sfm.pairs import window_pairs

SAMPLE = Path(__file__).parents[3] / "data" / "sample"
FRAMES = 14


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
    database = MatchDatabase(tmp_path_factory.mktemp("sfm") / "features.db", SiftMatcher(), "SIMPLE_RADIAL", None)
    for index in range(FRAMES):
        database.add(read_frame(index))
    database.match(window_pairs(list(range(FRAMES)), WINDOW))
    return database
