"""Verification keeps the matches of one geometry, and says which kind it is."""

import numpy as np
import pycolmap
import pytest

from recon.sfm.matching import Features
from recon.sfm.verification import FEWEST_MATCHES, verify
from tests.recon.sfm.test_guidance import two_views

Kind = pycolmap.TwoViewGeometryConfiguration
SIZE = (640, 480)


def features(pixels: np.ndarray) -> Features:
    keypoints = np.column_stack([pixels, np.ones(len(pixels)), np.zeros(len(pixels))])
    return Features(keypoints.astype(np.float32), np.zeros((len(pixels), 128), np.float32), SIZE)


def verified(first: np.ndarray, second: np.ndarray, pixel: float = 1.0) -> pycolmap.TwoViewGeometry:
    rows = np.arange(len(first))
    lens = pycolmap.Camera.create_from_model_name(
        1, "SIMPLE_PINHOLE", 500 * pixel, *(round(pixel * side) for side in SIZE)
    )
    matches = np.column_stack([rows, rows]).astype(np.uint32)
    return verify(matches, (features(first), features(second)), (lens, lens), pixel, None)


def sampson_errors(fundamental: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    points, others = (np.column_stack([pixels, np.ones(len(pixels))]) for pixels in (first, second))
    lines, back = points @ fundamental.T, others @ fundamental
    spread = (lines[:, :2] ** 2).sum(axis=1) + (back[:, :2] ** 2).sum(axis=1)
    return np.abs((others * lines).sum(axis=1)) / np.sqrt(spread)


def scene(count: int, seed: int = 0, *, depth: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of points in two views, with 0.5 px of noise, and the fundamental matrix."""
    random = np.random.default_rng(seed)
    first, second, fundamental = two_views(random.uniform([-1, -1, 2], [1, 1, 2 + depth], (count, 3)))
    return first + random.normal(0, 0.5, first.shape), second + random.normal(0, 0.5, second.shape), fundamental


@pytest.mark.parametrize("pixel", [1.0, 4.0])
def test_true_matches_are_kept_and_wrong_ones_are_not(pixel: float) -> None:
    first, second, fundamental = scene(200)
    wrong = np.random.default_rng(1).uniform(0, 480, (100, 2))
    far = sampson_errors(fundamental, first[:100], wrong) > 8
    first, second = np.vstack([first, first[:100][far]]), np.vstack([second, wrong[far]])
    found = verified(first * pixel, second * pixel, pixel)
    kept = found.inlier_matches[:, 0]
    assert found.config == Kind.UNCALIBRATED
    assert (kept < 200).sum() >= 195
    assert (kept >= 200).sum() <= 3
    assert np.median(sampson_errors(np.asarray(found.F), first * pixel, second * pixel)[:200]) < pixel


def test_a_flat_scene_is_called_flat() -> None:
    first, second, _ = scene(100, depth=0.0)
    found = verified(first, second)
    assert found.config == Kind.PLANAR_OR_PANORAMIC
    assert len(found.inlier_matches) >= 97
    mapped = np.column_stack([first, np.ones(len(first))]) @ np.asarray(found.H).T
    assert np.median(np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - second, axis=1)) < 1.5


def test_matches_without_a_geometry_are_dropped() -> None:
    random = np.random.default_rng(2)
    first, second = random.uniform(0, 480, (2, 60, 2))
    found = verified(first, second)
    assert found.config in (Kind.DEGENERATE, Kind.UNCALIBRATED)
    assert len(found.inlier_matches) < 2 * FEWEST_MATCHES


def test_images_that_did_not_move_are_verified() -> None:
    first, _, _ = scene(80)
    found = verified(first, first)
    assert found.config == Kind.PLANAR_OR_PANORAMIC
    assert len(found.inlier_matches) == 80


def test_an_overlay_at_the_border_is_a_watermark() -> None:
    random = np.random.default_rng(3)
    text = np.column_stack([random.uniform(10, 630, 60), random.uniform(440, 475, 60)])
    found = verified(text, text + random.normal(0, 0.3, text.shape))
    assert found.config == Kind.WATERMARK
    assert len(found.inlier_matches) == 0


def test_the_result_is_always_the_same() -> None:
    first, second, _ = scene(150, seed=4)
    one, other = verified(first, second), verified(first, second)
    assert np.array_equal(one.inlier_matches, other.inlier_matches)
    assert np.array_equal(np.asarray(one.F), np.asarray(other.F))


def test_two_equal_images_keep_their_matches() -> None:
    first, _, _ = scene(50)
    assert len(verified(first, first).inlier_matches) == 50
