"""From the coarse depth at 1/8 to full resolution: a local search at 1/4, then learned up-sampling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from recon.depth.layers import Residual, conv_norm, convex_upsample

LARGEST_STEP = 4.0  # planes; largest move of a depth in the local search


@dataclass(frozen=True, eq=False)
class Refined:
    """position: (batch, 1, h, w) in planes, at full resolution. log_scale: log of its expected log-depth error."""

    position: Tensor
    log_scale: Tensor


class Refiner(nn.Module):
    """Refines every quarter-resolution depth from the correlation around it and the image.

    samples: channels of the local correlation. context: channels of the quarter-resolution context.
    """

    EXTRA = 5  # position, peak share, entropy, sparse offset, sparse mask

    def __init__(self, samples: int, context: int, hidden: int = 64) -> None:
        super().__init__()
        self.entry = conv_norm(samples + context + self.EXTRA, hidden)
        self.body = nn.Sequential(Residual(hidden, hidden), Residual(hidden, hidden))
        self.step = nn.Conv2d(hidden, 1, 3, padding=1)
        self.log_scale = nn.Conv2d(hidden, 1, 3, padding=1)
        self.shares = nn.Sequential(nn.Conv2d(hidden, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, 9 * 16, 1))
        nn.init.zeros_(self.step.weight)

    def forward(self, position: Tensor, samples: Tensor, context: Tensor, extra: Tensor) -> Refined:
        """All inputs at 1/4: position (batch, 1, h, w) in planes, the others (batch, channels, h, w)."""
        hidden = functional.relu(self.entry(torch.cat([samples, context, extra], 1)), inplace=True)
        hidden = self.body(hidden)
        moved = position + LARGEST_STEP * (self.step(hidden) / LARGEST_STEP).tanh()
        shares = self.shares(hidden).float()
        log_scale = functional.interpolate(
            self.log_scale(hidden).float(), scale_factor=4, mode="bilinear", align_corners=False
        )
        return Refined(convex_upsample(moved.float(), shares, 4), log_scale)
