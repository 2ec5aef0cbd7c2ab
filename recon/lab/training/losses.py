"""Losses of the posed depth network; each returns a number, and training minimises their weighted sum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon.depth.network import Estimate, Sweep

PEAK_WIDTH = 0.7  # planes: scale of the Laplace distribution that the scores should match
LARGEST_ERROR = 1.0  # of log depth: largest error that an outlier counts for


@dataclass(frozen=True)
class LossWeights:
    """scores: cross-entropy at 1/8. coarse, depth: absolute error of log depth at 1/4 and at full size. gradient: error
    of the depth's local changes. confidence: likelihood of the error under the predicted scale.
    """

    scores: float = 0.3
    coarse: float = 1.0
    depth: float = 2.0
    gradient: float = 0.5
    confidence: float = 0.2


def losses(estimate: Estimate, sweep: Sweep, depth: Tensor) -> dict[str, Tensor]:
    """Each loss by the name of its weight. depth: (n, 1, h, w) true depth, 0 = unknown."""
    known = depth > 0
    true_log = depth.clamp(min=1e-9).log()
    error = log_error(estimate.inverse_depth, true_log)
    at_quarter = slice(2, None, 4)
    quarter = (..., at_quarter, at_quarter)
    return {
        "scores": score_loss(estimate.scores, sweep, depth),
        "coarse": _mean(log_error(estimate.coarse, true_log[quarter]), known[quarter]),
        "depth": _mean(error, known),
        "gradient": gradient_loss(-estimate.inverse_depth.log() - true_log, known),
        "confidence": _mean(error.detach() / estimate.log_scale.exp() + estimate.log_scale, known),
    }


def total(parts: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """The weighted sum."""
    return torch.stack([getattr(weights, name) * part for name, part in parts.items()]).sum()


def log_error(inverse_depth: Tensor, true_log_depth: Tensor) -> Tensor:
    """Absolute error of the log depth, bounded smoothly; close to the relative error if that is small."""
    error = (-inverse_depth.log() - true_log_depth).abs()
    return LARGEST_ERROR * (error / LARGEST_ERROR).tanh()


def score_loss(scores: Tensor, sweep: Sweep, depth: Tensor) -> Tensor:
    """Cross-entropy of scores (n, planes, h / 8, w / 8) against a peak at the true depth in each cell's middle."""
    middle = depth[..., 4::8, 4::8]
    known = middle > 0
    position = sweep.position_of(1 / middle.clamp(min=1e-9)).clamp(0, scores.shape[1] - 1)
    planes = torch.arange(scores.shape[1], device=scores.device)[None, :, None, None]
    target = (-(planes - position).abs() / PEAK_WIDTH).softmax(1)
    return _mean(-(target * scores.log_softmax(1)).sum(1, keepdim=True), known)


def gradient_loss(difference: Tensor, known: Tensor) -> Tensor:
    """Absolute change of the log depth's error between pixels that are 1, 2 and 4 apart (n, 1, h, w)."""
    parts = []
    for step in (1, 2, 4):
        for axis in (2, 3):
            length = difference.shape[axis] - step
            change = difference.narrow(axis, step, length) - difference.narrow(axis, 0, length)
            both = known.narrow(axis, step, length) & known.narrow(axis, 0, length)
            parts.append(_mean(change.abs().clamp(max=0.5), both))
    return torch.stack(parts).mean()


def _mean(values: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, values, 0).sum() / known.sum().clamp(min=1)
