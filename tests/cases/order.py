"""The order of pictures, and pictures that show nothing new."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.cases.case import Case, Input, picture, sample_truth, write


def shuffled(folder: Path) -> Input:
    """Twenty photos under names in no order, as in a download folder."""
    order = np.random.default_rng(0).permutation(20).tolist()
    return Input(write(folder / "photos", [picture(index) for index in order]), sample_truth(order))


CASES = (Case("shuffled", shuffled, "20 of 20 in one map", placed=20, ate=0.01),)
