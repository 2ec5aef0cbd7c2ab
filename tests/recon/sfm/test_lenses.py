"""Lenses distinguished by exact and by noisy epipolar geometry of cameras around a room."""

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.core.similarity import Array
from recon.sfm.lenses import Lenses, PairTerms, find_lenses, fit, may_differ, misfit

FRAMES = 14
SIDE, CENTRE = 640.0, np.array([320.0, 240.0])
FREE = np.ones(FRAMES, dtype=bool)


def projections(focals: Array, rng: np.random.Generator) -> Array:
    """Pixels (frames, points, 2) of points in front of cameras that look into the middle from all around."""
    points = rng.uniform(-1.5, 1.5, (120, 3))
    pixels = []
    for frame, focal in enumerate(focals):
        centre = np.array([4.0, 0.0, 0.0]) + 1.2 * rng.normal(size=3)
        z = -centre + rng.normal(0, 0.4, 3)
        looking = Rotation.align_vectors([[0, 0, 1.0]], [z])[0] * Rotation.from_rotvec(0.1 * rng.normal(size=3))
        cam = looking.apply(points - centre)
        pixels.append(focal * SIDE * cam[:, :2] / cam[:, 2:] + CENTRE)
        assert (cam[:, 2] > 0).all(), frame
    return np.array(pixels)


def terms_of(focals: Array, noise: float) -> PairTerms:
    """Evidence from neighbours within four places, with ``noise`` [px] in every point."""
    rng = np.random.default_rng(0)
    pixels = projections(focals, rng)
    pixels += rng.normal(0, noise, pixels.shape)
    pairs = [(a, b) for a in range(FRAMES) for b in range(a + 1, min(a + 5, FRAMES))]
    from_centre = np.array([[SIDE, 0, CENTRE[0]], [0, SIDE, CENTRE[1]], [0, 0, 1]])
    found = []
    for a, b in pairs:
        fundamental = cv2.findFundamentalMat(pixels[a], pixels[b], cv2.FM_8POINT)[0]
        matrix = from_centre.T @ fundamental @ from_centre
        found.append(matrix / np.linalg.norm(matrix))
    return PairTerms.of(np.array(pairs), np.array(found))


def one_lens() -> Lenses:
    none = np.zeros(1, dtype=np.int64)
    return Lenses(np.zeros(FRAMES, dtype=np.int64), np.ones(1), none, np.zeros(1, dtype=bool))


def no_guess() -> Array:
    return np.ones(FRAMES)


@pytest.mark.parametrize("focal", [0.5, 0.78, 1.6])
def test_frames_of_one_lens_keep_it_and_nothing_is_guessed(focal: float) -> None:
    def unasked() -> Array:
        raise AssertionError

    found = find_lenses(terms_of(np.full(FRAMES, focal), 0.3), one_lens(), FREE, unasked)
    assert found.focals == pytest.approx([focal], rel=0.03)


@pytest.mark.parametrize(
    "ratios", [[1, 1.5], [1, 2], [1, 1.2], [1, 1.25, 1.6]], ids=["1.5", "2", "1.2", "three lenses"]
)
def test_zooms_are_told_apart(ratios: list[float]) -> None:
    which = np.random.default_rng(3).integers(0, len(ratios), FRAMES)
    true = 0.7 * np.array(ratios)[which]
    found = find_lenses(terms_of(true, 0.2), one_lens(), FREE, lambda: true * 1.05)
    assert len(found.focals) == len(set(which.tolist()))
    np.testing.assert_allclose(found.focals[found.of_frame], true, rtol=0.04)


def test_a_slow_zoom_needs_a_lens_for_every_frame() -> None:
    slow, one = (terms_of(focals, 0.2) for focals in (np.geomspace(0.78, 1.17, FRAMES), np.full(FRAMES, 0.78)))
    assert may_differ(slow, fit(slow, replace(one_lens(), focals=np.array([0.95]))), FREE)
    assert not may_differ(one, fit(one, replace(one_lens(), focals=np.array([0.8]))), FREE)


def test_a_zoom_in_the_middle_is_one_change() -> None:
    true = np.where(np.arange(FRAMES) < 7, 0.8, 1.12)
    found = find_lenses(terms_of(true, 0.3), one_lens(), FREE, no_guess)
    assert [a == b for a, b in pairwise(found.of_frame.tolist())].count(False) == 1


def test_new_frames_join_the_lenses_that_are_known() -> None:
    true = np.tile([0.7, 1.05], FRAMES // 2)
    free = np.arange(FRAMES) >= 10
    start = Lenses(
        np.where(free, 0, np.arange(FRAMES) % 2),
        np.array([0.7, 1.05]),
        np.zeros(2, dtype=np.int64),
        np.ones(2, dtype=bool),
    )
    found = find_lenses(terms_of(true, 0.3), start, free, no_guess)
    assert found.focals == pytest.approx([0.7, 1.05], rel=0.02)
    assert found.of_frame.tolist() == [0, 1] * (FRAMES // 2)


def test_lenses_of_two_kinds_are_never_merged() -> None:
    start = Lenses(np.arange(FRAMES) % 2, np.ones(2), np.arange(2), np.zeros(2, dtype=bool))
    found = find_lenses(terms_of(np.full(FRAMES, 0.8), 0.3), start, FREE, no_guess)
    assert found.of_frame.tolist() == [0, 1] * (FRAMES // 2)
    np.testing.assert_allclose(found.focals, 0.8, rtol=0.03)


def test_the_misfit_is_the_inequality_of_singular_values() -> None:
    matrix = np.random.default_rng(1).normal(size=(3, 3))
    u, s, v = np.linalg.svd(matrix)
    fundamental = u @ np.diag([s[0], s[1], 0]) @ v
    terms = PairTerms.of(np.array([[0, 1]]), fundamental[None])
    essential = np.diag([1.3, 1.3, 1]) @ fundamental @ np.diag([0.6, 0.6, 1])
    large, small, _ = np.linalg.svd(essential)[1]
    expected = np.log1p((large - small) ** 2 / (large + small) ** 2 / 0.005**2)
    assert terms.misfit(np.array([0]), np.array([0.6]), np.array([1.3]))[0, 0] == pytest.approx(expected)


def test_fitting_finds_the_focal_lengths() -> None:
    terms = terms_of(np.tile([0.9, 1.2], FRAMES // 2), 0.0)
    start = Lenses(np.arange(FRAMES) % 2, np.array([0.9, 1.0]), np.zeros(2, np.int64), np.zeros(2, dtype=bool))
    found = fit(terms, start)
    assert found.focals == pytest.approx([0.9, 1.2], rel=0.005)
    assert misfit(terms, found) < misfit(terms, start)
