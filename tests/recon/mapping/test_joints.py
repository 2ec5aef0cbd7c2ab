"""Parts of a map that hang together by too few points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from recon.core.types import SparsePoints
from recon.mapping.joints import FEWEST_JOINING, weakest_joint
from recon.mapping.sanity import examine
from tests.support import placed_frame

FRAMES = [placed_frame(index) for index in range(12)]
NEAR = 3  # frames on either side that see a point
DENSE = 40  # points around each frame


def seen_by(tracks: Sequence[Sequence[int]]) -> SparsePoints:
    """Points that the given frames see."""
    where = np.array([index for track in tracks for index in track], dtype=np.int64)
    ids = np.repeat(np.arange(len(tracks)), [len(track) for track in tracks]).astype(np.int64)
    return SparsePoints(
        positions=np.tile([0.0, 0.0, 4.0], (len(tracks), 1)),
        colours=np.zeros((len(tracks), 3), dtype=np.uint8),
        point_ids=ids,
        frame_indices=where,
        pixels=np.zeros((len(where), 2)),
    )


def two_parts(first: Sequence[int], second: Sequence[int], joining: int) -> SparsePoints:
    """Points in plenty within two parts, and ``joining`` points that two frames of each part see."""
    within = [
        [part[place] for place in range(max(0, row - NEAR), min(len(part), row + NEAR + 1))]
        for part in (first, second)
        for row in range(len(part))
        for _ in range(DENSE)
    ]
    return seen_by([*within, *[[*first[-2:], *second[:2]]] * joining])


@pytest.mark.parametrize(
    ("first", "second"),
    [(range(7), range(7, 12)), (range(0, 12, 2), range(1, 12, 2)), ([0, 1, 2, 3, 9, 10, 11], range(4, 9))],
    ids=["a cut", "two places in turn", "there and back"],
)
@pytest.mark.parametrize("joining", [0, 5, FEWEST_JOINING - 1, FEWEST_JOINING, 100])
def test_the_smaller_part_and_its_joining_points_are_found(
    first: Sequence[int], second: Sequence[int], joining: int
) -> None:
    found = weakest_joint(FRAMES, two_parts(first, second, joining))
    if joining >= FEWEST_JOINING:
        assert found is None
    else:
        assert found is not None
        part, points = found
        assert points == joining
        assert [frame.index for frame in part] in (list(first), list(second))


def test_points_seen_once_on_one_side_do_not_join() -> None:
    points = seen_by([*[list(range(6))] * 50, *[list(range(6, 12))] * 50, *[[4, 5, 6]] * 10, *[[5, 6]] * 10])
    found = weakest_joint(FRAMES, points)
    assert found is not None
    assert found[1] == 0


def test_single_frames_with_few_points_are_no_part() -> None:
    lonely = [*[[0, 1, 3, 4, 6, 7, 9, 10]] * 80, *[[0, 1, 2]] * 20, *[[3, 4, 5]] * 20, *[[6, 7, 8]] * 20]
    assert weakest_joint(FRAMES, seen_by(lonely)) is None


def test_frames_without_points_and_maps_too_small_for_two_parts_are_no_part() -> None:
    assert weakest_joint(FRAMES, seen_by([list(range(6))] * 100)) is None
    assert weakest_joint(FRAMES[:4], seen_by([[0, 1]] * 50 + [[2, 3]] * 50)) is None


def test_a_weak_joint_is_a_doubt_that_names_the_part() -> None:
    points = two_parts(range(7), range(7, 12), 5)
    reasons = examine({frame.index: frame for frame in FRAMES}, points, dict.fromkeys(range(12), 4.0))
    (reason,) = [reason for reason in reasons if "join" in reason]
    assert reason == (
        f"only 5 points join the 5 frames from {FRAMES[7].name} to {FRAMES[11].name} to the others: how far away and "
        "how large that part is, is a guess"
    )
