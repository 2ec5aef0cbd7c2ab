"""The robust similarity fit on closed-form cases and with outliers."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.core.similarity import Sim3
from recon.mapping.alignment import fit_robustly, fit_similarity


def known_case(seed: int) -> tuple[Sim3, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = Sim3(float(rng.uniform(0.1, 5)), Rotation.random(random_state=seed).as_matrix(), rng.normal(size=3))
    points = rng.normal(size=(200, 3))
    return truth, points, truth.apply(points)


@pytest.mark.parametrize("seed", range(5))
def test_exact_points_recover_the_similarity(seed: int) -> None:
    truth, points, mapped = known_case(seed)
    assert fit_similarity(points, mapped, np.ones(200)).isclose(truth, atol=1e-9)


def test_points_without_weight_do_not_count() -> None:
    truth, points, mapped = known_case(0)
    weights = np.ones(200)
    mapped[:50] += 100
    weights[:50] = 0
    assert fit_similarity(points, mapped, weights).isclose(truth, atol=1e-9)


def test_a_mirrored_cloud_still_gives_a_rotation() -> None:
    points = np.random.default_rng(0).normal(size=(50, 3))
    found = fit_similarity(points, points * [1, 1, -1], np.ones(50))
    assert np.linalg.det(found.rotation) == pytest.approx(1)


def test_a_third_of_outliers_does_not_move_the_robust_fit() -> None:
    truth, points, mapped = known_case(3)
    mapped[::3] += np.random.default_rng(1).normal(size=mapped[::3].shape) * 20
    rough = Sim3(truth.scale * 1.05, truth.rotation, truth.translation + 0.05)
    plain = fit_similarity(points, mapped, np.ones(200))
    alignment = fit_robustly(points, mapped, np.ones(200), rough)
    assert alignment.b_from_a.isclose(truth, atol=1e-4)
    assert not plain.isclose(truth, atol=1e-1)
    assert alignment.inliers == pytest.approx(2 / 3, abs=0.02)


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ValueError, match="three points"):
        fit_similarity(np.zeros((2, 3)), np.zeros((2, 3)), np.ones(2))
    with pytest.raises(ValueError, match="more than one place"):
        fit_similarity(np.ones((5, 3)), np.ones((5, 3)), np.ones(5))
