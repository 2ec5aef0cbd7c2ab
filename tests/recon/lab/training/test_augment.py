"""Photometric jitter."""

import numpy as np

from recon.lab.training.augment import jitter


def image() -> np.ndarray:
    return np.random.default_rng(0).random((24, 32, 3), dtype=np.float32)


def test_strong_jitter_changes_the_image_but_stays_in_range() -> None:
    for seed in range(30):
        new = jitter(image(), np.random.default_rng(seed), 1.0)
        assert new.shape == (24, 32, 3)
        assert new.dtype == np.float32
        assert new.min() >= 0
        assert new.max() <= 1
        assert np.abs(new - image()).mean() > 0.01


def test_no_strength_leaves_the_image_as_it_is() -> None:
    for seed in range(10):
        np.testing.assert_allclose(jitter(image(), np.random.default_rng(seed), 0.0), image(), atol=1e-5)


def test_the_seed_decides() -> None:
    one, two = (jitter(image(), np.random.default_rng(7), 1.0) for _ in range(2))
    np.testing.assert_array_equal(one, two)
