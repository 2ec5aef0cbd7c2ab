"""The figures of the benchmark, for poses whose errors are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.core.similarity import Sim3
from retrieval.lab.locate_benchmark import (
    Errors,
    Evidence,
    LocateResult,
    errors_of,
    relative_errors,
    table,
    with_offset,
    write_results,
)

TRUE_FROM_MAP = Sim3(2.5, Rotation.from_euler("xyz", [0.4, -1.0, 0.2]).as_matrix(), np.array([3.0, 1.0, -2.0]))
OFFSET = Sim3(1.0, Rotation.from_euler("xyz", [0.03, -0.02, 0.01]).as_matrix(), np.array([0.02, -0.01, 0.0]))


def wander(count: int = 40) -> dict[int, Sim3]:
    """Poses of a walk that turns about all axes, by index."""
    turns = Rotation.from_euler("yxz", [(0.15 * i, 0.3 * np.sin(i), 0.2 * np.cos(0.7 * i)) for i in range(count)])
    places = [(np.cos(0.15 * i), 0.2 * np.sin(0.5 * i), np.sin(0.15 * i)) for i in range(count)]
    return {i: Sim3(1.0, turns[i].as_matrix(), np.array(places[i])) for i in range(count)}


def of_truth(pose: Sim3) -> Sim3:
    moved = TRUE_FROM_MAP @ pose
    return Sim3(1.0, moved.rotation, moved.translation)


def test_shares_count_photos_that_were_not_located() -> None:
    assert Errors((0.01, 0.04, 0.2, 0.01), (1.0, 6.0, 1.0, 4.0)).share_within(5) == 2 / 5


def test_a_constant_offset_of_the_camera_is_found_by_the_maps_frames() -> None:
    poses = wander()
    true = {index: of_truth(pose @ OFFSET) for index, pose in poses.items()}
    mapped, photos = ({i: pose for i, pose in poses.items() if i % 2 == part} for part in (0, 1))
    assert min(errors_of(photos, true, TRUE_FROM_MAP).rotation_deg) > 1.5
    moved, alignment = with_offset(photos, mapped, true, TRUE_FROM_MAP)
    left = errors_of(moved, true, alignment)
    assert max(left.position) < 1e-4
    assert max(left.rotation_deg) < 1e-3


def test_relative_errors_leave_out_the_drift_of_the_map() -> None:
    poses = wander()
    true = {index: of_truth(pose) for index, pose in poses.items()}
    drifted = {i: Sim3(1.0, np.eye(3), np.array([0.0, 0.01 * (i // 2), 0.0])) @ pose for i, pose in poses.items()}
    mapped, photos = ({i: pose for i, pose in drifted.items() if i % 2 == part} for part in (0, 1))
    assert max(errors_of(photos, true, TRUE_FROM_MAP).position) == pytest.approx(2.5 * 0.19)
    assert max(relative_errors(photos, mapped, true, TRUE_FROM_MAP.scale).position) < 1e-9


def test_results_are_written(tmp_path: Path) -> None:
    good, none = Errors((0.01, 0.02), (0.1, 0.2)), Errors((), ())
    seen, other = Evidence((100, 90, 80, 10), (0.9, 0.95, 0.99, 0.5)), Evidence((5, 20), (0.1, 0.6))
    result = LocateResult("room", 5, 4, good, good, good, none, seen, other, ("fox/1.jpg",), (0.4, 0.5, 0.6, 0.5), 3.2)
    rows = table([result]).splitlines()
    assert rows[0] == "|  | room |"
    assert "| photos located | 2 of 4 |" in rows
    assert "| within 5 cm and 5 degrees | 50.0% |" in rows
    assert "| photos of other places accepted | 1 of 2 |" in rows
    assert "| alike: least of the photos, most of other places | 50%, 60% |" in rows
    write_results([result], tmp_path)
    assert json.loads((tmp_path / "locate.json").read_text())["maps"][0]["accepted"] == ["fox/1.jpg"]
    assert (tmp_path / "locate.md").read_text() == table([result])
