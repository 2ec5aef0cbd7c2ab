"""Mapping on the bundled sample: known poses stay, and new frames come out in their frame."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from recon.alignment import fit_similarity
from recon.sfm.database import MatchDatabase
from recon.sfm.frontend import WINDOW, window_pairs
from recon.sfm.mapping import EFFORTS, map_frames
from recon.sfm.matching import SiftMatcher
from recon.types import Frame

SAMPLE = Path(__file__).parents[3] / "data" / "sample"
FRAMES = 14


def read_frame(index: int) -> Frame:
    image = cv2.cvtColor(cv2.imread(str(SAMPLE / "images" / f"{index:06d}.jpg")), cv2.COLOR_BGR2RGB)
    height, width = image.shape[:2]
    return Frame(
        index=index,
        timestamp=float(index),
        image=np.asarray(image, dtype=np.uint8),
        name=f"{index:06d}.jpg",
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


def true_centres() -> dict[int, np.ndarray]:
    rows = np.loadtxt(SAMPLE / "poses.txt")
    return {int(row[0]): row[1:4] for row in rows}


def centre(cam_from_model: np.ndarray) -> np.ndarray:
    return np.linalg.inv(cam_from_model)[:3, 3]


def test_a_continued_chunk_stays_in_the_frame_of_its_known_poses(database: MatchDatabase) -> None:
    first = map_frames(database, list(range(9)), {}, EFFORTS[1])
    known = {index: first.cam_from_model[index] for index in range(4, 9)}
    second = map_frames(database, list(range(4, FRAMES)), known, EFFORTS[1])
    assert sorted(second.cam_from_model) == list(range(4, FRAMES))
    for index, pose in known.items():
        np.testing.assert_allclose(second.cam_from_model[index], pose, atol=1e-9)

    poses = first.cam_from_model | second.cam_from_model
    found = np.array([centre(poses[index]) for index in range(FRAMES)])
    truth = np.array([true_centres()[index] for index in range(FRAMES)])
    error = np.linalg.norm(fit_similarity(found, truth, np.ones(FRAMES)).apply(found) - truth, axis=1)
    assert error.max() < 0.02  # metres, on a walk of 2.3 m


def test_points_project_onto_their_observations(database: MatchDatabase) -> None:
    model = map_frames(database, list(range(9)), {}, EFFORTS[1])
    points = model.points
    errors = []
    for index, pose in model.cam_from_model.items():
        seen = points.frame_indices == index
        points_cam = points.positions[points.point_ids[seen]] @ pose[:3, :3].T + pose[:3, 3]
        pixels = points_cam @ model.cameras[index].matrix().T
        errors.append(np.linalg.norm(pixels[:, :2] / pixels[:, 2:] - points.pixels[seen], axis=1))
    # Distortion is left out here; the rendered lens has next to none.
    assert np.median(np.concatenate(errors)) < 0.5
