"""Correlation of tracked points with the neighbourhood of their estimated positions (RAFT, Teed and Deng 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def sample(maps: Tensor, points: Tensor, *, border: bool) -> Tensor:
    """Values (maps, points, channels) of maps (maps, channels, height, width) at ``points`` (maps, points, 2).

    Points are x, y with integers at pixel centres. Outside the map, edge values repeat; without ``border``, zeros.
    """
    height, width = maps.shape[-2:]
    last = points.new_tensor([max(width - 1, 1), max(height - 1, 1)])
    grid = (points * (2 / last) - 1).unsqueeze(2)
    padding = "border" if border else "zeros"
    sampled = functional.grid_sample(maps, grid, mode="bilinear", padding_mode=padding, align_corners=True)
    return sampled.squeeze(-1).transpose(1, 2)


class CorrelationPyramid:
    """Feature maps (batch, frames, channels, height, width) at several scales, each half the size of the previous."""

    def __init__(self, features: Tensor, levels: int, radius: int) -> None:
        flat = [features.flatten(0, 1)]
        for _ in range(levels - 1):
            flat.append(functional.avg_pool2d(flat[-1], 2))
        self._maps = flat
        steps = torch.arange(-radius, radius + 1, dtype=features.dtype, device=features.device)
        # The slower index runs along x: the network was trained with this order of the window.
        self._window = torch.cartesian_prod(steps, steps)

    def correlate(self, tracked: Tensor, points: Tensor) -> Tensor:
        """Scaled products (batch, frames, points, levels * window) around each point.

        tracked: features (batch, frames, points, channels) of the points. points: (batch, frames, points, 2) in pixels
        of the finest level.
        """
        shape, channels = tracked.shape[:3], tracked.shape[-1]
        parts = []
        for level, maps in enumerate(self._maps):
            products = tracked.flatten(0, 1) @ maps.flatten(2) / channels**0.5
            single = products.flatten(0, 1).view(-1, 1, *maps.shape[-2:])
            around = points.reshape(-1, 1, 2) / 2**level + self._window
            parts.append(sample(single, around, border=False).reshape(*shape, -1))
        return torch.cat(parts, dim=-1)
