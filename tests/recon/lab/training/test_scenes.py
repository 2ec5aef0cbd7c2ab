"""Training scenes and their cameras."""

import pytest
import torch

from recon.lab.synthetic.paths import inverse_rigid
from recon.lab.synthetic.render import render_depth
from recon.lab.training.scenes import euler, random_scenes, short_path


@pytest.mark.parametrize("seed", range(8))
def test_cameras_see_surfaces_at_a_fair_distance(seed: int) -> None:
    scenes = random_scenes(torch.Generator().manual_seed(seed), 3, 4, 24, 32)
    assert scenes.world_from_cam.shape == (3, 4, 4, 4)
    depth = render_depth(scenes.scene, inverse_rigid(scenes.world_from_cam), scenes.intrinsics, 24, 32)
    assert (depth > 0).float().mean() > 0.9  # a path may lead through a wall of the room, rarely
    share_near = (depth < 0.05 * depth.flatten(2).median(2).values[..., None, None]).float().mean()
    assert share_near < 0.05


def test_scenes_depend_on_the_generator_alone() -> None:
    first, second, other = (random_scenes(torch.Generator().manual_seed(seed), 2, 3, 24, 32) for seed in (5, 5, 6))
    assert torch.equal(first.world_from_cam, second.world_from_cam)
    assert torch.equal(first.scene.centre, second.scene.centre)
    assert not torch.equal(first.world_from_cam, other.world_from_cam)


def test_steps_of_a_path_are_a_share_of_the_depth() -> None:
    depth = torch.tensor([1.0, 100.0])
    path = short_path(torch.Generator().manual_seed(0), torch.eye(4).repeat(2, 1, 1), depth, 6)
    steps = path[:, :, :3, 3].diff(dim=1).norm(dim=2) / depth[:, None]
    assert (steps.median(1).values > 0.005).all()
    assert (steps < 0.3).all()
    assert torch.allclose(path[..., :3, :3] @ path[..., :3, :3].mT, torch.eye(3), atol=1e-5)


def test_euler_turns_the_forward_axis_right_and_down() -> None:
    quarter, zero = torch.tensor(torch.pi / 2), torch.tensor(0.0)
    forward = torch.tensor([0.0, 0.0, 1.0])
    assert torch.allclose(euler(zero, quarter, zero) @ forward, torch.tensor([1.0, 0, 0]), atol=1e-6)
    assert torch.allclose(euler(-quarter, zero, zero) @ forward, torch.tensor([0.0, 1, 0]), atol=1e-6)
    assert torch.allclose(euler(zero, zero, quarter) @ forward, forward, atol=1e-6)
