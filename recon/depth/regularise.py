"""Smoothing of the cost volume by convolutions over space and over planes, guided by the reference image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SpaceThenDepth(nn.Module):
    """Residual block on volumes (batch, planes, h, w, channels): 3x3 over space, then 3 over planes.

    Both read the same memory as a channels-last image, without copying; a full 3D convolution takes twice as long.
    The second convolution is initialised to zero: the block starts as the identity and needs no normalisation.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.space = nn.Conv2d(channels, channels, 3, padding=1)
        self.depth = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        nn.init.zeros_(self.depth.weight)

    def forward(self, volume: Tensor) -> Tensor:
        inner = functional.relu(over_space(self.space, volume), inplace=True)
        return functional.relu(volume + over_planes(self.depth, inner))


def over_space(layer: nn.Module, volume: Tensor) -> Tensor:
    """Apply an image layer to every plane of a volume (batch, planes, h, w, channels)."""
    batch, planes = volume.shape[:2]
    image: Tensor = layer(volume.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return image.reshape(batch, planes, *image.shape[1:])


def over_planes(layer: nn.Module, volume: Tensor) -> Tensor:
    """Apply an image layer to the (planes, h * w) view of a volume (batch, planes, h, w, channels)."""
    height, width = volume.shape[2:4]
    image: Tensor = layer(volume.flatten(2, 3).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return image.reshape(*image.shape[:2], height, width, image.shape[-1])


class Guide(nn.Module):
    """Scales and shifts a volume's channels, guided by the image, equally in all planes (Bangunharcana 2021)."""

    def __init__(self, context: int, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(context, 2 * channels, 1)

    def forward(self, volume: Tensor, context: Tensor) -> Tensor:
        guide: Tensor = self.project(context).permute(0, 2, 3, 1)[:, None]
        scale, shift = guide.chunk(2, -1)
        return volume * (2 * scale.sigmoid()) + shift


class Hourglass(nn.Module):
    """Scores of the planes from a cost volume: an encoder and decoder of ``SpaceThenDepth`` blocks.

    channels_in: of the cost volume. widths: channels at full, half and quarter size. context: channels of the guide.
    """

    def __init__(self, channels_in: int, widths: tuple[int, int, int], context: int) -> None:
        super().__init__()
        full, half, quarter = widths
        self.entry = nn.Linear(channels_in, full)
        self.guides = nn.ModuleList(Guide(context, width) for width in widths)
        self.encode = nn.ModuleList(SpaceThenDepth(width) for width in widths)
        self.down = nn.ModuleList([nn.Linear(full, half), nn.Linear(half, quarter)])
        self.up = nn.ModuleList([nn.Linear(half, full), nn.Linear(quarter, half)])
        self.decode = nn.ModuleList([SpaceThenDepth(full), SpaceThenDepth(half)])
        self.bottom = SpaceThenDepth(quarter)
        self.score = nn.Linear(full, 1)

    def forward(self, volume: Tensor, context: Tensor) -> Tensor:
        """Scores (batch, planes, h, w) of a volume (batch, planes, h, w, channels); context: (batch, c, h, w)."""
        current, kept = self.entry(volume), []
        for level, (guide, encode) in enumerate(zip(self.guides, self.encode, strict=True)):
            current = encode(guide(current, context))
            if level < len(self.down):
                kept.append(current)
                current = halve(self.down[level](current))
                context = functional.avg_pool2d(context, 2, ceil_mode=True, count_include_pad=False)
        current = self.bottom(current)
        for level in reversed(range(len(kept))):
            current = self.decode[level](kept[level] + grow_like(self.up[level](current), kept[level]))
        scores: Tensor = self.score(current)[..., 0]
        return scores


def halve(volume: Tensor) -> Tensor:
    """Mean over 2x2x2 voxels of a volume (batch, planes, h, w, channels); odd sizes round up."""
    pooled = functional.avg_pool3d(volume.permute(0, 4, 1, 2, 3), 2, ceil_mode=True, count_include_pad=False)
    return pooled.permute(0, 2, 3, 4, 1).contiguous()


def grow_like(volume: Tensor, target: Tensor) -> Tensor:
    """Trilinear interpolation of a volume (batch, planes, h, w, channels) to the size of ``target``."""
    grown = functional.interpolate(
        volume.permute(0, 4, 1, 2, 3), target.shape[1:4], mode="trilinear", align_corners=False
    )
    return grown.permute(0, 2, 3, 4, 1).contiguous()


def peak_position(scores: Tensor, reach: int = 2) -> Tensor:
    """Position (batch, 1, h, w) of the peak along the planes of scores (batch, planes, h, w), in planes.

    It is the softmax-weighted mean over ``reach`` planes on either side of the best one, so other peaks have no
    influence.
    """
    planes = scores.shape[1]
    best = scores.detach().argmax(1, keepdim=True).clamp(reach, planes - 1 - reach)
    window = best + torch.arange(-reach, reach + 1, device=scores.device)[None, :, None, None]
    shares = scores.gather(1, window).softmax(1)
    return (shares * window).sum(1, keepdim=True)
