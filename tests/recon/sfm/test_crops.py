"""Photos of one camera that were cropped by hand: their principal points are found, those of other photos stay."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from recon.core.events import Event
from recon.core.types import Camera, Chunk, Frame
from recon.mapping.alignment import fit_similarity
from recon.sfm.crops import have_moved, look_cropped
from recon.sfm.database import MatchDatabase
from recon.sfm.frontend import StructureFromMotion
from recon.sfm.matching import SiftMatcher
from tests.cases.case import picture, sample_truth
from tests.recon.sfm.test_lens_choice import FOCAL, settings

FRAMES, STEP = 9, 3
CENTRE = np.array([160.0, 120.0])


def corner(index: int) -> tuple[int, int]:
    """Upper left corner of the crop of a picture, column and row."""
    column, row = np.random.default_rng(index).integers(0, 30, 2)
    return int(column), int(row)


def cropped(index: int, *, crop: bool = True) -> Frame:
    small = cv2.resize(cv2.cvtColor(picture(STEP * index), cv2.COLOR_BGR2RGB), (320, 240), interpolation=cv2.INTER_AREA)
    column, row = corner(index) if crop else (0, 0)
    pixels = np.ascontiguousarray(small[row : 236 - index if crop else 240, column:], dtype=np.uint8)
    height, width = pixels.shape[:2]
    lens = f"{width}x{height}"
    return Frame(
        index, float(index), pixels, f"{index}.jpg", (width, height), lens, 0.0, np.ones((height, width), bool)
    )


def test_principal_points_of_crops_are_found_for_poses_and_lenses(tmp_path: Path) -> None:
    front_end = StructureFromMotion(tmp_path, settings(), list[Event]().append)
    geometry = front_end.reconstruct(Chunk(0, tuple(cropped(index) for index in range(FRAMES)), 0))
    front_end.close()
    truth = sample_truth(range(0, STEP * FRAMES, STEP))
    found = np.array([np.linalg.inv(frame.cam_from_chunk)[:3, 3] for frame in geometry.frames])
    wanted = np.array([truth[frame.index][:3, 3] for frame in geometry.frames])
    errors = fit_similarity(found, wanted, np.ones(len(found))).apply(found) - wanted
    assert len(found) == FRAMES
    assert np.sqrt((errors**2).sum(axis=1).mean()) < 0.03
    for frame in geometry.frames:
        focal, *principal_point, _ = frame.camera.params
        assert focal == pytest.approx(FOCAL, rel=0.03)
        assert np.abs(principal_point - (CENTRE - corner(frame.index))).max() < 4
        share = frame.intrinsics[0, 0] / focal  # depth is of the same lens
        assert frame.intrinsics[0, 2] == pytest.approx(share * principal_point[0], rel=0.02)


@pytest.mark.parametrize("known", [None, Camera("SIMPLE_RADIAL", 320, 240, (FOCAL, 160.0, 120.0, 0.0))])
@pytest.mark.parametrize("crop", [True, False])
def test_only_pictures_of_many_sizes_without_a_calibration_look_cropped(
    tmp_path: Path, known: Camera | None, crop: bool
) -> None:
    database = MatchDatabase(tmp_path / "features.db", SiftMatcher(), "SIMPLE_RADIAL", known)
    for index in range(FRAMES):
        database.add(cropped(index, crop=crop))
    assert look_cropped(database, range(FRAMES)) == (crop and known is None)
    assert not look_cropped(database, range(4))
    assert not have_moved(database, range(FRAMES)) or known is not None
    database.close()
