"""The tracker on the rendered sample, whose poses and depth are exact; the map arrives late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.core.events import FrameTracked
from recon.core.similarity import Array, Sim3
from recon.core.tracked import TrackingCounts
from recon.core.types import Camera, Frame, FrameGeometry, Image, PlacedFrame
from recon.tracking.tracker import Tracked, Tracker
from tests.support import SAMPLE

SIZE = (640, 480)
CAMERA = Camera("PINHOLE", *SIZE, (500.0, 500.0, 320.0, 240.0))
KEYFRAMES = (0, 6, 12)
PLACED_AT, COVERED, BACK = 15, 27, 4  # the map arrives; the lens is covered; the camera is elsewhere when it is not
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
    """tracked: by position in SEQUENCE. tracker: after that."""

    tracked: list[Tracked]
    tracker: Tracker
    placed: tuple[PlacedFrame, ...]


@pytest.fixture(scope="module")
def walked() -> Walked:
    tracker, tracked, placed = Tracker(), [], ()
    for index, number in enumerate(SEQUENCE):
        if index == PLACED_AT:
            placed = place(tracker)
        tracked.append(tracker.track(captured(index, number)))
    return Walked(tracked, tracker, placed)


class TestTracker:
    def test_it_waits_for_the_map_and_tracks_from_then_on(self, walked: Walked) -> None:
        states = [one.state for one in walked.tracked]
        assert states[:PLACED_AT] == ["waiting"] * PLACED_AT
        assert set(states[PLACED_AT:COVERED]) == {"tracking"}
        assert {one.piece for one in walked.tracked} == {0}

    def test_its_poses_are_right_beyond_the_map(self, walked: Walked) -> None:
        apart, turned = errors(walked.tracked[PLACED_AT:COVERED], range(PLACED_AT, COVERED))
        assert apart.max() < 0.015 * MEDIAN_DEPTH
        assert turned.max() < 0.5

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
        counts.add(FrameTracked(index, 0.0, state, None, None, 0, 0, 0.0, float(index)))  # type: ignore[arg-type]
    report = counts.report()
    assert (report.frames, report.waiting, report.tracking, report.weak, report.lost) == (100, 10, 60, 20, 10)
    assert report.share == pytest.approx(80 / 90)
    assert (report.p50, report.p95) == (49, 94)
