"""Matches of pretrained features in a database of SIFT: which pairs count, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.core.errors import DependencyError, SettingsError
from recon.core.events import Event, Notice
from recon.core.types import Frame, SparseModel
from recon.settings import NetworkSettings, RunSettings
from recon.sfm.chunk_mapper import MAY_BE_WIDE, ChunkMapper, Mapped
from recon.sfm.database import MatchDatabase
from recon.sfm.frontend import StructureFromMotion
from recon.sfm.mapping import EFFORTS, NO_MODEL
from recon.sfm.matching import Features, Pair, SiftMatcher
from recon.sfm.wide_pairs import WidePairs, near_both_ways
from tests.recon.sfm.conftest import read_frame

KNOWN = {(0, 1): 100, (1, 2): 80, (2, 3): 19, (0, 3): 30, (1, 3): 0}  # matches by pair, of 100


class Told:
    """A matcher whose features lie on a grid, and match as often as a table says; it counts its calls."""

    def __init__(self, counts: dict[Pair, int]) -> None:
        self.counts, self.matched = counts, list[Pair]()

    def describe(self, frame: Frame) -> Features:
        shift = 3.0 * frame.index * (1 + np.arange(100) % 7)
        columns, rows = np.divmod(np.arange(100), 10)
        keypoints = np.stack([60 + 50 * columns + shift, 40 + 40 * rows, np.ones(100), np.zeros(100)], axis=1)
        values = np.zeros((100, 102), np.float32)
        values[np.arange(100), np.arange(100)], values[:, 101] = 1, frame.index  # the last one tells the frame
        return Features(keypoints.astype(np.float32), values, frame.original_size)

    def match(self, first: Features, second: Features) -> np.ndarray:
        pair = int(first.descriptors[0, 101]), int(second.descriptors[0, 101])
        self.matched.append(pair)
        rows = np.arange(self.counts.get(pair, 0), dtype=np.uint32)
        return np.column_stack([rows, rows])


@pytest.fixture
def database(tmp_path: Path) -> MatchDatabase:
    database = MatchDatabase(tmp_path / "features.db", SiftMatcher(), "SIMPLE_RADIAL", None)
    for index in range(4):
        database.add(read_frame(index))
    return database


def test_only_pairs_with_evidence_are_added_and_can_be_withdrawn(database: MatchDatabase) -> None:
    """19 matches are too few beside 80, and 30 enough beside 100."""
    database.match([(0, 1), (1, 2)])
    described, sift = database.features(0), database.two_views((0, 1))
    matcher = Told(KNOWN)
    wide = WidePairs(database, matcher)
    before = wide.connect([read_frame(index) for index in range(4)], {3})
    assert sorted(before) == [(0, 3)]
    assert database.inliers(0, 3) == 30 and database.inliers(2, 3) == 0
    assert len(database.positions(0)) > len(described.keypoints) == len(database.features(0).keypoints)
    rows = database.verified_matches((0, 3))
    seen = database.positions(3)[rows[:, 1]]
    wanted = matcher.describe(read_frame(3)).keypoints[:30, :2]
    assert np.linalg.norm(seen[:, None] - wanted, axis=2).min(axis=1).max() <= 1  # a SIFT keypoint stands for near ones
    asked = len(matcher.matched)
    assert wide.connect([read_frame(index) for index in range(4)], {3}) == {} and len(matcher.matched) == asked
    wide.withdraw(before)
    assert database.inliers(0, 3) == 0
    assert np.array_equal(database.two_views((0, 1)).inlier_matches, sift.inlier_matches)
    database.match([(0, 2)], tracked=[0, 1, 2])  # keypoints without descriptors are matched by no SIFT
    assert database.inliers(0, 2) > 100


def test_matches_join_those_of_sift(database: MatchDatabase) -> None:
    database.match([(0, 1)])
    alone = database.inliers(0, 1)
    first, second = (database.positions(index)[rows] for index, rows in enumerate(database.verified_matches((0, 1)).T))
    steps = np.arange(0, len(first), 10)
    assert database.add_matches({(0, 1): (first[steps] + 0.5, second[steps] + 0.5)}) == {}  # nothing new
    moved = tuple(pixels[steps] + (0, 5) for pixels in (first, second))
    before = database.add_matches({(0, 1): (moved[0], moved[1])})
    assert alone < database.inliers(0, 1) <= alone + len(steps)
    assert len(before[0, 1].inlier_matches) == alone


def test_similar_descriptors_are_each_others_nearest() -> None:
    one = np.eye(4, dtype=np.float32)
    assert near_both_ways(one, one[[2, 0]]).tolist() == [[0, 1], [2, 0]]
    assert near_both_ways(one, one[[0, 0]]).tolist() == [[0, 0]]
    assert len(near_both_ways(one[:1], np.full((1, 4), 0.5, np.float32))) == 0  # 60 degrees apart
    assert len(near_both_ways(one, one[:0])) == 0


class Recorded:
    """Stands for ``WidePairs``: adds one pair, and records what is asked of it."""

    def __init__(self) -> None:
        self.lost: list[set[int]] = []
        self.withdrawn: list[object] = []

    def connect(self, frames: Sequence[Frame], lost: set[int]) -> dict[Pair, object]:
        self.lost.append(lost)
        return {(0, 2): object()}

    def withdraw(self, before: dict[Pair, object]) -> None:
        self.withdrawn += before


@pytest.mark.parametrize("found", [2, 3])
def test_matches_stay_only_if_they_give_more_frames_a_place(database: MatchDatabase, found: int) -> None:
    mapper = ChunkMapper(database, lambda event: None, None, "auto", None)
    wide = Recorded()
    mapper._wide = wide  # type: ignore[assignment]
    known, again = (posed(count) for count in (2, found))
    mapper._escalate = lambda indices, poses: (again if poses == known.cam_from_model else NO_MODEL, EFFORTS[1])  # type: ignore[method-assign, assignment]
    frames, indices = [read_frame(index) for index in range(3)], [0, 1, 2]
    model, effort, restarted = mapper._widened(frames, indices, Mapped(known, EFFORTS[0], True))
    assert wide.lost == [{2}]
    if found == 3:
        assert (model, effort, restarted, wide.withdrawn) == (again, EFFORTS[1], True, [])
    else:
        assert (model, effort, restarted, wide.withdrawn) == (known, EFFORTS[0], True, [(0, 2)])
    assert (
        mapper._widened(frames, indices, Mapped(posed(1), EFFORTS[0], True)).model is not again
    )  # too few have a place
    assert len(wide.lost) == 1


def posed(count: int) -> SparseModel:
    return replace(NO_MODEL, cam_from_model={index: np.eye(4) for index in range(count)})


def test_a_run_says_once_that_pretrained_features_are_missing(
    database: MatchDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(device: str) -> None:
        raise DependencyError("Install it with: pip install it")

    monkeypatch.setattr("recon.sfm.xfeat_matching.open_xfeat_matcher", missing)
    events: list[Event] = []
    mapper = ChunkMapper(database, events.append, None, "auto", None)
    assert [mapper._open_wide(), mapper._open_wide()] == [False, False]
    assert events == [Notice(f"{MAY_BE_WIDE} Install it with: pip install it")]
    with pytest.raises(DependencyError):
        StructureFromMotion.prepare(RunSettings(features="xfeat+sift"))
    for network, matcher in ((NetworkSettings("vggt-1b"), "sift"), (None, "flow")):
        with pytest.raises(SettingsError, match="--features xfeat\\+sift cannot be combined with"):
            RunSettings(features="xfeat+sift", network=network, matcher=matcher)
