"""Hand-cropped photos of one camera: their principal points are estimated, those of other photos stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from recon.core.types import Camera, Frame, SparseModel
from recon.depth.views import pinhole, undistort
from recon.mapping.alignment import fit_similarity
from recon.sfm.consistency import refine_map
from recon.sfm.crops import have_different_centres, have_moved, look_cropped
from recon.sfm.database import MatchDatabase
from tests.cases.case import picture, sample_truth
from tests.recon.sfm.conftest import SIFT
from tests.recon.sfm.test_lens_choice import FOCAL

FRAMES, STEP = 20, 3  # all around the room
CENTRE = np.array([160.0, 120.0])


def corner(index: int) -> tuple[int, int]:
    """Upper left corner of a picture's crop, column and row."""
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


TRUTH = sample_truth(range(0, STEP * FRAMES, STEP))


def adjusted(path: Path, frame_of: Callable[[int], Frame]) -> tuple[MatchDatabase, SparseModel]:
    """The frames adjusted jointly from their true poses."""
    database = MatchDatabase(path, SIFT, "SIMPLE_RADIAL", None)
    for index in range(FRAMES):
        database.add(frame_of(index))
    database.match(pair for pair in combinations(range(FRAMES), 2) if (pair[1] - pair[0] + 3) % FRAMES <= 6)
    return database, refine_map(database, {index: np.linalg.inv(pose) for index, pose in TRUTH.items()})


def test_principal_points_of_crops_are_found(tmp_path: Path) -> None:
    database, refined = adjusted(tmp_path / "features.db", cropped)
    database.lenses.update(refined.cameras)
    assert have_moved(database, range(FRAMES))
    database.close()
    found = np.array([np.linalg.inv(refined.cam_from_model[index])[:3, 3] for index in range(FRAMES)])
    wanted = np.array([TRUTH[index][:3, 3] for index in range(FRAMES)])
    errors = fit_similarity(found, wanted, np.ones(FRAMES)).apply(found) - wanted
    assert np.sqrt((errors**2).sum(axis=1).mean()) < 0.03
    for index, camera in refined.cameras.items():
        assert camera.params[0] == pytest.approx(FOCAL, rel=0.03)
        assert np.abs(camera.params[1:3] - (CENTRE - corner(index))).max() < 5


def test_depth_is_of_the_lens_with_the_principal_point_that_was_found() -> None:
    frame = cropped(0)
    height, width = frame.image.shape[:2]
    moved = Camera("SIMPLE_RADIAL", width, height, (FOCAL, width / 2 - 9, height / 2 + 5, 0.0))
    centred = Camera("SIMPLE_RADIAL", width, height, (FOCAL, width / 2, height / 2, 0.0))
    assert pinhole(moved, width)[0][:2, 2] == pytest.approx(moved.params[1:3])
    images = [undistort(frame, camera, width)[0].astype(float) for camera in (moved, centred)]
    assert (
        np.abs(images[0] - images[1]).mean() < 1
    )  # both pinholes have their lenses' principal points: nothing is shifted


def camera_of(size: tuple[int, int], column: float) -> Camera:
    return Camera("SIMPLE_RADIAL", *size, (FOCAL, column, size[1] / 2, 0.0))


def test_centres_that_differ_within_one_size_are_those_of_a_stabilised_video() -> None:
    assert have_different_centres(camera_of((320, 240), 160 + index) for index in range(10))
    assert not have_different_centres(camera_of((320, 240), 160) for _ in range(10))
    assert not have_different_centres(camera_of((320 + index // 2, 240), 160 + index) for index in range(10))
    assert not have_different_centres(())


def window(index: int) -> Frame:
    """A picture as a window that moves, as in a stabilised video."""
    whole = cropped(index, crop=False)
    column, row = corner(index)
    pixels = np.ascontiguousarray(whole.image[row : row + 210, column : column + 290])
    size, lens = (290, 210), "290x210"
    return replace(whole, image=pixels, original_size=size, lens=lens, mask=np.ones((210, 290), bool))


def test_principal_points_of_a_stabilised_video_are_found(tmp_path: Path) -> None:
    database, refined = adjusted(tmp_path / "features.db", window)
    database.close()
    assert have_different_centres(refined.cameras.values())
    for index, camera in refined.cameras.items():
        assert np.abs(camera.params[1:3] - (CENTRE - corner(index))).max() < 8


@pytest.mark.parametrize("known", [None, Camera("SIMPLE_RADIAL", 320, 240, (FOCAL, 160.0, 120.0, 0.0))])
@pytest.mark.parametrize("crop", [True, False])
def test_only_pictures_of_many_sizes_without_a_calibration_look_cropped(
    tmp_path: Path, known: Camera | None, crop: bool
) -> None:
    database = MatchDatabase(tmp_path / "features.db", SIFT, "SIMPLE_RADIAL", known)
    for index in range(FRAMES):
        database.add(cropped(index, crop=crop))
    assert look_cropped(database, range(FRAMES)) == (crop and known is None)
    assert not look_cropped(database, range(4))
    assert not have_moved(database, range(FRAMES)) or known is not None
    database.close()
