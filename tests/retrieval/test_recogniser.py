"""Loops from images to the corrected map, on rendered walks, and places that only look alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.core.similarity import Sim3
from recon.lab.synthetic.paths import corridor
from recon.lab.synthetic.sample import furnished_room, walk
from recon.lab.synthetic.scenes import Scene, Shape, Solid, scene_from_solids
from recon.lab.synthetic.textures import Pattern
from retrieval.candidates import CandidateSettings
from retrieval.recogniser import LoopFinder
from tests.retrieval.walks import Outcome, View, constant_drift, mirrored, moved, render_views, walk_through

LAP, AGAIN = 30, 14  # views around the room, and of the same path again
DRIFT = constant_drift(1.05, 0.02)
SETTINGS = CandidateSettings(gap=12, window=2, support=3, per_submap=3, patience=3)


def finder() -> LoopFinder:
    return LoopFinder(candidates=SETTINGS)


@pytest.fixture(scope="module")
def lap() -> list[View]:
    return render_views(furnished_room(), walk(LAP))


@pytest.fixture(scope="module")
def again() -> list[View]:
    """The first views of the lap, half a step further."""
    return render_views(furnished_room(), walk(2 * LAP)[1 : 2 * AGAIN : 2])


@pytest.fixture(scope="module")
def second_lap(lap: list[View], again: list[View]) -> Outcome:
    return walk_through([*lap, *again], 9, DRIFT, finder())


def test_second_lap_is_recognised_and_undoes_the_drift(second_lap: Outcome) -> None:
    assert len(second_lap.accepted) >= 3
    for earlier, frame in second_lap.accepted:
        assert abs(frame - LAP + 0.5 - earlier) <= 4  # views of the same part of the room
    assert second_lap.corrected < 0.3 * second_lap.drifted


def test_same_walk_gives_the_same_loops_twice(second_lap: Outcome, lap: list[View], again: list[View]) -> None:
    twice = walk_through([*lap, *again], 9, DRIFT, finder())
    assert twice.ledger == second_lap.ledger
    assert twice.corrected == second_lap.corrected


def test_another_room_that_looks_exactly_the_same_is_no_loop(lap: list[View], again: list[View]) -> None:
    # Geometry confirms the loop, and only the path contradicts it: the second room is 40 m away.
    start = lap[-1].world_from_cam[:3, 3]
    blank = np.full_like(lap[0].colour, 128)
    road = [View(moved(lap[-1], (step, 0, 0)).world_from_cam, blank, np.full_like(lap[0].depth, 3.0)) for step in
            np.linspace(2, 38, 19)]  # fmt: skip
    there = [moved(view, (40.0, 0, 0)) for view in again]
    assert np.linalg.norm(there[0].world_from_cam[:3, 3] - start) > 30
    outcome = walk_through([*lap, *road, *there], 9, DRIFT, finder())
    assert outcome.accepted == []
    assert any("bends the map" in line.reason for line in outcome.ledger)
    assert outcome.corrected == outcome.drifted


def test_mirrored_room_is_no_loop(lap: list[View], again: list[View]) -> None:
    outcome = walk_through([*lap, *(mirrored(view) for view in again)], 9, DRIFT, finder())
    assert outcome.accepted == []


def test_stretches_of_a_corridor_with_the_same_doors_are_no_loops() -> None:
    path = corridor(torch.tensor([0.0, 0.0, 1.6]), torch.tensor([14.0, 0.0, 1.6]), 0.1, 44)
    outcome = walk_through(render_views(same_doors(), path), 9, Sim3.identity(), finder())
    assert len(outcome.ledger) > 5  # they look alike
    assert outcome.accepted == []


def same_doors() -> Scene:
    """A corridor of 30 m along x with the same pair of doors every 2 m."""
    wall = ("dad0bc",) * 4
    wood = ("c89860", "a87840", "b88850", "d0a870")
    shell = Solid(Shape.BOX, (10, 0, 1.3), (15, 1.2, 1.3), Pattern.PLASTER, wall, 0.3)
    doors = [
        Solid(Shape.BOX, (-4.0 + 2 * number, side * 1.2, 1.0), (0.45, 0.06, 1.0), Pattern.WOOD, wood, 0.2)
        for number in range(14)
        for side in (-1, 1)
    ]
    scene = scene_from_solids([shell, *doors], (7.0, 0.0, 2.5))
    sides = torch.tensor([[0, *(1 + number % 2 for number in range(len(doors)))]], dtype=scene.seed.dtype)
    return replace(scene, seed=sides)
