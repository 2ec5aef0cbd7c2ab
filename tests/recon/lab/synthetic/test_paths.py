"""Camera paths: rotations, closure, even steps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recon.lab.synthetic.paths import closed_spline, corridor, inverse_rigid, look_at, orbit, room_walk

coordinate = st.floats(-5, 5)
point = st.tuples(coordinate, coordinate, coordinate)


def is_rigid(poses: torch.Tensor) -> bool:
    rotation = poses[..., :3, :3]
    identity = torch.eye(3, dtype=poses.dtype).expand_as(rotation)
    orthonormal = torch.allclose(rotation @ rotation.mT, identity, atol=1e-5)
    return orthonormal and bool((torch.linalg.det(rotation) > 0).all())


@given(eye=point, bearing=st.floats(0, 2 * math.pi), rise=st.floats(-5, 5))
def test_the_target_is_ahead_and_the_horizon_is_level(
    eye: tuple[float, float, float], bearing: float, rise: float
) -> None:
    start = torch.tensor(eye, dtype=torch.float64)
    target = start + torch.tensor([2 * math.cos(bearing), 2 * math.sin(bearing), rise], dtype=torch.float64)
    world_from_cam = look_at(start, target)
    assert is_rigid(world_from_cam)
    target_cam = (inverse_rigid(world_from_cam) @ torch.cat([target, torch.ones(1)]))[:3]
    assert torch.allclose(target_cam, torch.tensor([0, 0, math.hypot(2, rise)], dtype=torch.float64), atol=1e-9)
    right, down = world_from_cam[:3, 0], world_from_cam[:3, 1]
    assert abs(float(right[2])) < 1e-12
    assert down[2] < 0


def test_looking_north_has_east_on_the_right() -> None:
    world_from_cam = look_at(torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))
    expected = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    assert torch.allclose(world_from_cam[:3, :3], expected)


def test_closed_spline_passes_its_first_waypoint_and_returns_in_even_steps() -> None:
    waypoints = torch.randn((2, 7, 3), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    points = closed_spline(waypoints, 200)
    assert torch.allclose(points[:, 0], waypoints[:, 0])
    steps = (points.roll(-1, 1) - points).norm(dim=-1)
    assert steps.std() / steps.mean() < 0.05
    for batch in range(2):
        distance = torch.cdist(waypoints[batch], closed_spline(waypoints, 4000)[batch]).amin(1)
        assert distance.max() < 0.01


def test_closed_spline_of_a_circle_is_nearly_one() -> None:
    angle = 2 * math.pi * torch.arange(16, dtype=torch.float64) / 16
    points = closed_spline(torch.stack([angle.cos(), angle.sin(), 0 * angle], 1), 100)
    assert torch.allclose(points.norm(dim=1), torch.ones(100, dtype=torch.float64), atol=1e-3)


def test_room_walk_is_closed_and_stays_in_the_middle() -> None:
    room = torch.tensor([[3.0, 2.5, 1.3], [4.0, 2.0, 1.5]])
    poses = room_walk(torch.Generator().manual_seed(1), room, 50)
    assert poses.shape == (2, 50, 4, 4)
    assert is_rigid(poses)
    steps = (poses[..., :3, 3].roll(-1, 1) - poses[..., :3, 3]).norm(dim=-1)
    assert steps.max() < 1.2 * steps.mean()
    assert (poses[..., :2, 3].abs() < 0.45 * room[:, None, :2]).all()


@pytest.mark.parametrize("batch", [(), (3,)])
def test_orbit_and_corridor_are_rigid_paths_of_the_right_shape(batch: tuple[int, ...]) -> None:
    centre = torch.tensor([1.0, 2.0, 0.5]).expand(*batch, 3)
    circle = orbit(centre, radius=2.0, height=1.0, count=12)
    assert circle.shape == (*batch, 12, 4, 4)
    assert is_rigid(circle)
    distance = (circle[..., :3, 3] - centre[..., None, :]).norm(dim=-1)
    assert torch.allclose(distance, torch.full_like(distance, math.sqrt(5)))
    straight = corridor(centre, centre + torch.tensor([8.0, 0, 0]), sway=0.1, count=30)
    assert straight.shape == (*batch, 30, 4, 4)
    assert is_rigid(straight)
    assert torch.allclose(straight[..., 0, :3, 3], centre)
    assert (straight[..., 0, 2] > 0.99).all()
