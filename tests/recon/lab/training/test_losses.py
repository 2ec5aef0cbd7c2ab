"""Losses: zero for the truth, larger for larger errors."""

import math

import torch

from recon.depth.network import Estimate, Sweep
from recon.depth.sweep import Geometry
from recon.lab.training.losses import LossWeights, gradient_loss, log_error, losses, total

PLANES = 16


def sweep() -> Sweep:
    geometry = Geometry(torch.eye(3).expand(1, 1, 3, 3), torch.zeros(1, 1, 3), torch.tensor([[[16, 16]]]))
    return Sweep(geometry, torch.linspace(0.1, 1.6, PLANES)[None], torch.zeros(1, 1, 16, 16))


def estimate(inverse_depth: float, peak: int, log_scale: float = -3.0) -> Estimate:
    scores = torch.zeros(1, PLANES, 2, 2)
    scores[:, peak] = 10.0
    full = torch.full((1, 1, 16, 16), inverse_depth)
    return Estimate(scores, full[..., ::4, ::4], full, torch.full_like(full, log_scale))


def test_the_truth_costs_less_than_errors() -> None:
    depth = torch.full((1, 1, 16, 16), 2.0)
    right, near, far = (
        losses(estimate(inverse, peak), sweep(), depth) for inverse, peak in ((0.5, 4), (0.6, 5), (1.2, 11))
    )
    assert right["depth"] < 1e-6
    assert right["coarse"] < 1e-6
    for name in ("scores", "coarse", "depth", "confidence"):
        assert right[name] < near[name] < far[name], name


def test_unknown_depth_costs_nothing() -> None:
    depth = torch.full((1, 1, 16, 16), 2.0)
    depth[..., :8] = 0
    wrong = estimate(0.5, 4)
    wrong.inverse_depth[..., :8] = 5.0
    parts = losses(wrong, sweep(), depth)
    assert parts["depth"] < 1e-6
    assert parts["gradient"] < 1e-6
    assert all(
        float(part) == 0 for name, part in losses(wrong, sweep(), torch.zeros_like(depth)).items() if name != "x"
    )


def test_the_best_predicted_scale_is_the_mean_error() -> None:
    depth = torch.full((1, 1, 16, 16), 2.0)
    error = math.log(1.1)
    costs = {
        scale: losses(estimate(0.5 * 1.1, 4, math.log(scale)), sweep(), depth)["confidence"]
        for scale in (0.5 * error, error, 2 * error)
    }
    assert min(costs, key=lambda scale: float(costs[scale])) == error


def test_a_wrong_scale_of_depth_has_no_gradient_loss_but_a_wrong_slope_has() -> None:
    known = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    assert gradient_loss(torch.full((1, 1, 8, 8), 0.3), known) == 0
    assert gradient_loss(0.1 * torch.arange(8.0).expand(1, 1, 8, 8), known) > 0.1


def test_the_log_error_is_bounded() -> None:
    errors = log_error(torch.tensor([1.01, 1e6]), torch.tensor([0.0, 0.0]))
    assert abs(float(errors[0]) - math.log(1.01)) < 1e-5
    assert errors[1] <= 1


def test_the_total_is_the_weighted_sum() -> None:
    depth = torch.full((1, 1, 16, 16), 2.0)
    parts = losses(estimate(0.6, 5), sweep(), depth)
    weights = LossWeights(scores=1, coarse=0, depth=0, gradient=0, confidence=2)
    torch.testing.assert_close(total(parts, weights), parts["scores"] + 2 * parts["confidence"])
