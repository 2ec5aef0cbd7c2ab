"""Final poses of frames that the map does not have: exact and drifting trackers, and those that cannot be trusted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from recon.core.similarity import Array, Sim3
from recon.core.types import Camera, PassedFrame, PlacedFrame, SparsePoints
from recon.store.tracked import TrackedPoses
from recon.tracking.afterwards import LARGEST_ERROR, place_tracked

FRAMES, EVERY = 31, 6  # keyframes are 0, 6, 12...
CAMERA = Camera("PINHOLE", 640, 480, (500.0, 500.0, 320.0, 240.0))
DEPTH = 4.0  # of the wall that the camera looks at


def walk(seed: int = 0) -> Array:
    """World from camera (n, 4, 4): along a wall at z = DEPTH, looking about a little."""
    chance, poses = np.random.default_rng(seed), np.tile(np.eye(4), (FRAMES, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(0.02 * np.cumsum(chance.normal(size=(FRAMES, 3)), axis=0)).as_matrix()
    poses[:, :3, 3] = np.cumsum(chance.normal((0.1, 0, 0), 0.02, (FRAMES, 3)), axis=0) * (1, 1, 0)
    return poses


def moved(poses: Array, change: Sim3) -> Array:
    """Rigid poses (n, 4, 4) in another world, ``change`` times as large."""
    found = change.matrix() @ poses
    found[:, :3, :3] /= change.scale
    return np.asarray(found)


def said(poses: Array, indices: Array | None = None) -> TrackedPoses:
    numbers = np.arange(len(poses)) if indices is None else indices
    return TrackedPoses(numbers, numbers / 10, poses)


def keyframes(poses: Array) -> list[PlacedFrame]:
    return [
        PlacedFrame(index, index / 10, f"{index}.jpg", CAMERA, Sim3.from_matrix(poses[index]))
        for index in range(0, FRAMES, EVERY)
    ]


def wall(poses: Array) -> SparsePoints:
    """Ten points of the wall, seen by all keyframes."""
    frames = np.repeat(np.arange(0, FRAMES, EVERY), 10)
    positions = np.column_stack([np.linspace(-1, 3, 10), np.zeros(10), np.full(10, DEPTH)])
    ids = np.tile(np.arange(10), len(frames) // 10)
    return SparsePoints(positions, np.zeros((10, 3), np.uint8), ids, frames, np.zeros((len(frames), 2)))


def passed() -> dict[int, PassedFrame]:
    return {index: PassedFrame(index, index / 10, f"{index}.jpg") for index in range(FRAMES) if index % EVERY}


def place(final: Array, *pieces: TrackedPoses, points: SparsePoints | None = None) -> dict[int, PlacedFrame]:
    seen = wall(final) if points is None else points
    return {frame.index: frame for frame in place_tracked(passed(), pieces, keyframes(final), seen)}


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 1000),
    st.floats(0.01, 100),
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.tuples(*[st.floats(-50, 50)] * 3),
)
def test_an_exact_tracker_gives_exact_poses_whatever_its_world(
    seed: int, scale: float, turn: tuple[float, ...], shift: tuple[float, ...]
) -> None:
    final = walk(seed)
    world = Sim3(scale, Rotation.from_rotvec(turn).as_matrix(), np.array(shift))
    found = place(final, said(moved(final, world)))
    assert found.keys() == passed().keys()
    poses = np.array([found[index].world_from_cam.matrix() for index in sorted(found)])
    assert np.abs(poses - final[sorted(found)]).max() < 1e-6
    assert all(found[index].name == f"{index}.jpg" and found[index].timestamp == index / 10 for index in found)


def drifting(final: Array, rate: float) -> Array:
    """The poses of a tracker whose scale and heading drift with each frame by a share ``rate``."""
    steps = np.linalg.inv(final[:-1]) @ final[1:]
    steps[:, :3, 3] *= 1 + rate * np.arange(1, FRAMES)[:, None]
    steps[:, :3, :3] = steps[:, :3, :3] @ Rotation.from_rotvec([0, rate / 10, 0]).as_matrix()
    poses = [final[0]]
    for step in steps:
        poses.append(poses[-1] @ step)
    return np.array(poses)


def test_drift_is_shared_out_between_the_keyframes() -> None:
    final = walk()
    tracker = drifting(final, 0.02)
    assert np.linalg.norm(tracker[-1, :3, 3] - final[-1, :3, 3]) > 0.5
    found = place(final, said(tracker))
    assert found.keys() == passed().keys()
    errors = [np.linalg.norm(found[index].world_from_cam.translation - final[index, :3, 3]) for index in found]
    assert max(errors) < 0.01 * DEPTH


def wrong(final: Array) -> Iterator[tuple[Array, set[int]]]:
    """Trackers of which one stretch is wrong, and the frames of that stretch."""
    away = final.copy()
    away[15, :3, 3] += (0, 0, DEPTH)  # and back
    yield away, set(range(13, 18))
    jump = final.copy()
    jump[15:, :3, 3] += (0, 2 * LARGEST_ERROR * DEPTH, 0)
    yield jump, set(range(13, 18))
    turn, turned = Rotation.from_rotvec([0, 0, 2 * LARGEST_ERROR]).as_matrix(), final.copy()
    turned[15:, :3, :3] = turned[15:, :3, :3] @ turn
    yield turned, set(range(13, 18))


@pytest.mark.parametrize("case", [0, 1, 2])
def test_frames_have_no_pose_where_the_tracker_misses_the_next_keyframe_or_leaps(case: int) -> None:
    final = walk()
    tracker, unsure = list(wrong(final))[case]
    found = place(final, said(tracker))
    assert found.keys() == passed().keys() - unsure
    assert all(np.allclose(frame.world_from_cam.matrix(), final[index], atol=0.02) for index, frame in found.items())


def test_pieces_are_not_compared_and_lost_frames_have_no_pose() -> None:
    """The tracker loses the camera at 9 to 10 and has another world from 15 on."""
    final = walk()
    other = moved(final, Sim3(3.0, Rotation.from_rotvec([1, 0, 0]).as_matrix(), np.ones(3)))
    first = np.array([index for index in range(15) if index not in (9, 10)])
    second = np.arange(15, FRAMES)
    found = place(final, said(final[first], first), said(other[second], second))
    assert found.keys() == {*range(1, 6), 7, 8, 11, *range(19, 24), *range(25, 30)}
    assert all(np.allclose(frame.world_from_cam.matrix(), final[index], atol=1e-9) for index, frame in found.items())


def test_a_map_without_points_places_nothing() -> None:
    """How large an error is, is not known then."""
    final = walk()
    assert place(final, said(final), points=SparsePoints.empty()) == {}
    assert place(final) == {}
