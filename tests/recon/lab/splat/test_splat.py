"""The rasteriser equals a plain loop over pixels, its gradients are right, and a scene can be fitted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recon.lab.splat.gaussians import Parameters, View, first_gaussians, project, turned
from recon.lab.splat.raster import LEAST_ALPHA, MOST_ALPHA, draw
from recon.lab.splat.training import Trainer, psnr
from recon.lab.splat.views import Scene


def gaussians(count: int, seed: int = 0) -> Parameters:
    source = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    return {
        "means": some(count, 3) * 0.7 + torch.tensor([0.0, 0, 4]),
        "sizes": some(count, 3) * 0.5 - 1.8,
        "turns": some(count, 4),
        "opacities": some(count) * 2 + 1,
        "colours": some(count, 3),
    }


def view(width: int = 37, height: int = 21) -> View:
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = turned(torch.tensor([[1.0, 0.1, -0.05, 0.2]], dtype=torch.float64))[0]
    picture = torch.zeros(height, width, 3, dtype=torch.float64)
    return View("v", pose, (30.0, 32.0, 18.2, 10.1), picture, torch.ones(height, width, dtype=torch.bool))


def drawn_by_pixels(params: Parameters, seen: View, background: torch.Tensor) -> torch.Tensor:
    """The definition: every Gaussian at every pixel, from near to far, with matrices of NumPy."""
    pose, (fx, fy, cx, cy) = seen.cam_from_world.numpy(), seen.lens
    (width, height), rows = seen.size, []
    for mean, size, turn, opacity, colour in zip(*(params[name].numpy() for name in params), strict=True):
        x, y, z = pose[:3, :3] @ mean + pose[:3, 3]
        w, i, j, k = turn / np.linalg.norm(turn)
        cross = np.array([[0, -k, j], [k, 0, -i], [-j, i, 0]])
        rotation = np.eye(3) + 2 * w * cross + 2 * cross @ cross
        covariance = rotation @ np.diag(np.exp(2 * size)) @ rotation.T
        right, down = 1.3 * max(cx, width - cx) / fx, 1.3 * max(cy, height - cy) / fy
        across, along = np.clip(x / z, -right, right), np.clip(y / z, -down, down)
        slopes = np.array([[fx / z, 0, -fx * across / z], [0, fy / z, -fy * along / z]]) @ pose[:3, :3]
        inverse = np.linalg.inv(slopes @ covariance @ slopes.T + 0.3 * np.eye(2))
        rows.append((z, np.array([fx * x / z + cx, fy * y / z + cy]), inverse, opacity, colour))
    picture = np.zeros((height, width, 3))
    for row in range(height):
        for column in range(width):
            left = 1.0
            for _, centre, inverse, opacity, colour in sorted(rows, key=lambda one: one[0]):
                offset = np.array([column + 0.5, row + 0.5]) - centre
                alpha = min(MOST_ALPHA, math.exp(-0.5 * offset @ inverse @ offset) / (1 + math.exp(-opacity)))
                if alpha >= LEAST_ALPHA:
                    picture[row, column] += left * alpha / (1 + np.exp(-colour))
                    left *= 1 - alpha
            picture[row, column] += left * background.numpy()
    return torch.from_numpy(picture)


def test_tiles_draw_what_the_definition_says() -> None:
    background = torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64)
    params, seen = gaussians(40), view()
    drawn = draw(project(params, seen), seen.size, background)
    expected = drawn_by_pixels(params, seen, background)
    assert (expected - background).abs().max() > 0.3
    assert (drawn - expected).abs().max() < 1e-10
    single = {name: value.float() for name, value in params.items()}
    pose = View("v", seen.cam_from_world.float(), seen.lens, seen.picture, seen.seen)
    assert (draw(project(single, pose), seen.size, background.float()) - expected).abs().max() < 1e-4


def test_gradients() -> None:
    params, seen = gaussians(2, seed=2), view(7, 6)
    params["sizes"] += 1  # the ends of the splats lie outside
    background = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    names, values = list(params), [value.requires_grad_() for value in params.values()]

    def picture(background: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return draw(project(dict(zip(names, values, strict=True)), seen), seen.size, background)

    assert torch.autograd.gradcheck(picture, (background.requires_grad_(), *values), atol=1e-6)


def test_nothing_in_view_is_the_background() -> None:
    params, seen = gaussians(5), view()
    params["means"][:, 2] -= 50
    background = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    assert torch.equal(draw(project(params, seen), seen.size, background), background.expand(21, 37, 3))


def test_the_first_gaussians_are_the_points() -> None:
    positions = np.array([[0.0, 0, 0], [0, 0, 1], [0, 2, 0], [3, 0, 0], [0, 0, 9]])
    params = first_gaussians(positions, np.full((5, 3), 51, np.uint8))
    assert params["sizes"][0].exp().tolist() == pytest.approx([2.0] * 3)
    assert params["colours"].sigmoid()[0, 0].item() == pytest.approx(0.2)


def test_a_scene_is_fitted() -> None:
    """Pictures of known Gaussians, from three sides, are fitted from their centres, and seen from a fourth side."""
    torch.manual_seed(0)
    positions = np.random.default_rng(1).uniform(-1, 1, (60, 3))
    true = first_gaussians(positions, np.random.default_rng(2).integers(0, 255, (60, 3), dtype=np.uint8))
    true["opacities"] += 4
    true["sizes"] -= 0.7
    views = []
    for side in range(4):
        pose = torch.eye(4)
        pose[:3, :3] = turned(torch.tensor([[1.0, 0, 0.15 * side - 0.2, 0]]))[0]
        pose[2, 3] = 4
        blank = View("v", pose, (40.0, 40.0, 20.0, 16.0), torch.zeros(32, 40, 3), torch.ones(32, 40, dtype=torch.bool))
        drawn = draw(project(true, blank), blank.size, torch.full((3,), 0.5))
        views.append(View("v", pose, blank.lens, drawn, blank.seen))
    scene = Scene(tuple(views), positions, np.full((60, 3), 128, np.uint8))
    assert len(Trainer(scene, points=7)) == 7
    trainer = Trainer(scene)
    (before,) = psnr(trainer, views[1:2])
    for step in range(150):
        if step == 60:
            trainer.divide()
            assert len(trainer) == 66
        trainer.step(views[(0, 2, 3)[step % 3]], step / 150)
    (after,) = psnr(trainer, views[1:2])
    assert before < 21
    assert after > 30
