"""No step of a real camera, by its true poses, is doubted as a jump."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recon.core.similarity import Sim3
from recon.core.types import PlacedFrame, SparsePoints
from recon.exports.trajectory import read_tum
from recon.mapping.sanity import find_jumps
from tests.support import placed_frame


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("name", ["kitti03", "fox", "seven-scenes", "hololens-000", "strecha/castle-P30"])
def test_no_step_of_a_real_camera_is_a_jump(name: str, every: int, real_data: Path) -> None:
    centres = np.array([pose[:3, 3] for pose in read_tum(real_data / name / "poses.txt").world_from_cam])[::every]
    film = [
        PlacedFrame(row, row / 30, "", placed_frame(0).camera, Sim3(1.0, np.eye(3), centre))
        for row, centre in enumerate(centres)
    ]
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    assert find_jumps(film, SparsePoints.empty(), steps) == {}
