"""The network as a depth stage."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from recon.depth.learned import FilledSweep, LearnedSweep, confidence
from recon.depth.views import Depth, PosedView
from recon.depth.weights import BUNDLED, load_weights
from tests.recon.depth.scenes import HEIGHT, WIDTH, room_views
from tests.recon.depth.test_network import tiny_net

CPU = torch.device("cpu")


def posed_views(zoom: int = 1) -> list[PosedView]:
    """Three views of a room; its points are pixels of the middle view, seen by all."""
    views = room_views(zoom=zoom)
    height, width = zoom * HEIGHT, zoom * WIDTH
    rows, columns = (np.random.default_rng(0).integers(4, limit - 4, 60) for limit in (height, width))
    pixels = np.column_stack([columns + 0.5, rows + 0.5, np.ones(60)])
    intrinsics, poses = views.intrinsics.double().numpy(), views.cam_from_world.double().numpy()
    points_cam = pixels @ np.linalg.inv(intrinsics).T * views.depth[1].numpy()[rows, columns, None]
    points = np.column_stack([points_cam, np.ones(60)]) @ np.linalg.inv(poses[1]).T
    return [
        PosedView(
            index=10 + number,
            image=(255 * views.colour[number].numpy()).astype(np.uint8),
            mask=np.ones((height, width), dtype=bool),
            intrinsics=intrinsics,
            cam_from_chunk=poses[number],
            sparse=_seen(points @ poses[number].T, intrinsics),
            point_ids=np.arange(60),
        )
        for number in range(3)
    ]


def _seen(points_cam: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    pixels = points_cam[:, :3] @ intrinsics.T
    return np.column_stack([pixels[:, :2] / pixels[:, 2:], points_cam[:, 2]])


def test_every_usable_pixel_gets_depth_and_confidence() -> None:
    views = posed_views()
    views[0] = replace(views[0], mask=np.arange(WIDTH)[None] < 40 * np.ones((HEIGHT, 1)))
    found = LearnedSweep(tiny_net(), CPU).depth(views, {})
    assert [depth.depth.shape for depth in found] == [(HEIGHT, WIDTH)] * 3
    for view, depth in zip(views, found, strict=True):
        assert ((depth.depth > 0) == view.mask).all()
        assert ((depth.confidence > 0) == view.mask).all()
        assert (depth.confidence <= 1).all()


def test_the_bundled_weights_estimate_the_depth_of_a_rendered_room() -> None:
    views, truth = posed_views(zoom=4), room_views(zoom=4).depth.numpy()
    stage = LearnedSweep(load_weights(BUNDLED, CPU), CPU)
    found = np.stack([depth.depth for depth in stage.depth(views, {})])
    error = np.median(np.abs(found / truth - 1))
    constant = np.median(np.abs(np.median(truth) / truth - 1))
    assert error < 0.3 * constant
    hints = {view.index: Depth(depth, np.ones_like(depth)) for view, depth in zip(views, truth, strict=True)}
    hinted = np.stack([depth.depth for depth in stage.depth(views, {}, hints)])
    assert np.median(np.abs(hinted / truth - 1)) < 0.8 * error


def test_views_without_partners_or_points_get_no_depth() -> None:
    views = posed_views()
    stage = LearnedSweep(tiny_net(), CPU)
    assert stage.depth([], {}) == []
    assert not stage.depth(views[:1], {})[0].depth.any()


def test_views_of_different_sizes_work_together() -> None:
    views = posed_views()
    small = replace(views[2], image=views[2].image[:30, :50], mask=views[2].mask[:30, :50])
    found = LearnedSweep(tiny_net(), CPU).depth([*views[:2], small], {})
    assert found[2].depth.shape == (30, 50)
    assert (found[2].depth > 0).all()


def test_existing_depth_is_kept() -> None:
    views = posed_views()
    solved = Depth(np.full((HEIGHT, WIDTH), 3.0, np.float32), np.full((HEIGHT, WIDTH), 0.5, np.float32))
    found = LearnedSweep(tiny_net(), CPU).depth(views, {11: solved})
    assert found[1] is solved
    assert (found[0].depth > 0).all()


def test_confirmed_depth_is_a_part_of_all_depth() -> None:
    views, stage = posed_views(), LearnedSweep(tiny_net(), CPU)
    for every, some in zip(stage.depth(views, {}), replace(stage, confirm=True).depth(views, {}), strict=True):
        kept = some.depth > 0
        assert kept.mean() < 0.9  # an untrained network's views contradict each other
        assert (some.depth[kept] == every.depth[kept]).all()


def test_the_second_stage_fills_the_gaps_of_the_first() -> None:
    @dataclass(frozen=True)
    class Half:
        value: float
        columns: slice

        def depth(self, views: list[PosedView], solved: Mapping[int, Depth], hints: object = None) -> list[Depth]:
            depth = np.zeros((HEIGHT, WIDTH), np.float32)
            depth[:, self.columns] = self.value
            return [Depth(depth, depth / 10)] * len(views)

    found = FilledSweep(Half(2.0, slice(0, 40)), Half(5.0, slice(20, 60))).depth(posed_views(), {})[0]
    assert (found.depth[:, :40] == 2).all()
    assert (found.depth[:, 40:60] == 5).all()
    assert (found.depth[:, 60:] == 0).all()
    np.testing.assert_array_equal(found.confidence, found.depth / 10)


def test_the_second_stage_sees_smaller_views_of_the_same_scene() -> None:
    seen: list[PosedView] = []

    @dataclass(frozen=True)
    class Columns:
        """Depth that grows by 0.01 per column of the full size, known in the left half of the first stage only."""

        def depth(self, views: list[PosedView], solved: Mapping[int, Depth], hints: object = None) -> list[Depth]:
            height, width = views[0].mask.shape
            depth = np.tile(2 + 0.01 * (np.arange(width, dtype=np.float32) + 0.5) * WIDTH / width, (height, 1))
            if hints is None:
                depth[:, width // 2 :] = 0
            else:
                seen.extend(views)
                assert isinstance(hints, dict)
                np.testing.assert_allclose(hints[views[0].index].depth[:, : width // 2], depth[:, : width // 2], 0.01)
            return [Depth(depth, depth / 10)] * len(views)

    views = posed_views()
    found = FilledSweep(Columns(), Columns(), longest_side=WIDTH // 2).depth(views, {})[0]
    assert seen[0].mask.shape == (HEIGHT // 2, WIDTH // 2)
    np.testing.assert_allclose(seen[0].intrinsics[:2], views[0].intrinsics[:2] / 2)
    np.testing.assert_allclose(seen[0].sparse, views[0].sparse * [0.5, 0.5, 1])
    expected = 2 + 0.01 * (np.arange(WIDTH) + 0.5)
    np.testing.assert_allclose(found.depth, np.tile(expected, (HEIGHT, 1)), atol=0.006)
    assert (found.confidence > 0).all()


def test_depth_is_the_same_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    views, before = posed_views(), torch.get_num_threads()
    stage = LearnedSweep(tiny_net(), CPU)
    found = {}
    try:
        for count in (1, 4):
            monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
            torch.set_num_threads(count)
            found[count] = stage.depth(views, {})
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    for one, four in zip(found[1], found[4], strict=True):
        np.testing.assert_array_equal(one.depth, four.depth)
        np.testing.assert_array_equal(one.confidence, four.confidence)


def test_hints_of_depth_become_inverse_depth_in_the_middle_of_coarse_cells() -> None:
    depth = np.zeros((20, 17), np.float32)
    depth[4, 4], depth[12, 12], depth[5, 5] = 2, 4, 8
    view = replace(posed_views()[0], mask=np.ones((20, 17), bool), sparse=np.array([[12.5, 12.5, 10.0]]))
    known = LearnedSweep(tiny_net(), CPU)._sparse(view, Depth(depth, depth), (24, 24))[0, 0].numpy()
    assert {tuple(pixel): known[tuple(pixel)] for pixel in np.argwhere(known)} == {
        (4, 4): 0.5,
        (12, 12): np.float32(0.1),
    }


def test_depth_does_not_depend_on_the_unit() -> None:
    views = posed_views()
    stage = LearnedSweep(tiny_net(), CPU)
    larger = [
        replace(view, cam_from_chunk=_scaled(view.cam_from_chunk), sparse=view.sparse * [1, 1, 7.0]) for view in views
    ]
    for metres, other in zip(stage.depth(views, {}), stage.depth(larger, {}), strict=True):
        np.testing.assert_allclose(other.depth, 7 * metres.depth, rtol=1e-3)


def _scaled(pose: np.ndarray) -> np.ndarray:
    pose = pose.copy()
    pose[:3, 3] *= 7
    return pose


def test_confidence_is_the_share_of_a_laplace_distribution_within_five_percent() -> None:
    scale = 0.03
    errors = np.random.default_rng(0).laplace(0, scale, 100_000)
    expected = (np.abs(errors) < np.log(1.05)).mean()
    assert abs(float(confidence(torch.tensor(scale).log())) - expected) < 0.01
