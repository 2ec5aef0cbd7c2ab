"""Dense depth of the local map, on the rendered sample, whose depth is exact."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import cv2
import numpy as np
import psutil
import pytest

from recon.core.events import LocalDepth
from recon.core.types import Frame
from recon.core.workers import Workers
from recon.tracking import dense
from recon.tracking.dense import DenseLocalMap, LocalView
from recon.tracking.densifier import Densifier
from recon.tracking.local import LocalMap
from recon.tracking.tracker import Tracker
from tests.recon.tracking.test_tracker import CAMERA, SAMPLE, captured

LAST = 18  # of the frames


@pytest.fixture(scope="module")
def walked() -> tuple[list[Frame], LocalMap]:
    """The keyframes of a local map whose lens is known."""
    tracker, keyframes = Tracker(CAMERA), []
    for number in range(LAST + 1):
        frame = captured(number, number)
        tracker.track(frame)
        if tracker.extend(frame):
            keyframes.append(frame)
    assert tracker.local is not None
    return keyframes, tracker.local


def attempt(name: str, work: Callable[[], None]) -> None:
    work()


def told(walked: tuple[list[Frame], LocalMap], count: int) -> tuple[list[LocalDepth], DenseLocalMap]:
    """What is told of the newest keyframe, once ``count`` events have come."""
    heard: list[LocalDepth] = []
    made = DenseLocalMap(attempt, heard.append)
    for frame in walked[0]:
        made.add(frame, walked[1], time.monotonic())
    deadline = time.monotonic() + 60
    while len(heard) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return heard, made


def test_the_depth_of_the_newest_keyframe_is_right_and_computed_elsewhere(
    walked: tuple[list[Frame], LocalMap],
) -> None:
    before = psutil.Process().children()
    heard, made = told(walked, 1)
    children = [child for child in psutil.Process().children() if child not in before]
    made.close()
    assert len(children) == 1
    found = heard[0]
    assert (found.index, found.camera, found.unit) == (LAST, CAMERA, 1.0)
    assert found.milliseconds > 0
    assert len(found.positions) == len(found.colours) > 1_500
    pixels = found.positions @ CAMERA.matrix().T
    columns, rows = (pixels[:, :2] / pixels[:, 2:]).astype(int).T
    image = cv2.imread(str(SAMPLE / "depth" / f"{LAST:06d}.png"), cv2.IMREAD_UNCHANGED)
    true = cv2.resize(image, (CAMERA.width, CAMERA.height), interpolation=cv2.INTER_NEAREST)[rows, columns] / 1000
    ratio = np.log(found.positions[true > 0, 2] / true[true > 0])
    error = np.abs(ratio - np.median(ratio))
    assert np.median(error) < 0.03
    assert np.quantile(error, 0.9) < 0.12
    small = cv2.resize(walked[0][-1].image, (240, 180), interpolation=cv2.INTER_AREA)
    colours = small[rows * 180 // CAMERA.height, columns * 240 // CAMERA.width]
    assert np.median(np.abs(colours.astype(int) - found.colours)) < 12
    deadline = time.monotonic() + 20
    while any(child.is_running() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(child.is_running() for child in children)


def test_views_that_share_nothing_give_no_points(walked: tuple[list[Frame], LocalMap]) -> None:
    """Depth without a second view would be a guess."""
    none = np.zeros((0, 3)), np.zeros(0, np.int64)
    views = [LocalView(frame, CAMERA, np.eye(4), *none) for frame in walked[0][-3:]]
    positions, colours = Densifier().points(views)
    assert positions.shape == colours.shape == (0, 3)


def test_nothing_is_asked_for_before_there_are_views_to_compare(walked: tuple[list[Frame], LocalMap]) -> None:
    made = DenseLocalMap(lambda name, work: None, lambda depth: None)
    for frame in walked[0][-2:]:
        made.add(frame, walked[1], 0.0)
    assert made._waiting is None
    made.add(captured(LAST, LAST), LocalMap(0, CAMERA), 0.0)
    assert made._waiting is None
    made.close()


def test_a_failure_is_reported_once(walked: tuple[list[Frame], LocalMap], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "DENSIFIER", "recon.tracking.nothing:Nothing")
    failed, done = [], threading.Event()

    def note(name: str, work: Callable[[], None]) -> None:
        with pytest.raises(ModuleNotFoundError):
            work()
        failed.append(name)
        done.set()

    made = DenseLocalMap(note, lambda depth: None)
    assert done.wait(60)
    for frame in walked[0]:
        made.add(frame, walked[1], 0.0)
    made.close()
    assert failed == ["dense depth of the newest images"]


def test_too_little_memory_for_the_other_process_is_no_fault_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def note(name: str, work: Callable[[], None]) -> None:
        with pytest.raises(RuntimeError, match="too little memory"):
            work()
        done.set()

    def keep(self: Workers, role: str, function: str) -> None:
        raise MemoryError

    monkeypatch.setattr(Workers, "keep", keep)
    DenseLocalMap(note, lambda depth: None)
    assert done.wait(10)
