"""The similarity of two maps from loops between them, some of them wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from recon.core.similarity import Sim3
from recon.mapping.joining import Bridge, join, scale_step

TRUE = Sim3(2.5, Rotation.from_rotvec([0.3, -1.2, 0.5]).as_matrix(), np.array([4.0, -2, 7]))


def bridge(rng: np.random.Generator, number: int, first_from_second: Sim3, noise: float = 1.0) -> Bridge:
    """A loop at a random place of the second map, 3 deep, with errors of a hundredth of the depth."""
    place = Sim3(3.0, Rotation.random(random_state=number).as_matrix(), 2 * rng.normal(size=3))
    turn = Rotation.from_rotvec(noise * 0.003 * rng.normal(size=3)).as_matrix()
    error = Sim3(np.exp(noise * 0.005 * rng.normal()), turn, noise * 0.01 * rng.normal(size=3))
    local = place @ error @ place.inverse()
    return Bridge((number, 100 + number), first_from_second @ local, place)


def wrong(rng: np.random.Generator, number: int) -> Bridge:
    turn = Rotation.random(random_state=1000 + number).as_matrix()
    return bridge(rng, number, Sim3(np.exp(rng.normal()), turn, 5 * rng.normal(size=3)))


@settings(max_examples=25)
@given(right=st.integers(3, 12), mistakes=st.integers(0, 2), seed=st.integers(0, 99))
def test_loops_that_agree_are_found_among_wrong_ones(right: int, mistakes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bridges = [bridge(rng, number, TRUE) for number in range(right)] + [wrong(rng, 50 + n) for n in range(mistakes)]
    found = join(bridges)
    assert found is not None
    similarity, agreed = found
    assert agreed == list(range(right))
    points = 2 * rng.normal(size=(20, 3))
    errors = np.linalg.norm(similarity.apply(points) - TRUE.apply(points), axis=1)
    assert errors.max() < 0.05 * TRUE.scale * 3
    assert all(one.agrees_with(similarity) == (row < right) for row, one in enumerate(bridges))
    turned = join([one.turned() for one in bridges])
    assert turned is not None
    assert np.allclose(turned[0].apply(similarity.apply(points)), points, atol=0.1)


@pytest.mark.parametrize("case", ["none", "two", "one frame", "no majority", "contradicting"])
def test_thin_or_contradicting_evidence_joins_nothing(case: str) -> None:
    rng = np.random.default_rng(0)
    right = [bridge(rng, number, TRUE) for number in range(3)]
    cases = {
        "none": [],
        "two": right[:2],
        "one frame": [Bridge((7, one.frames[1]), one.first_from_second, one.second_from_cam) for one in right],
        "no majority": right + [bridge(rng, 10 + n, Sim3(1.0, np.eye(3), np.zeros(3))) for n in range(3)],
        "contradicting": [wrong(rng, number) for number in range(6)],
    }
    assert join(cases[case]) is None


def scaled(numbers: range, factor: float) -> list[Bridge]:
    rng = np.random.default_rng(numbers.start)
    return [bridge(rng, number, Sim3(TRUE.scale * factor, TRUE.rotation, TRUE.translation)) for number in numbers]


@pytest.mark.parametrize("factor", [1.2, 0.8])
def test_a_step_in_scale_is_found_along_the_frames(factor: float) -> None:
    bridges = [*scaled(range(10, 16), factor), *scaled(range(6), 1.0)]
    step = scale_step(bridges)
    assert step is not None
    assert step.frames == ((5, 105), (10, 110))
    assert step.before == pytest.approx(TRUE.scale, rel=0.02)
    assert step.after == pytest.approx(TRUE.scale * factor, rel=0.02)


@pytest.mark.parametrize(
    "bridges",
    [
        [],
        scaled(range(12), 1.0),
        [*scaled(range(4), 1.0), *scaled(range(4, 5), 1.2)],  # one loop is no evidence
        [one for number in range(12) for one in scaled(range(number, number + 1), 1.2 if number % 2 else 1.0)],
    ],
    ids=["none", "one scale", "one other", "in turn"],
)
def test_scales_without_a_clear_step_have_none(bridges: list[Bridge]) -> None:
    assert scale_step(bridges) is None
