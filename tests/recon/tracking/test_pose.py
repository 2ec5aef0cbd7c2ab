"""Poses and inverse depths from exact projections."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from recon.core.similarity import Array, Sim3
from recon.core.types import Camera
from recon.tracking.landmarks import Landmarks
from recon.tracking.lens import rays
from recon.tracking.pose import locate
from tests.support import FISHEYE, OPENCV, RADIAL, colmap_camera

NOISE = 1 / 500  # a pixel
COUNT = 120
seeds = st.integers(0, 2**32 - 1)


def pose(generator: np.random.Generator, turn: float, shift: float) -> Array:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(turn * generator.normal(size=3)).as_matrix()
    matrix[:3, 3] = shift * generator.normal(size=3)
    return matrix


def corners(generator: np.random.Generator, deviation: float) -> Landmarks:
    """Corners that the camera at the origin saw first, at 2 to 6 units."""
    seen = generator.uniform(-0.6, 0.6, (COUNT, 2))
    return Landmarks.first_seen(seen, np.eye(4), 1 / generator.uniform(2, 6, COUNT), deviation)


def seen_from(landmarks: Landmarks, cam_from_world: Array) -> Array:
    cam = landmarks.points() @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    return np.asarray(cam[:, :2] / cam[:, 2:])


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0, 0.3))
def test_a_pose_is_found_despite_wrong_corners(seed: int, wrong: float) -> None:
    generator = np.random.default_rng(seed)
    landmarks, true = corners(generator, 0.01), pose(generator, 0.05, 0.1)
    seen = seen_from(landmarks, true)
    outliers = generator.random(COUNT) < wrong
    seen[outliers] += generator.uniform(0.05, 0.3, (outliers.sum(), 2))
    found = locate(landmarks, seen, np.eye(4), NOISE)
    assert found is not None
    assert np.allclose(found.cam_from_world, true, atol=0.01)
    assert not found.inliers[outliers].any()
    assert found.is_sure


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_random_pixels_have_no_pose(seed: int) -> None:
    generator = np.random.default_rng(seed)
    assert locate(corners(generator, 0.01), generator.uniform(-0.6, 0.6, (COUNT, 2)), np.eye(4), NOISE) is None


def test_few_corners_have_no_pose() -> None:
    landmarks = corners(np.random.default_rng(0), 0.01).of(np.arange(14))
    assert locate(landmarks, seen_from(landmarks, np.eye(4)), np.eye(4), NOISE) is None


def test_guessed_depths_make_a_turn_sure_and_a_shift_unsure() -> None:
    """Where all depths are guesses, the camera may have moved further or less far."""
    generator = np.random.default_rng(1)
    landmarks = corners(generator, 0.4)
    still, moved = np.eye(4), np.eye(4)
    still[:3, :3] = Rotation.from_rotvec([0.02, 0.1, 0.01]).as_matrix()
    moved[:3, 3] = 1.0, 0, 0
    turned, shifted = (locate(landmarks, seen_from(landmarks, true), true, NOISE) for true in (still, moved))
    assert turned is not None
    assert np.allclose(turned.cam_from_world, still, atol=1e-3)
    assert turned.is_sure
    assert shifted is None or shifted.spread > 5 * turned.spread


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_views_from_the_side_narrow_the_depth(seed: int) -> None:
    generator = np.random.default_rng(seed)
    true, guess = corners(generator, 0.4), generator.uniform(0.75, 1.3, COUNT)
    landmarks = Landmarks(true.eyes, true.directions, true.inverse * guess, true.sigma)
    for step in range(1, 9):
        view = np.eye(4)
        view[0, 3] = 0.15 * step
        landmarks = landmarks.narrowed(seen_from(true, view), view, NOISE)
    assert np.median(np.abs(landmarks.inverse / true.inverse - 1)) < 0.01
    assert (landmarks.sigma < 0.05 * landmarks.inverse).all()


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0.1, 10))
def test_landmarks_move_with_the_world(seed: int, scale: float) -> None:
    generator = np.random.default_rng(seed)
    landmarks = corners(generator, 0.1)
    change = Sim3(scale, pose(generator, 1, 1)[:3, :3], generator.normal(size=3))
    assert np.allclose(landmarks.moved(change).points(), change.apply(landmarks.points()))


@pytest.mark.parametrize("camera", [RADIAL, OPENCV, FISHEYE, Camera("PINHOLE", 160, 120, (140, 145, 79, 61))])
def test_directions_are_those_of_colmap(camera: Camera) -> None:
    grid = np.stack(np.meshgrid(np.linspace(1, 159, 9), np.linspace(1, 119, 7)), axis=-1).reshape(-1, 2)
    found = rays(camera, grid)
    pixels = colmap_camera(camera).img_from_cam(np.column_stack([found, np.ones(len(found))]))
    assert np.allclose(pixels, grid, atol=0.02)


def test_no_corner_has_no_direction() -> None:
    assert rays(RADIAL, np.zeros((0, 2))).shape == (0, 2)
