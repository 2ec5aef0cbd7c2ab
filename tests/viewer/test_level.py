"""The level frame of a map, and the first view of it."""

import numpy as np
import pytest

from recon.core.similarity import Sim3
from recon.core.types import PlacedFrame
from tests.support import RADIAL, make_map
from viewer.level import Level, centres


def turned(frame: PlacedFrame, change: Sim3) -> PlacedFrame:
    return PlacedFrame(frame.index, frame.timestamp, frame.name, frame.camera, change @ frame.world_from_cam)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlacedFrame, ...]:
    return make_map(tmp_path_factory.mktemp("level")).frames


def test_the_level_frame_is_a_rotation_with_cameras_upright(frames: tuple[PlacedFrame, ...]) -> None:
    rotation = Level.of(frames).level_from_world
    assert rotation @ rotation.T == pytest.approx(np.eye(3), abs=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    ups = np.array([-frame.world_from_cam.rotation[:, 1] for frame in frames]) @ rotation.T
    assert ups[:, 1].min() > 0.98


def test_it_turns_with_the_map(frames: tuple[PlacedFrame, ...]) -> None:
    change = Sim3(2.0, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([1.0, 2, 3]))
    before, after = (Level.of(some).level_from_world for some in (frames, [turned(one, change) for one in frames]))
    assert np.abs(after @ change.rotation) == pytest.approx(np.abs(before), abs=1e-9)  # x may point either way


def test_a_single_frame_has_a_level_frame() -> None:
    alone = PlacedFrame(0, 0.0, "alone.jpg", RADIAL, Sim3.identity())
    rotation = Level.of([alone]).level_from_world
    assert rotation @ rotation.T == pytest.approx(np.eye(3), abs=1e-12)
    assert rotation[1] == pytest.approx([0, -1, 0])


def test_the_first_view_is_behind_and_above_the_cameras(frames: tuple[PlacedFrame, ...]) -> None:
    points = centres(frames) + np.array([0, 0, 4.0])
    level = Level.of(frames)
    position, target = level.first_view(points, frames)
    looking = target - position
    assert looking @ np.mean([frame.world_from_cam.rotation[:, 2] for frame in frames], axis=0) > 0
    assert looking @ level.level_from_world[1] < 0
    reach = np.linalg.norm(points - target, axis=1)
    assert np.percentile(reach, 95) < np.linalg.norm(looking) < 2 * reach.max()
