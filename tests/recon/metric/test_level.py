"""Which way is up in the sample's room, whose walls, door and shelves have upright edges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.core.errors import SettingsError
from recon.core.metric import Metric
from recon.core.similarity import Array, Sim3
from recon.metric.level import Up, find_up, turn_level
from recon.store.map import ReconstructedMap, open_map
from tests.retrieval.maps import sample_frame, store_map
from tests.support import make_map

POSITIONS = range(0, 60, 6)  # of the sample's frames with depth
MAP_FROM_ROOM = Sim3(0.5, Rotation.from_euler("zyx", [40, -70, 110], degrees=True).as_matrix(), np.array([1.0, 2, 3]))
UP = MAP_FROM_ROOM.rotation @ [0, 0, 1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ReconstructedMap:
    frames = [sample_frame(position, MAP_FROM_ROOM) for position in POSITIONS]
    return store_map(tmp_path_factory.mktemp("room"), frames, MAP_FROM_ROOM)


@pytest.fixture(scope="module")
def up(made: ReconstructedMap) -> Up:
    return find_up(made)


def angle(one: Array, other: Array) -> float:
    return float(np.degrees(np.arccos(np.clip(one @ other, -1, 1))))


def test_upright_lines_say_which_way_is_up(up: Up) -> None:
    assert angle(up.direction, UP) < 0.7
    assert up.lines > 40
    assert up.deviation < 1


def test_z_is_up_in_a_map_that_is_turned_level(made: ReconstructedMap, up: Up) -> None:
    before = [frame.world_from_cam for frame in made.frames]
    turn = turn_level(made.folder, up)
    turned = open_map(made.folder)
    assert turned.metric is None
    assert all(frame.world_from_cam.isclose(turn @ pose) for frame, pose in zip(turned.frames, before, strict=True))
    again = find_up(turned)
    assert angle(again.direction, np.array([0.0, 0, 1])) < 0.05
    assert Rotation.from_matrix(turn.rotation).magnitude() == pytest.approx(np.arccos(UP[2]), abs=0.02)
    with pytest.raises(SettingsError, match="from its place on the Earth"):
        find_up(replace(turned, metric=Metric(3, 1.0, (50.0, 8.0, 100.0))))


def test_what_has_no_upright_lines_or_upright_cameras_is_refused(made: ReconstructedMap, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="too few lines in its images are upright"):
        find_up(make_map(tmp_path))
    turns = [Sim3(1.0, Rotation.from_euler("z", 180 * row, degrees=True).as_matrix(), np.zeros(3)) for row in range(10)]
    rolled = tuple(
        replace(frame, world_from_cam=frame.world_from_cam @ turn)
        for frame, turn in zip(made.frames, turns, strict=True)
    )
    with pytest.raises(SettingsError, match="the cameras are turned in all ways"):
        find_up(replace(made, frames=rolled))
