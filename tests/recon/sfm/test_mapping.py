"""Mapping on the bundled sample: known poses stay, and new frames share their coordinate frame."""

import numpy as np

from recon.mapping.alignment import fit_similarity
from recon.sfm.database import MatchDatabase
from recon.sfm.mapping import EFFORTS, map_frames
from tests.recon.sfm.conftest import SAMPLE

FRAMES = 14


def true_centres() -> dict[int, np.ndarray]:
    rows = np.loadtxt(SAMPLE / "poses.txt")
    return {int(row[0]): row[1:4] for row in rows}


def centre(cam_from_model: np.ndarray) -> np.ndarray:
    return np.linalg.inv(cam_from_model)[:3, 3]


def test_a_continued_chunk_keeps_the_frame_of_its_known_poses(database: MatchDatabase) -> None:
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
    # Distortion is ignored here; the rendered lens has hardly any.
    assert np.median(np.concatenate(errors)) < 0.5
