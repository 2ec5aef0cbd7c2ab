"""The axes for SIFT descriptors."""

from __future__ import annotations

import numpy as np

from recon.lab.sift_axes import AXES, principal_axes, sample_descriptors
from recon.sfm import matching


def test_principal_axes_hold_most_of_the_squares() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(500, 5)) * [1.0, 9.0, 0.1, 3.0, 0.1]
    axes = principal_axes(values, 2)
    np.testing.assert_allclose(np.abs(axes), np.eye(5)[:, [1, 3]], atol=0.05)


def test_the_shipped_axes_are_those_of_the_sample() -> None:
    descriptors = sample_descriptors()
    shipped, found = matching._axes(), principal_axes(descriptors)
    assert shipped.shape == (128, AXES)
    np.testing.assert_allclose(shipped.T @ shipped, np.eye(AXES), atol=0.003)
    held, most = (np.square(descriptors @ axes).sum() for axes in (shipped, found))
    assert held > 0.999 * most
    assert most > 0.98 * len(descriptors)
