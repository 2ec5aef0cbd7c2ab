"""Which depth of a wall remains after comparison with other views."""

from __future__ import annotations

import numpy as np
import pytest

from recon.depth.consistency import keep_consistent
from recon.depth.views import Depth, PosedView

INTRINSICS = np.array([[50.0, 0, 40], [0, 50, 30], [0, 0, 1]])
WALL = 2.0
CENTRE = (30, 40)


def view(index: int, x: float = 0.0, *, away: bool = False) -> PosedView:
    """A camera that looks straight at the wall from ``x``, or away from it."""
    pose = np.eye(4)
    pose[0, 3] = -x
    if away:
        pose[[0, 2]] *= -1
    nothing = np.zeros((60, 80, 3), np.uint8)
    return PosedView(index, nothing, np.ones((60, 80), bool), INTRINSICS, pose, np.zeros((0, 3)), np.zeros(0, np.int64))


def wall(factor: float = 1.0) -> Depth:
    return Depth(np.full((60, 80), factor * WALL, np.float32), np.full((60, 80), 0.8, np.float32))


def kept_confidence(*others: tuple[PosedView, Depth]) -> float:
    """What remains of a confidence of 0.8 in the middle of the picture."""
    found = keep_consistent(view(0), wall(), list(others))
    assert (found.confidence[CENTRE] > 0) == (found.depth[CENTRE] > 0)
    return float(found.confidence[CENTRE])


def test_two_views_that_agree_keep_the_depth() -> None:
    assert kept_confidence((view(1, 0.1), wall()), (view(2, -0.1), wall())) == pytest.approx(0.8)


def test_one_view_alone_halves_the_confidence() -> None:
    assert kept_confidence((view(1, 0.1), wall())) == pytest.approx(0.4)
    assert kept_confidence((view(1, 0.1), wall()), (view(2, away=True), wall())) == pytest.approx(0.4)


def test_depth_that_no_other_view_sees_is_dropped() -> None:
    assert kept_confidence() == 0
    assert kept_confidence((view(1, away=True), wall()), (view(2, 50.0), wall())) == 0
    nothing = Depth(np.zeros((60, 80), np.float32), np.zeros((60, 80), np.float32))
    assert kept_confidence((view(1, 0.1), nothing), (view(2, 0.1), nothing)) == 0


def test_depth_that_most_views_contradict_is_dropped() -> None:
    wrong = [(view(index, 0.1 * index), wall(1.1)) for index in (1, 2)]
    assert kept_confidence(*wrong) == 0
    assert kept_confidence(*wrong, (view(3, -0.1), wall())) == 0


@pytest.mark.parametrize(("factor", "agrees"), [(1.01, True), (0.99, True), (1.03, False), (0.97, False)])
def test_agreement_is_within_two_percent(factor: float, agrees: bool) -> None:
    others = [(view(index, 0.1 * index), wall(factor)) for index in (1, 2)]
    assert (kept_confidence(*others) > 0) == agrees


def test_pixels_are_compared_where_the_other_view_sees_them() -> None:
    """The other view stands to the right and has depth only in the left part of its picture."""
    shift = 12
    depth = wall()
    depth.depth[:, 29:] = 0
    found = keep_consistent(view(0), wall(), [(view(1, shift * WALL / INTRINSICS[0, 0]), depth)])
    columns = np.flatnonzero(found.depth[CENTRE[0]])
    assert (columns.min(), columns.max()) == (shift, 28 + shift)
