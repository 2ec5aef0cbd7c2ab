"""Structure from motion as a front end: two chunks of the sample through an unknown lens."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from recon.core.events import Event, Notice
from recon.core.types import Camera, Chunk, ChunkGeometry, Frame, SparseModel, SparsePoints
from recon.depth.plane_sweep import PlaneSweep
from recon.depth.propagation import Propagated
from recon.depth.views import Depth, PosedView
from recon.frontend import Workplace
from recon.mapping.alignment import fit_similarity
from recon.settings import RunSettings
from recon.sfm import chunk_mapper, frontend
from recon.sfm.chunk_mapper import (
    FLAT_LENS,
    FOREIGN_EXIF,
    MOST_MAPPINGS,
    UNSETTLED,
    ChunkMapper,
    weakest_link,
)
from recon.sfm.database import MatchDatabase
from recon.sfm.evidence import shared_over
from recon.sfm.frontend import SfmSettings, StructureFromMotion
from recon.sfm.mapping import EFFORTS, NO_MODEL, Effort, map_frames
from recon.sfm.motions import Moving
from tests.recon.sfm.conftest import FEW_FEATURES, SAMPLE, read_frame

CHUNKS = (range(14), range(10, 22))
FOCAL = 500.0


class FlatDepth:
    """A depth stage that returns 1 everywhere and records its views."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def depth(self, views: list[PosedView], solved: Mapping[int, Depth]) -> list[Depth]:
        self.asked.append([view.index for view in views if view.index not in solved])
        ones = [np.ones(view.mask.shape, np.float32) for view in views]
        return [Depth(one, one) for one in ones]


def settings_with(camera: Camera | None = None, stage: FlatDepth | None = None) -> SfmSettings:
    """Settings that make the tests fast."""
    return SfmSettings(camera=camera, depth_stage=stage or FlatDepth(), depth_size=64, matcher=FEW_FEATURES)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[StructureFromMotion, list[ChunkGeometry], list[Event]]:
    events: list[Event] = []
    settings = settings_with()
    front_end = StructureFromMotion(tmp_path_factory.mktemp("front_end"), settings, events.append)
    geometry = [
        front_end.reconstruct(Chunk(number, tuple(replace(read_frame(i), focal=0.0) for i in indices), 4 * number))
        for number, indices in enumerate(CHUNKS)
    ]
    return front_end, geometry, events


def largest_error(poses: Mapping[int, np.ndarray]) -> float:
    """Error of the camera centres after Sim(3) alignment, in metres."""
    truth = {int(row[0]): row[1:4] for row in np.loadtxt(SAMPLE / "poses.txt")}
    found = np.array([np.linalg.inv(pose)[:3, 3] for pose in poses.values()])
    wanted = np.array([truth[index] for index in poses])
    aligned = fit_similarity(found, wanted, np.ones(len(found))).apply(found)
    return float(np.linalg.norm(aligned - wanted, axis=1).max())


def test_every_frame_has_a_pose_and_the_lens_is_found(
    run: tuple[StructureFromMotion, list[ChunkGeometry], list[Event]],
) -> None:
    front_end, geometry, _ = run
    for indices, chunk in zip(CHUNKS, geometry, strict=True):
        assert [frame.index for frame in chunk.frames] == list(indices)
        assert chunk.unplaced == {}
        assert set(chunk.points.frame_indices.tolist()) <= set(indices)
    assert front_end.database.lenses[0].params[0] == pytest.approx(FOCAL, rel=0.01)


def test_a_focal_length_of_another_camera_is_ignored(tmp_path: Path) -> None:
    """EXIF says 200 mm."""
    events: list[Event] = []
    front_end = StructureFromMotion(tmp_path, settings_with(), events.append)
    made = front_end.reconstruct(Chunk(0, tuple(replace(read_frame(i), focal=3700.0) for i in range(12)), 0))
    assert [frame.index for frame in made.frames] == list(range(12))
    assert front_end.database.lenses[0].params[0] == pytest.approx(FOCAL, rel=0.02)
    assert Notice(FOREIGN_EXIF) in events


def test_the_second_chunk_revises_the_poses_of_earlier_frames(
    run: tuple[StructureFromMotion, list[ChunkGeometry], list[Event]],
) -> None:
    _, geometry, _ = run
    assert sorted(geometry[1].revised) == list(range(10))
    poses = geometry[1].revised | {frame.index: frame.cam_from_chunk for frame in geometry[1].frames}
    assert largest_error(poses) < 0.02


def test_refining_keeps_every_frame(run: tuple[StructureFromMotion, list[ChunkGeometry], list[Event]]) -> None:
    front_end, geometry, _ = run
    poses = geometry[1].revised | {frame.index: frame.cam_from_chunk for frame in geometry[1].frames}
    model = front_end.refine(poses, ())
    assert sorted(model.cam_from_model) == list(range(22))
    assert largest_error(model.cam_from_model) < 0.01


def test_a_known_lens_and_existing_depth_are_kept(tmp_path: Path) -> None:
    stage = FlatDepth()
    frames = [read_frame(index) for index in range(13)]
    front_end = StructureFromMotion(tmp_path, settings_with(known_lens(), stage), lambda event: None)
    first = front_end.reconstruct(Chunk(0, tuple(frames[:9]), 0))
    second = front_end.reconstruct(Chunk(1, tuple(frames[5:]), 4))
    assert stage.asked == [list(range(9)), list(range(9, 13))]
    assert second.revised == {}
    assert second.frames[0] is first.frames[5]
    assert second.frames[-1].camera.params == known_lens().params
    front_end.close()
    assert [path.name for path in tmp_path.iterdir()] == ["features.db"]  # the run can be resumed


def test_another_process_continues_with_the_same_result(tmp_path: Path) -> None:
    settings = settings_with(known_lens())
    frames = [read_frame(index) for index in range(9)]
    chunks = Chunk(0, tuple(frames[:6]), 0), Chunk(1, tuple(frames[4:]), 2)
    first = StructureFromMotion(tmp_path, settings, lambda event: None)
    known, memory = first.reconstruct(chunks[0]), json.loads(json.dumps(first.memory()))
    expected = first.reconstruct(chunks[1])
    first.close()
    second = StructureFromMotion(tmp_path, settings, lambda event: None, range(6))
    second.recall(chunks[0], known, memory)
    found = second.reconstruct(chunks[1])
    assert second.memory()["context"].keys() == set(range(9))
    second.close()
    assert [frame.index for frame in found.frames] == [4, 5, 6, 7, 8]
    assert found.frames[0] is known.frames[4]
    for a, b in zip(found.frames, expected.frames, strict=True):
        np.testing.assert_allclose(a.cam_from_chunk, b.cam_from_chunk, atol=1e-6)


def test_a_joint_adjustment_that_is_repeated_finds_the_same(tmp_path: Path) -> None:
    settings = settings_with(known_lens())
    chunk = Chunk(0, tuple(read_frame(index) for index in range(7)), 0)
    first = StructureFromMotion(tmp_path, settings, lambda event: None)
    known, memory = first.reconstruct(chunk), json.loads(json.dumps(first.memory()))
    poses = {frame.index: frame.cam_from_chunk for frame in known.frames}
    expected, tried = first.refine(poses, []), first.database.tried()
    assert len(tried) > len(memory["tried"])
    first.close()
    second = StructureFromMotion(tmp_path, settings, lambda event: None, range(7))
    second.recall(chunk, known, memory)
    found = second.refine(poses, [])
    assert second.database.tried() == tried
    second.close()
    for index, pose in expected.cam_from_model.items():
        np.testing.assert_allclose(found.cam_from_model[index], pose, atol=1e-8)


def test_demands_are_relaxed_step_by_step_with_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Effort] = []

    def only_the_third(database: MatchDatabase, frames: list[int], known: dict, effort: Effort) -> SparseModel:
        tried.append(effort)
        return map_frames(database, frames, known, effort) if effort == EFFORTS[2] else NO_MODEL

    monkeypatch.setattr(chunk_mapper, "map_frames", only_the_third)
    events: list[Event] = []
    settings = settings_with(known_lens())
    front_end = StructureFromMotion(tmp_path, settings, events.append)
    geometry = front_end.reconstruct(Chunk(0, tuple(read_frame(index) for index in range(9)), 0))
    front_end.close()
    assert tuple(tried[:3]) == EFFORTS[:3]
    assert geometry.unplaced == {}
    assert events == [Notice("Chunk 1: frames are placed with the settings for very small parallax.")]


def test_a_lens_twice_too_long_is_found_out_within_the_first_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With little parallax the mapper keeps the lens that it is given.
    monkeypatch.setattr(ChunkMapper._escalate, "__defaults__", (EFFORTS[2:],))
    frames = tuple(replace(read_frame(index), focal=2 * FOCAL) for index in range(14))
    front_end = StructureFromMotion(tmp_path, settings_with(), lambda event: None)
    geometry = front_end.reconstruct(Chunk(0, frames, 0))
    focal, _, _, distortion = front_end.database.lenses[0].params
    front_end.close()
    assert geometry.unplaced == {}
    assert distortion == 0  # not yet distinguished from the focal length
    assert focal == pytest.approx(FOCAL, rel=0.03)
    assert largest_error({frame.index: frame.cam_from_chunk for frame in geometry.frames}) < 0.03


def test_a_diverging_lens_is_kept_and_tried_again_with_more_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []

    def run_away(_database: MatchDatabase, poses: Mapping[int, np.ndarray], *, distortion: bool) -> SparseModel:
        assert distortion
        asked.append(sorted(poses))
        return NO_MODEL

    monkeypatch.setattr(chunk_mapper, "adjust_model", run_away)
    monkeypatch.setattr(chunk_mapper, "weakest_link", lambda model: 0)  # every chunk is strengthened, and settled once
    front_end = StructureFromMotion(tmp_path, settings_with(), lambda event: None)
    lenses = []
    for number in range(3):
        frames = tuple(read_frame(index) for index in range(4 * number, 4 * number + 9))
        geometry = front_end.reconstruct(Chunk(number, frames, 0))
        assert geometry.unplaced == {}
        lenses.append(front_end.database.lenses[0])
    front_end.close()
    assert asked == [list(range(9)), list(range(13)), list(range(17))]
    assert lenses[0] == lenses[1] == lenses[2]


def test_a_lens_that_never_settles_costs_a_bounded_number_of_mappings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every attempt loses a frame and finds another lens."""
    mapped: list[SparseModel] = []
    count = 0

    def one_missing(database: MatchDatabase, frames: list[int], known: dict, effort: Effort) -> SparseModel:
        nonlocal count
        count += 1
        if not mapped:
            mapped.append(map_frames(database, frames, {}, EFFORTS[2]).restricted(frames[:-1]))
        return with_focal(mapped[0], FOCAL * (1 + 0.1 * (count % 3)))

    def another_lens(_database: MatchDatabase, _poses: Mapping[int, np.ndarray], *, distortion: bool) -> SparseModel:
        return with_focal(mapped[0], FOCAL * (1.5 + 0.2 * (count % 2)), 0.1 * distortion)

    monkeypatch.setattr(chunk_mapper, "map_frames", one_missing)
    monkeypatch.setattr(chunk_mapper, "adjust_model", another_lens)
    monkeypatch.setattr(chunk_mapper, "weakest_link", lambda model: 0)
    monkeypatch.setattr(chunk_mapper, "is_nearly_flat", lambda *_: True)
    events: list[Event] = []
    front_end = StructureFromMotion(tmp_path, settings_with(), events.append)
    geometry = front_end.reconstruct(Chunk(0, tuple(read_frame(index) for index in range(9)), 0))
    front_end.close()
    assert count == MOST_MAPPINGS
    assert list(geometry.unplaced) == [8]
    assert Notice(FLAT_LENS) in events


@pytest.mark.parametrize(("focal", "said"), [(1.5, True), (1.015, False)])
def test_a_lens_that_comes_back_is_not_tried_again(
    focal: float, said: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Mapping returns one lens and the adjustment another; the user is notified if that bends the map."""
    events, mappings = list[Event](), list[SparseModel]()

    def mapped(database: MatchDatabase, frames: list[int], known: dict, effort: Effort) -> SparseModel:
        mappings.append(mappings[0] if mappings else with_focal(map_frames(database, frames, {}, EFFORTS[2]), FOCAL))
        return mappings[-1]

    monkeypatch.setattr(chunk_mapper, "map_frames", mapped)
    monkeypatch.setattr(chunk_mapper, "adjust_model", lambda *_, **__: with_focal(mappings[0], FOCAL * focal))
    front_end = StructureFromMotion(tmp_path, settings_with(), events.append)
    front_end.reconstruct(Chunk(0, tuple(read_frame(index) for index in range(9)), 0))
    front_end.close()
    assert len(mappings) == 2  # the first mapping, and one more with the adjusted lens
    assert (Notice(UNSETTLED) in events) == said


def with_focal(model: SparseModel, focal: float, distortion: float = 0.0) -> SparseModel:
    lens = Camera("SIMPLE_RADIAL", 640, 480, (focal, 320, 240, distortion))
    return replace(model, cameras=dict.fromkeys(model.cameras, lens))


@pytest.mark.parametrize(("contradicting", "said"), [(61, True), (16, False), (0, False)])
def test_images_are_called_ambiguous_where_many_pairs_that_match_well_contradict(
    contradicting: int, said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontend, "match_map", lambda *_, **__: (100, contradicting))
    monkeypatch.setattr(frontend, "refine_map", lambda *arguments: NO_MODEL)
    events: list[Event] = []
    front_end = StructureFromMotion(tmp_path, SfmSettings(depth_stage=FlatDepth()), events.append)
    front_end.refine({}, ())
    front_end.close()
    assert [f"{contradicting} of 100 distant pairs" in str(event) for event in events] == [True] * said


def known_lens() -> Camera:
    return Camera("PINHOLE", 640, 480, (FOCAL, FOCAL, 320.0, 240.0))


def test_a_restricted_model_keeps_what_the_frames_see() -> None:
    points = SparsePoints(
        positions=np.arange(12.0).reshape(4, 3),
        colours=np.zeros((4, 3), np.uint8),
        point_ids=np.array([0, 1, 3, 3]),
        frame_indices=np.array([7, 8, 7, 9]),
        pixels=np.zeros((4, 2)),
    )
    poses = dict.fromkeys((7, 8, 9), np.eye(4))
    kept = SparseModel(poses, dict.fromkeys((7, 8, 9), known_lens()), points).restricted([8, 9, 10])
    assert sorted(kept.cam_from_model) == [8, 9]
    np.testing.assert_array_equal(kept.points.positions, points.positions[[1, 3]])
    assert kept.points.point_ids.tolist() == [0, 1]
    assert kept.points.frame_indices.tolist() == [8, 9]


def test_the_weakest_link_counts_points_seen_twice_on_either_side() -> None:
    def model(tracks: list[range]) -> SparseModel:
        ids = np.concatenate([np.full(len(track), number) for number, track in enumerate(tracks)])
        frames = np.concatenate([np.array(track) for track in tracks])
        nothing = np.zeros((len(ids), 2))
        points = SparsePoints(np.zeros((len(tracks), 3)), np.zeros((len(tracks), 3), np.uint8), ids, frames, nothing)
        return SparseModel(dict.fromkeys(range(0, 40, 2), np.eye(4)), {}, points)

    everywhere = [range(start, start + 12, 2) for start in range(0, 30, 2) for _ in range(10)]
    assert weakest_link(model(everywhere)) > 20
    # Frames 18 and 20 are the last and first of all tracks but two: a long one, and one seen once after the gap.
    parted = [track for track in everywhere if track[-1] <= 18 or track[0] >= 20]
    assert weakest_link(model(parted)) == 0
    assert weakest_link(model([*parted, range(8, 30, 2), range(8, 22, 2)])) == 1


def test_slow_motion_keeps_its_matches(run: tuple[StructureFromMotion, list[ChunkGeometry], list[Event]]) -> None:
    database = run[0].database
    assert shared_over(database, [5, 6], 1) == 1
    shares = [shared_over(database, list(range(14)), step) for step in (1, 4, 12)]
    assert 1 == shares[0] > shares[1] > shares[2]
    assert shared_over(database, [5], 1) == 0


def test_two_motions_are_doubtful_if_neither_is_clearly_the_scenes(tmp_path: Path, monkeypatch) -> None:
    events: list[Event] = []
    front_end = StructureFromMotion(tmp_path, SfmSettings(depth_stage=FlatDepth()), events.append)
    monkeypatch.setattr(frontend, "find_moving", lambda database, frames: Moving({}, torn=True))
    monkeypatch.setattr(frontend, "is_nearly_flat", lambda database, frames: False)
    chunk = Chunk(0, (read_frame(0),), 0)
    assert front_end._leave_out_moving(chunk) is chunk
    (notice,) = (event for event in events if isinstance(event, Notice))
    assert notice.doubtful
    assert notice.text.startswith("Chunk 1: two motions share the images")
    front_end.close()


def test_the_best_quality_computes_the_depth_of_every_view(tmp_path: Path) -> None:
    stages = {}
    for quality in ("normal", "best"):
        (tmp_path / quality).mkdir()
        start = StructureFromMotion.prepare(RunSettings(quality=quality, depth="classical"))
        front_end = start(Workplace(tmp_path / quality, lambda event: None))
        stages[quality] = type(front_end._settings.depth_stage)
        front_end.close()
    assert stages == {"normal": Propagated, "best": PlaneSweep}


def test_the_lens_of_images_of_another_size_is_found(tmp_path: Path) -> None:
    """The map is settled when images of half the size begin, of which only a guess of the focal length is known."""
    front_end = StructureFromMotion(tmp_path, settings_with(), lambda event: None)
    whole = [replace(read_frame(index), focal=0.0) for index in range(12)]
    front_end.reconstruct(Chunk(0, tuple(whole), 0))
    front_end._mapper._settled = True
    made = front_end.reconstruct(Chunk(1, (*whole[8:], *map(half_size, range(12, 22))), 4))
    assert [frame.index for frame in made.frames] == list(range(8, 22))
    assert front_end.database.lenses[20].params[0] == pytest.approx(FOCAL / 2, rel=0.02)
    assert front_end.database.lenses[0].params[0] == pytest.approx(FOCAL, rel=0.02)


def half_size(index: int) -> Frame:
    """A frame of the sample at half its size."""
    frame = read_frame(index)
    image = np.asarray(cv2.resize(frame.image, (320, 240), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    mask = np.ones(image.shape[:2], dtype=np.bool_)
    return replace(frame, image=image, mask=mask, original_size=(320, 240), lens="320x240", focal=0.0)
