"""The joint adjustment of the sample's first frames, and matches that contradict the poses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pycolmap
import pytest
from scipy.spatial.transform import Rotation

from recon.core.events import Event, Notice
from recon.core.similarity import Array
from recon.core.types import Camera, SparseModel, SparsePoints
from recon.mapping.alignment import fit_similarity
from recon.sfm import chunk_mapper
from recon.sfm.chunk_mapper import MISLED, ChunkMapper, Mapped
from recon.sfm.consistency import (
    GRID_PAIRS,
    LOOP_REACH,
    deviation,
    drop_contradictions,
    fitting,
    match_far_pairs,
    match_loops,
    match_map,
    plausible,
    refine_map,
    rotation_angle,
    torn_neighbours,
)
from recon.sfm.database import MatchDatabase
from recon.sfm.mapping import EFFORTS
from recon.sfm.matching import Pair
from recon.sfm.pairs import PAIRS_AROUND
from recon.sfm.shots import Shots
from tests.recon.sfm.conftest import FRAMES, SAMPLE


def true_poses() -> dict[int, Array]:
    """cam_from_world (4, 4) of the frames in the database."""
    poses = {}
    for row in np.loadtxt(SAMPLE / "poses.txt")[:FRAMES]:
        world_from_cam = np.eye(4)
        world_from_cam[:3, :3], world_from_cam[:3, 3] = Rotation.from_quat(row[4:]).as_matrix(), row[1:4]
        poses[int(row[0])] = np.linalg.inv(world_from_cam)
    return poses


def turned(pose: Array, degrees: float) -> Array:
    """The pose of a camera at the same place that looks elsewhere."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    return np.asarray(turn @ pose)


def test_the_deviation_is_that_of_one_coordinate_even_if_some_observations_are_wrong() -> None:
    errors = np.linalg.norm(np.random.default_rng(0).normal(0, 0.7, (4000, 2)), axis=1)
    assert deviation(errors) == pytest.approx(0.7, rel=0.03)
    errors[:200] = 1e4
    assert deviation(errors) == pytest.approx(0.7, rel=0.08)
    assert deviation(errors[:0]) == np.inf


def test_angle_of_a_rotation() -> None:
    assert rotation_angle(np.eye(3)) == 0
    assert rotation_angle(Rotation.from_rotvec([0, 0.7, 0]).as_matrix()) == pytest.approx(0.7)
    assert rotation_angle(np.diag([-1.0, -1, 1])) == pytest.approx(np.pi)


class EverythingOverlaps:
    """A database in which all frames see the same scene."""

    shots = Shots({})

    def __init__(self, count: int, first_index: int = 0) -> None:
        self.frames = list(range(first_index, first_index + count))
        self.pairs: set[Pair] = set()
        self.glanced_at: set[Pair] = set()

    def match(self, pairs: Iterable[Pair], *, glance: bool, tracked: Sequence[int]) -> None:
        assert tracked == self.frames
        pairs = set(pairs)
        self.pairs.update(pairs)
        self.glanced_at.update(pairs if glance else ())

    def matched(self, pair: Pair) -> bool:
        return pair in self.pairs

    def inliers(self, first: int, second: int) -> int:
        return 100 * ((first, second) in self.pairs)


@pytest.mark.parametrize(
    ("focal", "distortion", "made"), [(500, 0.1, True), (100, 0, False), (4521, 0, False), (1500, 20.8, False)]
)
def test_only_realistic_lenses_are_plausible(focal: float, distortion: float, made: bool) -> None:
    model = pycolmap.Reconstruction()
    lens = pycolmap.Camera(
        model="SIMPLE_RADIAL", width=640, height=480, params=[focal, 320, 240, distortion], camera_id=1
    )
    model.add_camera(lens)
    assert plausible(model) is made


@pytest.mark.parametrize("count", [40, 250, 3000])
def test_the_pairs_matched_at_the_end_are_bounded(count: int) -> None:
    database = EverythingOverlaps(count)
    found = match_far_pairs(database)  # type: ignore[arg-type]
    assert set(found) == database.pairs == database.glanced_at
    assert len(found) <= GRID_PAIRS + PAIRS_AROUND
    firsts = {first for first, _ in found}
    assert max(firsts) - min(firsts) > 0.9 * count  # from everywhere in the sequence


def test_loops_that_the_grid_misses_are_matched_thoroughly() -> None:
    database = EverythingOverlaps(1000, first_index=7)
    loop = (8 + 300, 8 + 905)  # off the grid's lines of every 12th frame
    found = match_loops(database, [loop])  # type: ignore[arg-type]
    steps = (-LOOP_REACH, 0, LOOP_REACH)
    assert set(found) == {(loop[0] + a, loop[1] + b) for a in steps for b in steps}
    assert not database.glanced_at
    assert loop not in match_far_pairs(database)  # type: ignore[arg-type]


def test_the_pairs_around_loops_are_bounded_for_any_number_of_loops() -> None:
    loops = [(index, index + 2000) for index in range(0, 900, 2)]
    found = match_loops(EverythingOverlaps(3000), loops)  # type: ignore[arg-type]
    assert set(loops) <= set(found)
    assert len(set(found)) <= len(loops) + PAIRS_AROUND
    assert match_loops(EverythingOverlaps(30), []) == []  # type: ignore[arg-type]


def test_far_pairs_that_contradict_are_counted(database: MatchDatabase) -> None:
    wrong = true_poses()
    wrong[0] = turned(wrong[0], 60)
    matched, contradicting = match_map(database, wrong, ())
    assert 0 < contradicting < matched
    assert all(not database.inliers(0, later) for later in (5, 7, 9, 10))


def test_only_pairs_that_contradict_the_poses_are_forgotten(database: MatchDatabase) -> None:
    pairs = [pair for pair in [(0, 1), (4, 6), (8, 9), (3, 5)] if database.inliers(*pair)]
    assert len(pairs) == 4
    assert drop_contradictions(database, true_poses(), pairs) == []
    wrong = true_poses()
    wrong[9] = turned(wrong[9], 60)
    assert drop_contradictions(database, wrong, pairs) == [(8, 9)]
    assert database.inliers(8, 9) == 0
    assert database.inliers(4, 6) > 0
    without = {index: pose for index, pose in true_poses().items() if index != 4}
    assert drop_contradictions(database, without, [(4, 6)]) == []  # there is no better pose


def test_the_joint_adjustment_undoes_noise_and_places_the_frame_that_is_missing(database: MatchDatabase) -> None:
    random = np.random.default_rng(0)
    start = true_poses()
    for index, pose in start.items():
        noise = np.eye(4)
        noise[:3, :3] = Rotation.from_rotvec(random.normal(scale=0.004, size=3)).as_matrix()
        noise[:3, 3] = random.normal(scale=0.01, size=3)
        start[index] = noise @ pose
    del start[FRAMES - 1]
    model = refine_map(database, start)
    assert sorted(model.cam_from_model) == list(range(FRAMES))
    found, truth = (
        np.array([np.linalg.inv(poses[index])[:3, 3] for index in range(FRAMES)])
        for poses in (model.cam_from_model, true_poses())
    )
    distance = np.linalg.norm(fit_similarity(found, truth, np.ones(FRAMES)).apply(found) - truth, axis=1)
    assert distance.max() < 0.01  # metres
    assert model.cameras[0].params[0] == pytest.approx(500, rel=0.01)


def models(database: MatchDatabase) -> tuple[SparseModel, SparseModel]:
    """The true model of the frames, and one whose later frames look five degrees lower."""
    lens, poses = Camera("SIMPLE_RADIAL", 640, 480, (500.0, 320.0, 240.0, 0.0)), true_poses()
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler("x", 5, degrees=True).as_matrix()
    tilted = {index: tilt @ pose if index > 5 else pose for index, pose in poses.items()}
    right = SparseModel(poses, dict.fromkeys(poses, lens), SparsePoints.empty())
    return right, replace(right, cam_from_model=tilted)


def test_neighbours_are_torn_apart_where_the_poses_contradict_their_matches(database: MatchDatabase) -> None:
    right, torn = models(database)
    assert torn_neighbours(database, right) == []
    assert min(fitting(database, right, (first, first + 1)) for first in range(6)) > 0.95
    assert torn_neighbours(database, torn) == [(5, 6)]
    assert fitting(database, torn, (5, 6)) < 0.3
    without = {index: pose for index, pose in torn.cam_from_model.items() if index != 6}
    assert torn_neighbours(database, replace(torn, cam_from_model=without)) == [(5, 7)]


def test_matches_must_lie_in_front_of_the_cameras(database: MatchDatabase) -> None:
    """As in a corridor of equal doors, which folds along the epipolar lines."""
    right, _ = models(database)
    back = right.cam_from_model[4].copy()
    between = back @ np.linalg.inv(right.cam_from_model[3])
    between[:3, 3] *= -1
    backwards = right.cam_from_model | {4: between @ right.cam_from_model[3]}
    assert fitting(database, replace(right, cam_from_model=backwards), (3, 4)) < 0.3


def test_a_torn_chunk_is_mapped_again_by_the_matches_of_neighbours(
    database: MatchDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, torn = models(database)
    events: list[Event] = []
    mapper = ChunkMapper(database, events.append, None, "sift", None)
    indices, reached, known = list(range(FRAMES)), list[int](), set(database.verified_pairs(range(FRAMES)))

    def mended(mapped: SparseModel, again: SparseModel) -> SparseModel:
        def map_frames(*_: object) -> SparseModel:
            reached.append(max(second - first for first, second in database.verified_pairs(indices)))
            return again

        monkeypatch.setattr(chunk_mapper, "map_frames", map_frames)
        return mapper._mended(0, indices, Mapped(mapped, EFFORTS[0], True), database.lenses.state).model

    assert mended(right, torn) is right
    assert (reached, events) == ([], [])
    assert mended(torn, torn) is torn  # no better
    assert (reached, events) == ([2], [])
    assert set(database.verified_pairs(indices)) == known
    assert mended(torn, right) is right
    assert reached == [2, 2]
    assert [event.text for event in events if isinstance(event, Notice)] == [f"Chunk 1: {MISLED}"]
    lost = known.difference(database.verified_pairs(indices))
    assert len(lost) < 0.2 * len(known)  # what fits came back
    assert mapper.memory()["misled"]


def test_in_a_misled_map_distant_matches_must_fit_the_poses(database: MatchDatabase) -> None:
    _, torn = models(database)
    pairs = [pair for pair in [(2, 3), (5, 6), (4, 6)] if database.inliers(*pair)]
    assert drop_contradictions(database, torn.cam_from_model, pairs) == []  # the rotation differs by 5 degrees only
    assert drop_contradictions(database, torn.cam_from_model, pairs, misled=True) == [(5, 6), (4, 6)]
