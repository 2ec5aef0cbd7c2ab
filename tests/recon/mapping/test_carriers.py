"""Where hardly any point carries the scale: a walk along a wall, with exact points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from recon.core.similarity import Array, Sim3
from recon.core.types import SparsePoints
from recon.mapping.carriers import Stretch, weakest_stretch
from recon.mapping.sanity import doubt_scale
from tests.support import placed_frame

FRAMES, STEP = 40, 0.1
HALF = FRAMES // 2
SIGHT = 0.65  # how far to either side a camera sees
WALK = {index: np.array([STEP * index, 0.0, 0.0]) for index in range(FRAMES)}


def wall(distance: float) -> Array:
    """Points (1000, 3) along the walk."""
    x = np.linspace(-SIGHT, STEP * FRAMES + SIGHT, 1000)
    return np.column_stack([x, np.sin(40 * x), np.full(1000, distance)])


def tracks(positions: Array, centres: dict[int, Array]) -> list[list[int]]:
    """The frames that see each point."""
    return [[index for index, centre in centres.items() if abs(centre[0] - x) < SIGHT] for x in positions[:, 0]]


def points(positions: Array, seen: Sequence[Sequence[int]]) -> SparsePoints:
    ids = np.repeat(np.arange(len(positions)), [len(track) for track in seen])
    frames = np.array([index for track in seen for index in track], dtype=np.int64)
    return SparsePoints(positions, np.zeros(positions.shape, np.uint8), ids, frames, np.zeros((len(ids), 2)))


def parted(distance: float, carrying: int) -> SparsePoints:
    """A wall of which each half of the walk sees other points, but for ``carrying`` ones, and some that only the two
    frames before and after its middle see."""
    positions = wall(distance)
    seen = tracks(positions, WALK)
    middle = [row for row, track in enumerate(seen) if {HALF - 6, HALF + 5} <= set(track)][:carrying]
    assert len(middle) == carrying
    for row, track in enumerate(seen):
        if row not in middle:
            half = [index for index in track if (index < HALF) == (positions[row, 0] < STEP * (HALF - 0.5))]
            seen[row] = [HALF - 2, HALF - 1, HALF, HALF + 1] if row % 10 == 0 and HALF in track else half
    return points(positions, seen)


@pytest.mark.parametrize("distance", [2.0, 20.0, 200.0])
def test_a_walk_is_accepted_however_small_its_angles(distance: float) -> None:
    positions = wall(distance)
    assert weakest_stretch(WALK, points(positions, tracks(positions, WALK))) is None


@pytest.mark.parametrize("distance", [4.0, 20.0, 200.0])
@pytest.mark.parametrize("carrying", [0, 3])
def test_a_place_that_points_cross_under_small_angles_only_is_found(distance: float, carrying: int) -> None:
    found = weakest_stretch(WALK, parted(distance, carrying))
    assert found is not None
    assert found.carrying <= carrying  # fewer beside the middle, where the halves see points from few places
    assert HALF - 8 < found.first < HALF - 1
    assert HALF < found.last < HALF + 7


def test_enough_carrying_points_are_enough() -> None:
    assert weakest_stretch(WALK, parted(4.0, 15)) is None


def test_a_camera_that_rests_at_either_end_has_no_scale_to_lose() -> None:
    centres = {index: WALK[min(max(index - 8, 0), FRAMES - 17)] for index in range(FRAMES)}
    positions = wall(2.0)
    assert weakest_stretch(centres, points(positions, tracks(positions, centres))) is None


def test_few_frames_and_no_points_are_accepted() -> None:
    assert weakest_stretch(dict(list(WALK.items())[:7]), parted(4.0, 0)) is None
    assert weakest_stretch(WALK, SparsePoints.empty()) is None


def test_the_doubt_names_the_frames() -> None:
    frames = [
        replace(placed_frame(index), world_from_cam=Sim3(1.0, np.eye(3), centre)) for index, centre in WALK.items()
    ]
    found = parted(4.0, 3)
    stretch = weakest_stretch(WALK, found)
    assert isinstance(stretch, Stretch)
    assert doubt_scale(frames, found) == [
        f"the scale may jump between {frames[stretch.first].name} and {frames[stretch.last].name}: only 3 points carry "
        f"it across, where {stretch.usual} are usual in this map"
    ]
    assert doubt_scale(frames, points(wall(2.0), tracks(wall(2.0), WALK))) == []
