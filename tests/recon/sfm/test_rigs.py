"""The faces of panoramas are placed as rigs: one pose for each panorama, and that is the true one."""

from __future__ import annotations

import numpy as np
import pytest

from recon.core.colmap_log import quiet
from recon.core.similarity import Array
from recon.core.types import Frame, SparseModel
from recon.settings import RunSettings
from recon.sfm.consistency import adjust_model, torn_neighbours
from recon.sfm.database import MatchDatabase
from recon.sfm.evidence import is_ordered
from recon.sfm.frontend import WINDOW
from recon.sfm.mapping import EFFORTS, map_frames
from recon.sfm.matching import SiftMatcher
from recon.sources import open_source
from recon.sources.panoramas import FACES, rotation_of
from tests.panoramas import walk, write_panoramas

POSES = walk(9)[:4]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> MatchDatabase:
    folder = tmp_path_factory.mktemp("rigs")
    source = open_source(str(write_panoramas(folder / "walk", POSES)))
    settings = RunSettings().of_rig(source.description)
    opened = MatchDatabase(
        folder / "features.db", SiftMatcher(max_features=600), settings.camera_model, settings.intrinsics
    )
    for frame in source:
        assert isinstance(frame, Frame)
        opened.add(frame)
    with quiet():
        opened.match(opened.shots.window(opened.frames, WINDOW))
    return opened


@pytest.fixture(scope="module")
def model(database: MatchDatabase) -> SparseModel:
    with quiet():
        grown = map_frames(database, database.frames, {}, EFFORTS[0])
        return adjust_model(database, grown.cam_from_model, distortion=False)


def centre(cam_from_model: Array) -> Array:
    return -cam_from_model[:3, :3].T @ cam_from_model[:3, 3]


def test_only_neighbouring_faces_of_different_panoramas_are_paired(database: MatchDatabase) -> None:
    paired = database.shots.window(database.frames, (1,))
    assert [pair for pair in paired if pair[0] == 0] == [(0, 6), (0, 7), (0, 11)]
    assert len(paired) == 3 * FACES * 3
    assert database.shots.window(database.frames, (2,), same=True)[:2] == [(0, 12), (1, 13)]
    database.match([(0, 1)])
    assert database.matched((0, 1)) and not database.inliers(0, 1)
    assert is_ordered(database, database.frames)


def test_the_faces_of_a_panorama_are_a_rig(database: MatchDatabase) -> None:
    cache = database.reduced_cache({index: np.arange(50) for index in database.frames[2:]})
    (rig,) = cache.rigs.values()
    assert rig.num_sensors() == FACES
    assert sorted(len(frame.data_ids) for frame in cache.frames.values()) == [4, 6, 6, 6]
    assert database.lenses.fixed() == set(database.lenses.by_frame.values())
    assert len(database.lenses.fixed()) == FACES


def test_every_panorama_is_where_it_was_taken(model: SparseModel) -> None:
    assert sorted(model.cam_from_model) == list(range(4 * FACES))
    found = np.array([centre(model.cam_from_model[FACES * number]) for number in range(4)])
    true = np.array([pose[1] for pose in POSES])
    turn = POSES[0][0] @ model.cam_from_model[0][:3, :3]  # from the model's axes to the room's
    length = np.linalg.norm(true[-1] - true[0])
    moved = (found - found[0]) @ turn.T * length / np.linalg.norm(found[-1] - found[0])
    assert np.linalg.norm(moved - (true - true[0]), axis=1).max() < 0.005 * length
    for index, cam_from_model in model.cam_from_model.items():
        assert np.allclose(centre(cam_from_model), found[index // FACES], atol=1e-9)
        true_from_cam = POSES[index // FACES][0] @ rotation_of(index % FACES).T
        between = true_from_cam.T @ turn @ cam_from_model[:3, :3].T
        assert np.degrees(np.arccos(np.clip((np.trace(between) - 1) / 2, -1, 1))) < 0.3
    assert len(set(model.cameras.values())) == 1


def test_a_map_seen_by_shots_has_a_frame_for_each(database: MatchDatabase, model: SparseModel) -> None:
    shots = database.shots.merged(model)
    assert sorted(shots.cam_from_model) == [0, 6, 12, 18]
    assert set(shots.points.frame_indices.tolist()) == {0, 6, 12, 18}
    rows = np.column_stack([shots.points.point_ids, shots.points.frame_indices])
    assert len(np.unique(rows, axis=0)) == len(rows) <= len(model.points.point_ids)
    assert torn_neighbours(database, model) == []


def test_known_poses_stay(database: MatchDatabase, model: SparseModel) -> None:
    known = {index: pose for index, pose in model.cam_from_model.items() if index < 3 * FACES}
    with quiet():
        grown = map_frames(database, database.frames, known, EFFORTS[0])
    assert len(grown.cam_from_model) == 4 * FACES
    for index, pose in model.cam_from_model.items():
        assert np.allclose(grown.cam_from_model[index], pose, atol=1e-6 if index in known else 0.02)
