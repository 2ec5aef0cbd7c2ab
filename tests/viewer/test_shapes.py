from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.core.types import FrameGeometry
from tests.viewer import scene
from viewer import shapes


def seen(confidence: np.ndarray) -> FrameGeometry:
    whole = scene.geometry(0, 0)
    return FrameGeometry(0, whole.cam_from_chunk, whole.camera, whole.intrinsics, whole.depth, confidence, whole.colour)


@settings(deadline=None, max_examples=25)
@given(budget=st.integers(0, 10_000), frames=st.integers(0, 4))
def test_sample_keeps_the_budget_and_uses_it(budget: int, frames: int) -> None:
    points, colours = shapes.sample_points([scene.geometry(i, 0) for i in range(frames)], budget, seed=1)
    available = scene.WIDTH * (scene.HEIGHT - 1)
    assert len(points) == len(colours) == frames * min(budget // max(frames, 1), available)
    assert len(points) <= budget
    np.testing.assert_allclose(points[:, 2], scene.WALL * scene.CHUNK_UNIT, rtol=1e-6)


def test_sample_follows_confidence_and_leaves_out_what_has_none() -> None:
    confidence = np.zeros((scene.HEIGHT, scene.WIDTH), dtype=np.float32)
    confidence[:, : scene.WIDTH // 2] = 1.0
    points, _ = shapes.sample_points([seen(confidence)], 500, seed=0)
    assert len(points) == 500
    assert (points[:, 0] < 0).all()
    confidence[:, scene.WIDTH // 2 :] = 0.1
    points, _ = shapes.sample_points([seen(confidence)], 500, seed=0)
    assert 0.05 < np.mean(points[:, 0] > 0) < 0.2


@settings(deadline=None, max_examples=25)
@given(budget=st.integers(0, 5000), frames=st.integers(0, 4))
def test_thinning_keeps_the_budget_and_uses_it(budget: int, frames: int) -> None:
    seen_frames = [scene.geometry(index, 0) for index in range(frames)]
    points, colours = shapes.thin_points(seen_frames, budget, seed=1)
    assert len(points) == len(colours) <= budget
    assert len(points) >= (0.4 * min(budget, scene.WIDTH * (scene.HEIGHT - 1)) if frames else 0)


def test_the_first_point_of_each_voxel_stands_for_it() -> None:
    points = np.array([[0.1, 0.1, 5.1], [0.9, 0.2, 5.9], [-0.1, 0.1, 5.1], [0.5, 1.5, 5.5], [0.6, 1.6, 5.6]])
    assert sorted(shapes.one_per_voxel(points, 1.0)) == [0, 2, 3]
    assert sorted(shapes.one_per_voxel(points, 100.0)) == [0, 2]
    assert len(shapes.one_per_voxel(points[:0], 1.0)) == 0


def test_frustum_spans_the_field_of_view_in_world_units() -> None:
    pose = scene.CORRECTION @ scene.world_from_cam(2)
    line = shapes.frustum(scene.CAMERA, pose, length=3.0)
    centre = pose.translation
    np.testing.assert_allclose(line[5], centre, atol=1e-12)
    axis = pose.rotation[:, 2]
    np.testing.assert_allclose((line[:4] - centre) @ axis, 3.0)
    assert np.linalg.norm(line[1] - line[0]) == pytest.approx(3.0 * scene.WIDTH / scene.FOCAL)
    assert np.linalg.norm(line[2] - line[1]) == pytest.approx(3.0 * scene.HEIGHT / scene.FOCAL)
    edges = {frozenset(map(tuple, np.round(pair, 9))) for pair in pairwise(line)}
    assert len(edges) >= 8


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_colours_run_from_dark_to_bright(count: int) -> None:
    colours = shapes.colours_along(count)
    assert colours.shape == (count, 3)
    if count > 1:
        assert colours[0].sum() < colours[-1].sum()
        assert colours[-1].tolist() == [240, 249, 33]


def test_shrink_keeps_the_field_of_view() -> None:
    whole = scene.geometry(0, 0)
    colour, depth, confidence, intrinsics = shapes.shrink(whole, longest=20)
    assert colour.shape == (12, 16, 3)
    assert depth.shape == confidence.shape == (12, 16)
    np.testing.assert_allclose(intrinsics[0], whole.intrinsics[0] / 4)
    np.testing.assert_allclose(intrinsics[1], whole.intrinsics[1] / 4)
    same, _, _, unchanged = shapes.shrink(whole, longest=scene.WIDTH)
    np.testing.assert_array_equal(same, whole.colour)
    np.testing.assert_array_equal(unchanged, whole.intrinsics)
