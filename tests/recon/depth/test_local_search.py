"""The search around known depth, on the bundled sample with its true poses and depth."""

import numpy as np

from recon.depth.correlation import OUTSIDE, Patches, two_best
from recon.depth.local_search import search
from recon.depth.views import PosedView
from tests.recon.depth.test_plane_sweep import true_depth, views

__all__ = ["views"]
STEP = 0.01  # 1 / m


def test_it_returns_to_the_depth_from_which_the_start_was_moved(views: list[PosedView]) -> None:
    inverse = (1 / true_depth()).astype(np.float32)
    found = search(views[2], [*views[:2], *views[3:]], inverse + np.float32(STEP / 2), STEP)
    clear = found.correlation > 0.9
    assert clear.mean() > 0.4
    assert np.median(np.abs(found.inverse_depth - inverse)[clear]) < 0.25 * STEP  # started at 0.5
    assert np.abs(found.inverse_depth - inverse).max() <= 1.5 * STEP + 1e-6


def test_correlation_equals_its_definition() -> None:
    first, second = (np.random.default_rng(seed).uniform(0, 255, (9, 9)).astype(np.float32) for seed in (0, 1))
    second += first
    found = Patches.of(first, 5).correlation(second)[4, 4]
    expected = np.corrcoef(first[2:7, 2:7].ravel(), second[2:7, 2:7].ravel())[0, 1]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_what_a_source_does_not_see_correlates_with_nothing() -> None:
    image = np.random.default_rng(0).uniform(0, 255, (9, 9)).astype(np.float32)
    assert (Patches.of(image, 3).correlation(np.full_like(image, OUTSIDE)) == -1).all()


def test_two_best_leaves_out_occluded_and_unseeing_sources() -> None:
    scores = [np.array([[value]], np.float32) for value in (0.9, -1, 0.1, 0.7)]
    np.testing.assert_allclose(two_best(scores), 0.8)
    np.testing.assert_allclose(two_best(scores[:2]), 0.9)
