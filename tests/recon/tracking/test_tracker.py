"""The tracker on the rendered sample, whose poses and depth are exact; the finished map arrives late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.core.events import FrameTracked, LocalDepth, LocalMapGrown
from recon.core.similarity import Array, Sim3
from recon.core.tracked import TrackingCounts
from recon.core.types import Camera, Frame, FrameGeometry, Image, PlacedFrame
from recon.tracking.tracker import Tracked, Tracker
from tests.support import SAMPLE

SIZE = (640, 480)
CAMERA = Camera("PINHOLE", *SIZE, (500.0, 500.0, 320.0, 240.0))
KEYFRAMES = (0, 6, 12)
BEGUN, PLACED_AT = 9, 15  # there is a local map by then, and a finished one
COVERED, BACK = 27, 4  # the lens is covered; the camera is elsewhere when it is not
SEQUENCE = (*range(COVERED), None, None, *range(BACK, BACK + 3))  # of frames of the sample
MEDIAN_DEPTH = 2.0  # about, in metres


@cache
def rows() -> Array:
    return np.asarray(np.loadtxt(SAMPLE / "poses.txt"))


def truth(number: int) -> Sim3:
    row = rows()[number]
    return Sim3(1.0, Rotation.from_quat(row[4:]).as_matrix(), row[1:4])


def picture(number: int | None) -> Image:
    if number is None:
        return np.zeros((*SIZE[::-1], 3), np.uint8)
    return np.asarray(cv2.imread(str(SAMPLE / "images" / f"{number:06d}.jpg"), cv2.IMREAD_COLOR_RGB), np.uint8)


def captured(index: int, number: int | None) -> Frame:
    mask = np.ones(SIZE[::-1], np.bool_)
    return Frame(index, index / 10, picture(number), f"{index}.jpg", SIZE, "lens", 0.0, mask)


def keyframe(number: int, world_from_sample: Sim3, unit: float) -> tuple[PlacedFrame, FrameGeometry]:
    """A placed frame whose stored depth is in another unit than the world's."""
    depth = cv2.imread(str(SAMPLE / "depth" / f"{number:06d}.png"), cv2.IMREAD_UNCHANGED).astype(np.float32) / 1000
    colour = np.asarray(cv2.resize(picture(number), depth.shape[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    sure = (depth > 0).astype(np.float32)
    geometry = FrameGeometry(
        number, np.eye(4), CAMERA, CAMERA.matrix_at(*depth.shape[::-1]), depth * np.float32(unit), sure, colour
    )
    pose = world_from_sample @ truth(number) @ Sim3(1 / unit, np.eye(3), np.zeros(3))
    return PlacedFrame(number, number / 10, f"{number}.jpg", CAMERA, pose), geometry


def place(tracker: Tracker, world_from_sample: Sim3 | None = None, piece: int = 0) -> tuple[PlacedFrame, ...]:
    placed = [keyframe(number, world_from_sample or Sim3.identity(), unit=0.5) for number in KEYFRAMES]
    frames = tuple(frame for frame, _ in placed)
    tracker.place(frames, {geometry.index: geometry for _, geometry in placed}, piece)
    return frames


def errors(tracked: Sequence[Tracked], numbers: Sequence[int]) -> tuple[Array, Array]:
    """Distances of the centres in metres, and angles in degrees."""
    poses = [np.linalg.inv(one.cam_from_world) for one in tracked if one.cam_from_world is not None]
    assert len(poses) == len(numbers)
    true = [truth(number) for number in numbers]
    apart = [np.linalg.norm(pose[:3, 3] - one.translation) for pose, one in zip(poses, true, strict=True)]
    turns = [Rotation.from_matrix(pose[:3, :3].T @ one.rotation) for pose, one in zip(poses, true, strict=True)]
    return np.array(apart), np.degrees([turn.magnitude() for turn in turns])


@dataclass(frozen=True)
class Walked:
    """tracked, grown: by position in SEQUENCE. tracker: after that."""

    tracked: list[Tracked]
    grown: dict[int, LocalMapGrown]
    tracker: Tracker
    placed: tuple[PlacedFrame, ...]


@pytest.fixture(scope="module")
def walked() -> Walked:
    tracker, tracked, grown, placed = Tracker(), [], {}, ()
    for index, number in enumerate(SEQUENCE):
        if index == PLACED_AT:
            placed = place(tracker)
        tracked.append(tracker.track(captured(index, number)))
        if local := tracker.extend(captured(index, number)):
            grown[index] = local
    return Walked(tracked, grown, tracker, placed)


class TestTracker:
    def test_it_tracks_in_a_map_of_its_own_until_the_finished_one_comes(self, walked: Walked) -> None:
        states = [one.state for one in walked.tracked]
        first = states.index("tracking")
        assert states[:first] == ["waiting"] * first
        assert 2 < first < BEGUN
        assert set(states[first:COVERED]) == {"tracking"}
        assert [one.piece for one in walked.tracked[first : PLACED_AT + 1]] == [-1] * (PLACED_AT + 1 - first)
        assert {one.piece for one in walked.tracked[PLACED_AT + 1 : COVERED]} == {0}

    def test_its_own_map_has_the_true_shape(self, walked: Walked) -> None:
        own = walked.tracked[BEGUN:PLACED_AT]
        poses = np.array([np.linalg.inv(one.cam_from_world) for one in own if one.cam_from_world is not None])
        true = np.array([truth(number).translation for number in range(BEGUN, PLACED_AT)])
        here = poses[:, :3, 3] - poses[0, :3, 3]
        scale = np.linalg.norm(true[-1] - true[0]) / np.linalg.norm(here[-1])
        lengths = scale * np.linalg.norm(here, axis=1), np.linalg.norm(true - true[0], axis=1)
        assert np.abs(lengths[0] - lengths[1]).max() < 0.05 * lengths[1][-1]
        grown = walked.grown[PLACED_AT - 1]
        assert grown.piece == -1
        assert grown.camera.params[0] == pytest.approx(CAMERA.params[0], rel=0.06)
        assert len(grown.positions) == len(grown.colours) > 300
        assert len(grown.world_from_cam) > 6
        assert 0.5 < np.median(grown.positions[:, 2]) < 2

    def test_its_poses_are_right_beyond_the_finished_map(self, walked: Walked) -> None:
        """The local map has moved there, with the lens of the finished one."""
        after = range(PLACED_AT + 1, COVERED)
        apart, turned = errors(walked.tracked[after.start : after.stop], after)
        assert apart.max() < 0.015 * MEDIAN_DEPTH
        assert turned.max() < 0.5
        joined = walked.grown[PLACED_AT]
        assert (joined.piece, joined.camera) == (0, CAMERA)
        assert list(joined.keyframes) == list(range(KEYFRAMES[-1] + 1, PLACED_AT + 1))
        assert len(joined.world_from_cam) == len(joined.keyframes)
        own = walked.grown[PLACED_AT - 1]
        before, after_it = (one.world_from_cam[:, :3, 3][np.isin(one.keyframes, [13, 14])] for one in (own, joined))
        longer = np.linalg.norm(after_it[1] - after_it[0]) / np.linalg.norm(before[1] - before[0])
        assert joined.unit / own.unit == pytest.approx(longer, rel=0.05)

    def test_a_covered_lens_gives_no_pose(self, walked: Walked) -> None:
        for one in walked.tracked[COVERED : COVERED + 2]:
            assert (one.state, one.cam_from_world, one.inliers) == ("lost", None, 0)

    def test_it_finds_its_place_again_elsewhere(self, walked: Walked) -> None:
        again = walked.tracked[COVERED + 2 :]
        assert all(one.state == "tracking" for one in again)
        apart, turned = errors(again, range(BACK, BACK + 3))
        assert apart.max() < 0.015 * MEDIAN_DEPTH
        assert turned.max() < 0.5

    def test_it_moves_with_the_map(self, walked: Walked) -> None:
        """A correction may turn, shift and scale the world; here it is told before a frame, and undone."""
        change = Sim3(3.0, Rotation.from_rotvec([0.1, 0.7, -0.4]).as_matrix(), np.array([5.0, -2, 1]))
        corrected = [replace(frame, world_from_cam=change @ frame.world_from_cam) for frame in walked.placed]
        walked.tracker.correct(corrected)
        said = walked.tracker.track(captured(len(SEQUENCE), BACK + 3))
        walked.tracker.correct(walked.placed)
        assert said.cam_from_world is not None
        assert said.jump > 1
        centre = change.inverse().apply(np.linalg.inv(said.cam_from_world)[:3, 3])
        assert np.linalg.norm(centre - truth(BACK + 3).translation) < 0.015 * MEDIAN_DEPTH

    def test_another_room_is_not_taken_for_this_one(self, walked: Walked) -> None:
        generator = np.random.default_rng(0)
        noise = cv2.resize(generator.integers(0, 255, (60, 80, 3), np.uint8), SIZE, interpolation=cv2.INTER_CUBIC)
        frame = replace(captured(100, None), image=noise)
        assert [walked.tracker.track(replace(frame, index=100 + step)).state for step in range(3)] == ["lost"] * 3

    def test_a_map_of_other_frames_does_not_help(self) -> None:
        tracker = Tracker()
        place(tracker)
        assert tracker.track(captured(50, 40)).state == "lost"


def test_counts_give_share_and_quantiles() -> None:
    counts = TrackingCounts()
    states = ["waiting"] * 10 + ["tracking"] * 60 + ["weak"] * 20 + ["lost"] * 10
    for index, state in enumerate(states):
        event = FrameTracked(index, 0.1 * index, state, None, None, 0, 0, 0.0, float(index))  # type: ignore[arg-type]
        counts.add(event, 200.0 + index if index % 10 == 5 else None)
    for milliseconds in (900.0, 1100.0, 2000.0):
        none = np.zeros((0, 3))
        counts.add_depth(LocalDepth(0, 0.0, CAMERA, 1.0, none, none.astype(np.uint8), milliseconds))
    report = counts.report()
    assert (report.dense, report.dense_p50, report.dense_p95) == (3, 1100, 2000)
    assert (report.frames, report.waiting, report.tracking, report.weak, report.lost) == (100, 10, 60, 20, 10)
    assert report.share == pytest.approx(80 / 90)
    assert (report.p50, report.p95) == (49, 94)
    assert (report.keyframes, report.map_p50, report.map_p95) == (10, 245, 295)
    assert report.first_pose == pytest.approx(1)
