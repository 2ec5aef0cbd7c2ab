"""Depth of views between others: rendered rooms with exact depth, and walls whose pixels can be counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from recon.core.types import SURE
from recon.depth.propagation import Propagated, propagate, sees
from recon.depth.views import Depth, PosedView
from tests.recon.depth.scenes import HEIGHT, WIDTH, room_views

ZOOM, FIRST = 2, 10
INTRINSICS = np.array([[50.0, 0, 40], [0, 50, 30], [0, 0, 1]])
WALL = 2.0
CENTRE = (30, 40)


@dataclass
class Exact:
    """Returns the true depth of the views that it is given, by index, and records them."""

    truth: Mapping[int, np.ndarray]
    asked: list[int] = field(default_factory=list)

    def depth(self, views: list[PosedView], solved: Mapping[int, Depth]) -> list[Depth]:
        self.asked += [view.index for view in views if view.index not in solved]
        return [solved.get(view.index) or exact(self.truth[view.index]) for view in views]


def exact(depth: np.ndarray) -> Depth:
    return Depth(depth, np.full_like(depth, 0.8))


@pytest.fixture(scope="module")
def walk() -> tuple[list[PosedView], dict[int, np.ndarray]]:
    """Seven views of a room, 12 cm apart, 3 m from most of it; each sees 150 points of its own."""
    room = room_views(count=7, zoom=ZOOM, coloured=False)
    truth = {FIRST + number: depth.numpy() for number, depth in enumerate(room.depth)}
    rows, columns = (np.random.default_rng(0).integers(0, ZOOM * side, 150) for side in (HEIGHT, WIDTH))
    views = [
        PosedView(
            index,
            np.zeros((ZOOM * HEIGHT, ZOOM * WIDTH, 3), np.uint8),
            np.ones((ZOOM * HEIGHT, ZOOM * WIDTH), bool),
            room.intrinsics.double().numpy(),
            pose.double().numpy(),
            np.column_stack([columns + 0.5, rows + 0.5, truth[index][rows, columns]]),
            np.arange(150),
        )
        for index, pose in zip(truth, room.cam_from_world, strict=True)
    ]
    return views, truth


def test_views_between_others_get_their_true_depth_from_these(walk: tuple[list[PosedView], dict]) -> None:
    views, truth = walk
    inner = Exact(truth)
    found = dict(zip(truth, Propagated(inner).depth(views, {}), strict=True))
    assert sorted(inner.asked) == [index for index in found if not found[index].propagated]
    assert 2 <= len(inner.asked) <= 4
    for index, depth in found.items():
        known = depth.depth > 0
        error = np.abs(depth.depth / truth[index] - 1)[known]
        assert known.mean() > 0.97
        assert np.median(error) < 0.005
        assert (error < 0.03).mean() > 0.97
        assert ((depth.confidence > 0) == known).all()
        assert depth.confidence.max() <= np.float32(0.8)


def test_views_far_apart_or_with_hardly_any_points_are_computed(walk: tuple[list[PosedView], dict]) -> None:
    views, truth = walk
    far, blind = Exact(truth), Exact(truth)
    Propagated(far).depth(views[::3], {})  # 36 cm apart
    assert far.asked == [10, 13, 16]
    few = [replace(view, sparse=view.sparse[:7], point_ids=view.point_ids[:7]) for view in views]
    assert not any(depth.propagated for depth in Propagated(blind).depth(few, {}))
    assert Propagated(blind).depth([], {}) == []


def test_known_depth_stays_and_only_depth_of_its_own_supports_others(walk: tuple[list[PosedView], dict]) -> None:
    views, truth = walk
    solved = {index: exact(truth[index]) for index in (10, 12)}
    solved[11] = replace(exact(2 * truth[11]), propagated=True)
    inner = Exact(truth)
    found = Propagated(inner).depth(views[:4], solved)
    assert [depth is solved[index] for index, depth in zip((10, 11, 12), found[:3], strict=True)] == [True] * 3
    assert set(inner.asked) <= {13}
    assert np.median(np.abs(found[3].depth / truth[13] - 1)) < 0.005  # not that of view 11


def wall_view(x: float = 0.0) -> PosedView:
    """A camera that looks straight at a wall from ``x``."""
    pose = np.eye(4)
    pose[0, 3] = -x
    nothing = np.zeros((60, 80, 3), np.uint8)
    return PosedView(0, nothing, np.ones((60, 80), bool), INTRINSICS, pose, np.zeros((0, 3)), np.zeros(0, np.int64))


def wall(depth: float = WALL, confidence: float = 0.8) -> Depth:
    return Depth(np.full((60, 80), depth, np.float32), np.full((60, 80), confidence, np.float32))


def test_pixels_that_no_other_view_sees_stay_empty() -> None:
    """The source, 12 pixels to the right, has depth only left of column 50."""
    known, shift = wall(), 12
    known.depth[:, 50:] = 0
    found = propagate(wall_view(), [(wall_view((shift + 0.25) * WALL / INTRINSICS[0, 0]), known)])
    columns = np.flatnonzero(found.depth[CENTRE[0]])
    assert (columns[0], columns[-1], len(columns)) == (shift, 49 + shift, 50)
    np.testing.assert_allclose(found.depth[:, columns], WALL, rtol=1e-6)
    assert not found.confidence[:, 62:].any()
    masked = replace(wall_view(), mask=np.zeros((60, 80), bool))
    assert not propagate(masked, [(wall_view(), wall())]).depth.any()


def test_the_nearer_surface_hides_the_farther_one_without_cracks() -> None:
    """A box before the wall; from half a metre closer, its pixels move apart."""
    scene = wall()
    scene.depth[20:40, 30:50] = WALL / 2
    pose = np.eye(4)
    pose[2, 3] = -0.25
    found = propagate(replace(wall_view(), cam_from_chunk=pose), [(wall_view(), scene)]).depth
    np.testing.assert_allclose(found[18:42, 28:52], WALL / 2 - 0.25, rtol=1e-6)  # 4/3 as large, less a rim
    np.testing.assert_allclose(np.delete(found, slice(26, 54), axis=1), WALL - 0.25, rtol=1e-6)


def test_confidence_is_lower_where_sources_contradict() -> None:
    view = wall_view()

    def centre(*sources: Depth) -> tuple[float, float]:
        found = propagate(view, [(view, source) for source in sources])
        return float(found.depth[CENTRE]), float(found.confidence[CENTRE])

    assert centre(wall(2.0, 0.8), wall(2.02, 0.8)) == pytest.approx((2.01, 0.8), rel=1e-3)
    assert centre(wall(2.0, 0.8), wall(2.5, 0.8)) == pytest.approx((2.0, 0.4))  # the nearer surface
    assert centre(wall(2.0, 0.8), wall(1.5, 0.9 * SURE)) == pytest.approx((2.0, 0.4))  # unless it is unreliable
    assert centre(wall(0.0, 0.0), wall(2.0, 0.3)) == pytest.approx((2.0, 0.3))


def test_points_behind_or_beside_the_camera_are_not_seen() -> None:
    points = np.array([[0, 0, 2.0], [0, 0, -2.0], [1.59, 1.19, 2.0], [1.61, 0, 2.0], [0, -1.21, 2.0]])
    assert sees(wall_view(), points).tolist() == [True, False, True, False, False]
