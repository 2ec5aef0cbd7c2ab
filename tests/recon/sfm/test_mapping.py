"""Mapping on the bundled sample: known poses stay, and new frames share their coordinate frame."""

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from recon.core.types import Frame
from recon.mapping.alignment import fit_similarity
from recon.sfm.database import MatchDatabase
from recon.sfm.mapping import EFFORTS, map_frames, pipeline_options
from recon.sfm.matching import SiftMatcher
from tests.recon.sfm.conftest import SAMPLE, read_frame

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


def frames_of_tiles(count: int) -> Iterator[Frame]:
    """A wall of equal tiles, from a camera that moves along it and turns."""
    tile = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    wall = np.tile(cv2.resize(tile, (48, 48), interpolation=cv2.INTER_NEAREST), (24, 24, 1))
    intrinsics = np.array([[270, 0, 160], [0, 270, 120], [0, 0, 1.0]])
    for index in range(count):
        cosine, sine = np.cos(np.radians(2 * index)), np.sin(np.radians(2 * index))
        turn = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
        cam_from_wall = turn @ np.array([[1, 0, -560 - 30 * index], [0, 1, -560 - 4 * index**2], [0, 0, 400]])
        image = np.asarray(cv2.warpPerspective(wall, intrinsics @ cam_from_wall, (320, 240)), dtype=np.uint8)
        mask = np.ones(image.shape[:2], dtype=np.bool_)
        yield replace(read_frame(0), index=index, image=image, mask=mask, original_size=(320, 240), focal=0.0)


def test_one_thread_adjusts_so_that_every_run_gives_the_same_map() -> None:
    options = pipeline_options(EFFORTS[0], 1.0)
    for adjustment in (options.get_local_bundle_adjustment(), options.get_global_bundle_adjustment()):
        assert adjustment.ceres.solver_options.num_threads == 1
    assert options.get_mapper().num_threads == 1


def test_wrong_matches_on_equal_tiles_take_little_time(tmp_path: Path) -> None:
    database = MatchDatabase(tmp_path / "features.db", SiftMatcher(), "SIMPLE_RADIAL", None)
    for frame in frames_of_tiles(6):
        database.add(frame)
    database.match(combinations(range(6), 2))
    start = time.process_time()
    map_frames(database, list(range(6)), {}, EFFORTS[0])
    assert time.process_time() - start < 5.0  # seconds; COLMAP can spend 20 on every frame
    database.close()
