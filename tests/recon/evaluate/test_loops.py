"""Loops compared with reference poses, on a walk along a plane with known overlaps between frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.core.errors import SourceError
from recon.core.places import LoopRecord, Verdict
from recon.core.similarity import Array
from recon.evaluate import loops as loop_evaluation
from recon.evaluate.loops import (
    curve,
    evaluate_loops,
    find_revisits,
    is_right,
    overlap,
    plot_loops,
    read_views,
    reference_by_frame,
)
from recon.exports.trajectory import Trajectory, rigid_trajectory
from recon.store.map import ReconstructedMap
from tests.support import make_map


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> ReconstructedMap:
    """Eighteen frames, 0 to 34, each with another scale; 0.4 apart sideways, 4 in front of a plane."""
    return make_map(tmp_path_factory.mktemp("walk"), scales=(1.0, 0.5, 2.0) * 6)


@pytest.fixture(autouse=True)
def short_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_evaluation, "GAP", 8)
    monkeypatch.setattr(loop_evaluation, "NEARBY", 1)


def true_poses(walk: ReconstructedMap, scale: float = 1.0) -> dict[int, Array]:
    """World from camera by frame in a world ``scale`` times as large as the map's."""
    trajectory = rigid_trajectory(walk, by_index=True)
    poses = trajectory.world_from_cam.copy()
    poses[:, :3, 3] *= scale
    return dict(zip(trajectory.timestamps.astype(int).tolist(), poses, strict=True))


def line(earlier: int, frame: int, verdict: Verdict, similarity: float = 0.5, inliers: int = 50) -> LoopRecord:
    return LoopRecord(frame, earlier, 0, 1, similarity, inliers, 0.003, 1.0, 1.0, verdict, "")


def test_overlap_falls_with_distance_and_respects_the_scale_of_every_frame(walk: ReconstructedMap) -> None:
    views = read_views(walk, true_poses(walk, 3.0), 3.0)
    shares = [overlap(views[0], views[index]) for index in range(0, 24, 2)]
    assert shares[0] == pytest.approx(1, abs=0.01)
    assert shares[1] > shares[4] > shares[7] > shares[11]
    assert 0.5 < shares[5] < 0.7
    wrong_scale = read_views(walk, true_poses(walk, 3.0), 1.0)
    assert overlap(wrong_scale[0], wrong_scale[10]) < 0.05
    assert is_right(views[0], views[16])
    assert not is_right(wrong_scale[0], wrong_scale[10])


def test_loops_are_right_by_shared_surface_and_find_nearby_revisits(
    walk: ReconstructedMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_evaluation, "RIGHT_OVERLAP", 0.2)
    reference = true_poses(walk)
    revisits = find_revisits(read_views(walk, reference, 1.0))
    assert (0, 8) in revisits
    assert all(second - first >= 8 for first, second in revisits)
    assert (0, 34) not in revisits  # they overlap little
    ledger = [line(0, 8, "accepted"), line(0, 34, "accepted"), line(4, 12, "rejected"), line(6, 14, "retracted")]
    found = evaluate_loops(walk, [*ledger, line(0, 99, "accepted")], reference, 1.0)
    assert (found.candidates, found.accepted, found.right, found.precision) == (4, 2, 1, 0.5)
    assert found.revisits == len(revisits)
    assert found.recall == pytest.approx(1 / len(revisits))  # only the frame pair itself: frames are two apart


def test_without_loops_nothing_is_found_and_nothing_is_wrong(walk: ReconstructedMap) -> None:
    found = evaluate_loops(walk, [], true_poses(walk), 1.0)
    assert (found.accepted, found.precision, found.recall) == (0, 1.0, 0.0)
    assert all(len(one.recall) == 0 for one in found.curves)


def test_curve_follows_the_score() -> None:
    pairs, right = np.array([(0, 8), (0, 20), (4, 12)]), np.array([True, False, True])
    found = curve("similarity", [0.7, 0.9, 0.6], pairs, right, [(0, 8), (4, 12), (6, 14)])
    assert found.precision.tolist() == pytest.approx([0, 1 / 2, 2 / 3])
    assert found.recall.tolist() == pytest.approx([0, 1 / 3, 2 / 3])


def test_curves_are_drawn(walk: ReconstructedMap, tmp_path: Path) -> None:
    ledger = [line(0, 8, "accepted", 0.8), line(4, 12, "rejected", 0.6), line(0, 22, "rejected", 0.7)]
    plot_loops(evaluate_loops(walk, ledger, true_poses(walk), 1.0), tmp_path / "loops.png")
    assert (tmp_path / "loops.png").read_bytes().startswith(b"\x89PNG")


def test_a_walk_that_never_returns_cannot_be_judged(walk: ReconstructedMap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_evaluation, "GAP", 100)
    with pytest.raises(SourceError, match="no loops to find"):
        evaluate_loops(walk, [], true_poses(walk), 1.0)


def with_frames_between(walk: ReconstructedMap, skip: int = 2) -> ReconstructedMap:
    """The walk with a frame after every ``skip``-th one that has a pose but no depth, and its own name and time."""
    between = [
        replace(frame, index=frame.index + 1, timestamp=frame.timestamp + 0.05, name=f"between_{frame.index}.jpg")
        for frame in walk.frames[::skip]
    ]
    return replace(walk, between=tuple(between))


@pytest.mark.parametrize("by_index", [True, False])
def test_reference_rows_are_matched_with_passed_over_frames_present(walk: ReconstructedMap, by_index: bool) -> None:
    whole = with_frames_between(walk)
    times = [float(frame.index) if by_index else frame.timestamp for frame in whole.posed]
    marked = np.array([np.diag([frame.index + 1.0, 1, 1, 1]) for frame in whole.posed])
    reference = Trajectory(np.array(times[::-1]), marked[::-1])
    found = reference_by_frame(whole, reference, by_index=by_index)
    assert sorted(found) == [frame.index for frame in whole.posed]
    assert all(pose[0, 0] == index + 1 for index, pose in found.items())


def test_passed_over_frames_change_no_figure(walk: ReconstructedMap) -> None:
    ledger = [line(0, 8, "accepted"), line(0, 34, "accepted"), line(4, 12, "rejected")]
    whole = with_frames_between(walk)
    reference = rigid_trajectory(whole, by_index=True)
    true = reference_by_frame(whole, reference, by_index=True)
    plain, mixed = evaluate_loops(walk, ledger, true_poses(walk), 1.0), evaluate_loops(whole, ledger, true, 1.0)
    assert (mixed.revisits, mixed.right, mixed.recall) == (plain.revisits, plain.right, plain.recall)
    assert mixed.revisits > 0
