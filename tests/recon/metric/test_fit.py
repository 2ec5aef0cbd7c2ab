"""The similarity to metres from known lengths and positions, some of them wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from recon.core.errors import SettingsError
from recon.core.similarity import Array, Sim3
from recon.metric.fit import fit_metric
from recon.metric.observations import Length, Position


def lengths(*pairs: tuple[float, float]) -> list[Length]:
    """Lengths by their value in the map and in metres."""
    return [
        Length(f"length {number}", np.array([[1.0, 2, 3], [1 + in_map, 2, 3]]), metres)
        for number, (in_map, metres) in enumerate(pairs)
    ]


def positions(points: Array, metres: Array) -> list[Position]:
    return [Position(str(number), *pair) for number, pair in enumerate(zip(points, metres, strict=True))]


def walk(count: int, size: float) -> Array:
    """Positions (count, 3) of a walk around a block, with a little up and down."""
    angle = np.linspace(0, 5.5, count)
    return size * np.stack([np.cos(angle), 0.6 * np.sin(angle), 0.05 * np.sin(3 * angle)], axis=1)


def test_one_length_gives_a_scale_that_nothing_checks() -> None:
    found = fit_metric(lengths((0.5, 2.0)), [])
    assert found.metric_from_world.isclose(Sim3(4.0, np.eye(3), np.zeros(3)))
    assert (found.error, found.used) == (None, 1)


def test_longer_lengths_count_more_and_wrong_ones_are_left_out() -> None:
    found = fit_metric(lengths((2.0, 4.01), (1.0, 1.99), (1.0, 3.0), (0.5, 1.01)), [])
    assert found.metric_from_world.scale == pytest.approx(2.0, rel=0.005)
    assert [one.used for one in found.observations] == [True, True, False, True]
    assert found.error is not None
    assert 0 < found.error < 0.015
    wrong = found.observations[2]
    assert (wrong.given, wrong.error) == (3.0, pytest.approx(-1.0, abs=0.01))


@settings(max_examples=10)
@given(
    scale=st.floats(0.01, 100),
    turn=st.tuples(*[st.floats(-3, 3)] * 3),
    wrong=st.sets(st.integers(0, 19), max_size=8),
    seed=st.integers(0, 99),
)
def test_any_similarity_is_found_with_up_to_two_fifths_wrong_positions(
    scale: float, turn: tuple[float, float, float], wrong: set[int], seed: int
) -> None:
    true = Sim3(scale, Rotation.from_rotvec(turn).as_matrix(), np.array([100.0, -20, 3]))
    points = walk(20, 3.0)
    metres = true.apply(points)
    rng = np.random.default_rng(seed)
    for row in wrong:
        metres[row] += scale * rng.normal(size=3) * [30, 30, 30]
    found = fit_metric([], positions(points, metres))
    assert np.allclose(found.metric_from_world.apply(points), true.apply(points), atol=1e-3 * scale)
    assert not any(one.used for row, one in enumerate(found.observations) if row in wrong)


@pytest.mark.parametrize("seed", range(5))
def test_noisy_gps_with_outliers_places_a_walk_of_500_metres(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = walk(100, 110.0)
    assert np.linalg.norm(np.diff(true, axis=0), axis=1).sum() == pytest.approx(500, rel=0.05)
    gps = true + rng.normal(scale=3.0, size=true.shape)
    outliers = rng.choice(100, 10, replace=False)
    gps[outliers] += rng.normal(size=(10, 3)) * 60
    world_from_metric = Sim3(0.02, Rotation.from_rotvec([0.4, -1.0, 2.0]).as_matrix(), np.array([1.0, 2, 3]))
    found = fit_metric([], positions(world_from_metric.apply(true), gps))
    errors = np.linalg.norm(found.metric_from_world.apply(world_from_metric.apply(true)) - true, axis=1)
    assert np.sqrt((errors**2).mean()) < 1.2
    assert found.metric_from_world.scale == pytest.approx(50, rel=0.01)
    assert found.error == pytest.approx(3.0 * np.sqrt(3), rel=0.2)


def test_lengths_and_positions_are_combined_by_their_errors() -> None:
    points, rng = walk(20, 3.0), np.random.default_rng(0)
    noisy = positions(points, 2.0 * points + rng.normal(scale=0.2, size=points.shape))
    alone, together = fit_metric([], noisy), fit_metric(lengths((10.0, 20.0), (20.0, 40.0)), noisy)
    assert abs(together.metric_from_world.scale - 2.0) < 0.2 * abs(alone.metric_from_world.scale - 2.0)
    centre = together.metric_from_world.apply(points.mean(axis=0))
    assert np.allclose(centre, alone.metric_from_world.apply(points.mean(axis=0)))
    with pytest.raises(SettingsError, match=r"Known lengths and positions contradict each other: they make a map unit"):
        fit_metric(lengths((1.0, 3.0), (2.0, 6.0)), noisy)


LINE = np.linspace(0, 10, 12)[:, None] * [1.0, 2.0, 0.5]


@pytest.mark.parametrize(
    ("known", "points", "metres", "words"),
    [
        ([], [], [], "No length or position of the map is known in metres. Give --length"),
        (lengths((1.0, 2.0), (1.0, 3.0)), [], [], "The 2 known lengths contradict each other: they make a map unit 2 "),
        ([], walk(2, 1.0), walk(2, 1.0), "2 known positions do not determine a map"),
        ([], LINE, 3 * LINE, "lie on a line"),
        ([], walk(9, 1.0), np.ones((9, 3)), "positions coincide"),
        (
            [],
            walk(9, 1.0),
            np.random.default_rng(1).normal(size=(9, 3)),
            "contradict the map or lie too close",
        ),
    ],
)
def test_what_determines_no_scale_is_refused(known: list[Length], points: Array, metres: Array, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        fit_metric(known, positions(points, metres))
