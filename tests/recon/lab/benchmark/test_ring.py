"""The ring of photos around an object: right, folded, cut, and with images left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from recon.core.similarity import Array, Sim3
from recon.lab.benchmark.ring import measure_ring
from recon.lab.synthetic.paths import look_at

COUNT = 64


def cameras(angles_deg: Array) -> Array:
    """world_from_cam (n, 4, 4) of level cameras at these angles that look down at an object on a table."""
    angles = np.radians(angles_deg)
    wobble = 1 + 0.1 * np.sin(5 * angles)
    eyes = np.stack([wobble * np.cos(angles), wobble * np.sin(angles), 0.7 + 0.05 * np.cos(3 * angles)], axis=1)
    targets = 0.02 * np.stack([np.sin(7 * angles), np.cos(4 * angles), np.sin(3 * angles)], axis=1)
    return look_at(torch.tensor(eyes), torch.tensor(targets)).numpy()


def moved(world_from_cam: Array) -> Array:
    """The same cameras in a map with an arbitrary frame and unit."""
    map_from_world = Sim3(0.3, Rotation.from_rotvec([1.0, -0.4, 0.2]).as_matrix(), np.array([5.0, -2, 1]))
    poses = world_from_cam.copy()
    poses[:, :3, :3] = map_from_world.rotation @ poses[:, :3, :3]
    poses[:, :3, 3] = map_from_world.apply(poses[:, :3, 3])
    return poses


@pytest.mark.parametrize("direction", [1, -1])
def test_a_walk_once_around(direction: int) -> None:
    angles = direction * np.linspace(0, 355, COUNT)
    ring = measure_ring(range(COUNT), moved(cameras(angles)))
    assert ring.total_deg == pytest.approx(355, abs=2)
    np.testing.assert_allclose(ring.steps_deg, 355 / (COUNT - 1), atol=1)
    assert ring.once_around
    assert not ring.folded


def test_both_sides_folded_together() -> None:
    angles = np.linspace(0, 355, COUNT)
    angles[10:40] += 180
    ring = measure_ring(range(COUNT), moved(cameras(angles)))
    assert ring.largest_deg == pytest.approx(180 - 355 / (COUNT - 1), abs=8)
    assert ring.folded
    assert not ring.once_around


def test_half_the_walk_is_not_once_around_but_not_folded() -> None:
    ring = measure_ring(range(32), moved(cameras(np.linspace(0, 175, 32))))
    assert ring.total_deg == pytest.approx(175, abs=4)
    assert not ring.folded
    assert not ring.once_around


def test_a_step_over_images_left_out_may_be_larger() -> None:
    angles = np.linspace(0, 355, COUNT)
    kept = [index for index in range(COUNT) if not 20 <= index < 32]
    ring = measure_ring(kept, moved(cameras(angles[kept])))
    assert ring.largest_deg > 60
    assert ring.once_around
    renumbered = measure_ring(range(len(kept)), moved(cameras(angles[kept])))
    assert renumbered.folded
