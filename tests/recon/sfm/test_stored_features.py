import numpy as np
import pytest

from recon.sfm.matching import Features
from recon.sfm.stored_features import (
    descriptors_from_bytes,
    descriptors_to_bytes,
    one_to_one,
    require_consistent,
    rows_of,
    with_keypoints,
)

RANDOM = np.random.default_rng(0)


def features(count: int, descriptors: np.ndarray | None = None) -> Features:
    values = RANDOM.normal(size=(count, 7)).astype(np.float32) if descriptors is None else descriptors
    return Features(RANDOM.uniform(0, 100, (count, 4)).astype(np.float32), values)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.uint8, np.int8, np.bool_])
@pytest.mark.parametrize("shape", [(0, 96), (1, 96), (5, 256), (6, 8, 3)])
def test_descriptors_of_any_type_come_back_exactly(kind: type, shape: tuple[int, ...]) -> None:
    values = RANDOM.normal(scale=100, size=shape).astype(kind)
    stored = descriptors_to_bytes(values)
    assert (stored.dtype, stored.ndim) == (np.uint8, 2)
    back = descriptors_from_bytes(stored)
    assert back.dtype == kind and np.array_equal(back, values)


def test_bytes_are_stored_as_colmap_stores_them() -> None:
    values = RANDOM.integers(0, 256, (5, 128), dtype=np.uint8)
    assert np.array_equal(descriptors_to_bytes(values), values)


def test_pixels_become_keypoints_where_there_are_none_near() -> None:
    keypoints = np.array([[10, 10, 3, 0.5], [20, 10, 3, 0.5]], np.float32)
    pixels = np.array([[20.5, 10], [40.1, 40.1], [10, 10], [30, 30], [40.4, 40.4]])
    more, rows = with_keypoints(keypoints, pixels, 1.0)
    assert rows.tolist() == [1, 2, 0, 3, 2]
    assert np.array_equal(more[:2], keypoints)
    assert np.allclose(more[2:], [[40.1, 40.1, 1, 0], [30, 30, 1, 0]])
    again, rows = with_keypoints(more, pixels[::-1], 1.0)
    assert np.array_equal(again, more) and rows.tolist() == [2, 3, 0, 2, 1]
    nothing, rows = with_keypoints(np.zeros((0, 4), np.float32), np.zeros((0, 2)), 1.0)
    assert (nothing.shape, rows.shape) == ((0, 4), (0,))


def test_invalid_pixels_are_refused() -> None:
    for wrong in (np.array([[np.nan, 0]]), np.zeros((1, 3)), np.zeros(2)):
        with pytest.raises(ValueError, match="matched pixels must be finite"):
            with_keypoints(np.zeros((0, 4), np.float32), wrong, 1.0)


def test_a_feature_matches_once() -> None:
    assert one_to_one(np.array([[0, 5], [1, 5], [0, 6], [2, 7]])).tolist() == [[0, 5], [2, 7]]


def test_input_that_would_crash_colmap_is_refused() -> None:
    first, second = features(3), features(2)
    assert rows_of(np.array([[2, 1]]), first, second).dtype == np.uint32
    for wrong in ([[3, 0]], [[0, 2]], [[-1, 0]], [[0, 1, 2]], [0, 1]):
        with pytest.raises(ValueError, match=r"rows \(m, 2\) of \[3, 2\] features"):
            rows_of(np.array(wrong), first, second)


def test_features_that_do_not_fit_together_are_refused() -> None:
    require_consistent(features(3), of_images=False)
    require_consistent(features(0, np.zeros((4, 5, 3))), of_images=True)
    with pytest.raises(ValueError, match="3 keypoints need as many descriptors, got 2"):
        require_consistent(features(3, np.zeros((2, 8))), of_images=False)
    with pytest.raises(ValueError, match="must be finite"):
        require_consistent(Features(np.full((1, 4), np.nan, np.float32), np.zeros((1, 8))), of_images=False)
