"""What the page of a phone shows: the state, the advice, and a map that can be drawn."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.core.events import FrameTracked
from tests.viewer import scene
from viewer.phone import advice, screen
from viewer.phone.advice import Adviser
from viewer.phone.screen import PhoneScreen

SECONDS = 10.0


def until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def points(shown: PhoneScreen) -> np.ndarray:
    """The points of the map, in the coordinates of the drawing."""
    data = shown.map()
    assert data
    positions = np.frombuffer(base64.b64decode(data["positions"]), "<u2").reshape(-1, 3) / 32767.5 - 1
    assert len(base64.b64decode(data["colours"])) == positions.size
    return positions


def test_the_local_map_comes_first_and_gives_way_to_the_finished_one() -> None:
    shown = PhoneScreen()
    assert shown.map() is None
    assert shown.state()["map"] == 0
    shown(scene.local_map(0, -1))
    until(lambda: shown.state()["map"] == 1)
    assert len(points(shown)) == 3
    shown(scene.chunk_event(0))
    until(lambda: shown.state()["placed"] == scene.CHUNK)
    positions = points(shown)
    assert (shown.state()["tracking"], shown.state()["advice"]) == ("mapping", advice.GO_ON)  # with --no-tracking
    assert 1000 < len(positions) <= screen.SUBMAP_POINTS
    # The wall is flat, and it fills the drawing.
    assert np.linalg.svd(positions - positions.mean(axis=0), full_matrices=False)[1][2] < 0.02
    assert np.abs(positions).max() == pytest.approx(1, abs=1e-4)


def test_the_map_keeps_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "MAP_POINTS", 900)
    shown = PhoneScreen()
    for number in range(4):
        shown(scene.chunk_event(number))
        until(lambda seen=scene.CHUNK * (number + 1): shown.state()["placed"] == seen)
    assert 800 < len(points(shown)) <= 900


def test_a_correction_moves_the_map_and_its_camera_together() -> None:
    """Seen in the drawing, a rotated, enlarged map looks as before; the camera stays where it was in it."""
    shown = PhoneScreen()
    shown(scene.chunk_event(0))
    until(lambda: shown.state()["placed"] > 0)
    before = points(shown)
    tracked = next(iter(scene.tracked_events(1)))
    shown(tracked)
    trail = shown.state()["trail"]
    shown(scene.correction_event(1))
    until(lambda: shown.state()["map"] == 2)
    np.testing.assert_allclose(points(shown), before, atol=0.01)
    pose = scene.CORRECTION.matrix() @ tracked.world_from_cam
    pose[:3, :3] /= scene.CORRECTION.scale
    shown(replace(tracked, index=2, world_from_cam=pose, jump=1.0))
    np.testing.assert_allclose(shown.state()["trail"][-1], trail[-1], atol=0.01)
    assert len(shown.state()["camera"]) == 10


def test_dense_points_are_drawn_until_the_finished_map_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(screen, "central", lambda positions: np.ones(len(positions), np.bool_))
    shown, grown = PhoneScreen(), scene.local_map(0, -1)
    shown(grown)
    until(lambda: shown.state()["map"] == 1)
    alone = len(points(shown))
    shown(scene.local_depth(1))
    until(lambda: shown.state()["map"] == 2)
    assert len(points(shown)) == alone + 2
    monkeypatch.setattr(screen, "LOCAL_POINTS", 2)
    assert len(points(shown)) == alone + 1
    shown(replace(grown, index=5, keyframes=np.array([4, 5])))
    until(lambda: shown.state()["map"] == 3)
    assert len(points(shown)) == alone


def test_the_state_says_what_the_run_does() -> None:
    shown = PhoneScreen()
    assert shown.state()["tracking"] == "waiting"
    for event in scene.events(2):
        shown(event)
    until(lambda: shown.state()["placed"] == 2 * scene.CHUNK)
    state = shown.state()
    assert state["finished"] == "6 of 7 images"
    assert (state["tracking"], state["advice"]) == ("lost", advice.RETURN)
    assert (state["stage"], state["behind"]) == ("reading", 4 * scene.SECONDS)  # four frames later than the map
    assert state["camera"] == []


def tracked(seconds: float, state: str = "tracking", **more: object) -> FrameTracked:
    given = {"piece": 0, "drift": 0.0, "milliseconds": 10.0, "world_from_cam": np.eye(4)} | more
    pose = given.pop("world_from_cam")
    return FrameTracked(round(10 * seconds), seconds, state, pose, scene.CAMERA, 80, **given)  # type: ignore[arg-type]


def moving(turn_deg: float, step: float, **last: object) -> str:
    """The advice for a camera that turns and moves by so much a second, after a second."""
    adviser, said = Adviser(), ""
    for row in range(11):
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_euler("y", turn_deg * row / 10, degrees=True).as_matrix()
        pose[0, 3] = step * row / 10
        more = last if row == 10 else {}
        said = adviser.advise(tracked(row / 10, world_from_cam=pose, **more), scene_depth=2.0)
    return said


def test_advice_follows_state_speed_and_drift() -> None:
    assert Adviser().advise(tracked(0, "waiting", world_from_cam=None), 1.0) == advice.BEGIN
    assert Adviser().advise(tracked(0, "lost", world_from_cam=None), 1.0) == advice.RETURN
    assert Adviser().advise(tracked(0, "weak"), 1.0) == advice.DETAIL
    assert Adviser().advise(tracked(0, "weak", drift=0.08), 1.0) == advice.REVISIT
    assert moving(20, 0.5) == advice.GO_ON
    assert moving(80, 0.0) == advice.SLOWER
    assert moving(0, 1.5) == advice.SLOWER  # 0.75 of the depth a second
    assert moving(80, 0.0, jump=0.1) == advice.GO_ON  # the map has changed: the speed is unknown
    assert moving(80, 0.0, piece=3) == advice.GO_ON
