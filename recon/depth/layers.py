"""Building blocks shared by the parts of the compact network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS_PER_GROUP = 8


def conv_norm(channels_in: int, channels_out: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, then group normalisation; sizes are divided by ``stride``, rounded up."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(channels_out // CHANNELS_PER_GROUP, channels_out))


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut (He 2016); the shortcut is projected where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_norm(channels_in, channels_out, stride=stride)
        self.second = conv_norm(channels_out, channels_out)
        changes = stride > 1 or channels_in != channels_out
        self.shortcut = conv_norm(channels_in, channels_out, kernel=1, stride=stride) if changes else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        inner = functional.relu(self.first(features), inplace=True)
        return functional.relu(self.second(inner) + self.shortcut(features))


def resize_like(features: Tensor, target: Tensor) -> Tensor:
    """Features (batch, c, h, w) at the height and width of ``target``, bilinear."""
    return functional.interpolate(features, target.shape[-2:], mode="bilinear", align_corners=False)


def convex_upsample(values: Tensor, weights: Tensor, factor: int) -> Tensor:
    """Values (batch, 1, h, w) at (batch, 1, factor * h, factor * w).

    Every fine value is a convex combination of the 3x3 coarse ones around it (Teed and Deng 2020, RAFT).
    weights: (batch, 9 * factor**2, h, w) before the softmax, ordered (neighbour, fine row, fine column).
    """
    batch, _, height, width = values.shape
    shares = weights.reshape(batch, 9, factor * factor, height, width).softmax(1)
    padded = functional.pad(values, (1, 1, 1, 1), mode="replicate")
    neighbours = torch.stack(
        [padded[:, 0, row : row + height, column : column + width] for row in range(3) for column in range(3)], 1
    )
    fine = (shares * neighbours[:, :, None]).sum(1)
    return functional.pixel_shuffle(fine, factor)
