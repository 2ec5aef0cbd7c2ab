"""Encodes an image as maps to compare in the plane sweep and context to guide its smoothing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from recon.depth.layers import Residual, conv_norm, resize_like

HALF, QUARTER, EIGHTH = 2, 4, 8


@dataclass(frozen=True, eq=False)
class Features:
    """Maps of a batch of images.

    coarse, fine: (batch, channels, h / 8, w / 8) and (.., h / 4, w / 4) of unit length, for matching.
    context_eighth, context_quarter: guides of smoothing and up-sampling, at the same sizes; context_sixteenth: input
    of the trunk's tokens. grey: (batch, 1, h / 2, w / 2), the standardised image, for correlation of patches.
    """

    coarse: Tensor
    fine: Tensor
    context_eighth: Tensor
    context_quarter: Tensor
    context_sixteenth: Tensor
    grey: Tensor

    def __getitem__(self, selected: Tensor) -> Features:
        return Features(*(maps[selected] for maps in vars(self).values()))

    @classmethod
    def stack(cls, features: list[Features]) -> Features:
        """Concatenate batches of equal image size."""
        return cls(*(torch.cat(maps) for maps in zip(*(vars(one).values() for one in features), strict=True)))


class Stem(nn.Module):
    """A small residual encoder to 1/32 and a decoder back to 1/4 (Lin 2017), with two matching maps.

    widths: channels at 1/2, 1/4, 1/8, 1/16 and 1/32. matching: channels of the matching maps.
    """

    def __init__(self, widths: tuple[int, int, int, int, int], matching: int) -> None:
        super().__init__()
        half, quarter, eighth, *_ = widths
        self.entry = conv_norm(3, half, kernel=5, stride=2)
        self.down = nn.ModuleList(
            nn.Sequential(Residual(before, after, stride=2), Residual(after, after))
            for before, after in pairwise(widths)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(coarser, finer, 1) for finer, coarser in pairwise(widths[1:]))
        self.smooth = nn.ModuleList(conv_norm(width, width) for width in widths[1:-1])
        self.coarse = nn.Conv2d(eighth, matching, 1)
        self.fine = nn.Conv2d(quarter, matching, 1)

    def forward(self, images: Tensor) -> Features:
        """Maps of images (batch, 3, h, w) in 0..1; h and w are multiples of 8."""
        standard = standardise(images)
        current = functional.relu(self.entry(standard), inplace=True)
        maps = []
        for block in self.down:
            current = block(current)
            maps.append(current)
        for level in reversed(range(len(maps) - 1)):
            from_below = resize_like(self.lateral[level](maps[level + 1]), maps[level])
            maps[level] = functional.relu(self.smooth[level](maps[level] + from_below), inplace=True)
        quarter, eighth, sixteenth, _ = maps
        return Features(
            functional.normalize(self.coarse(eighth).float(), dim=1),
            functional.normalize(self.fine(quarter).float(), dim=1),
            eighth,
            quarter,
            sixteenth,
            functional.avg_pool2d(standard.mean(1, keepdim=True), HALF),
        )


def standardise(images: Tensor) -> Tensor:
    """Images (batch, 3, h, w) with mean 0 and deviation 1 each: exposure and contrast carry no depth."""
    deviation, mean = torch.std_mean(images, dim=(1, 2, 3), keepdim=True)
    return (images - mean) / (deviation + 0.02)
