"""Dense predictions from tokens of four levels (DPT, Ranftl et al. 2021, in VGGT's version)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from recon.network.activations import CONFIDENCE, DENSE
from recon.network.config import DptConfig
from recon.network.layout import FrameLayout

EPS = 1e-5
POSITION_SHARE = 0.1  # of the sine position embedding in the features
POSITION_BASE = 100.0
HIDDEN = 32
FRAMES_AT_ONCE = 8  # bounds memory; frames are independent here

DptStep = Callable[[list[Tensor], FrameLayout], Tensor]


@dataclass(frozen=True, eq=False)
class DenseMap:
    """values: (batch, frames, height, width, channels), depth along z or points. confidence: without channels."""

    values: Tensor
    confidence: Tensor


class ResidualUnit(nn.Module):
    """Two convolutions with a skip connection that starts after the first ReLU."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()  # the skip carries relu(x): the public code's ReLU works in place
        return self.conv2(self.conv1(x).relu()) + x


class Fusion(nn.Module):
    """Adds a finer level and upsamples to the size of the next one."""

    def __init__(self, features: int, *, deepest: bool) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        if not deepest:
            self.resConfUnit1 = ResidualUnit(features)
        self.resConfUnit2 = ResidualUnit(features)

    def forward(self, x: Tensor, side: Tensor | None, size: tuple[int, int]) -> Tensor:
        if side is not None:
            x = x + self.resConfUnit1(side)
        return self.out_conv(_resize(self.resConfUnit2(x), size))


class Scratch(nn.Module):
    """The convolutional decoder."""

    def __init__(self, config: DptConfig) -> None:
        super().__init__()
        features = config.features
        for level, channels in enumerate(config.channels, start=1):
            self.add_module(f"layer{level}_rn", nn.Conv2d(channels, features, 3, padding=1, bias=False))
            self.add_module(f"refinenet{level}", Fusion(features, deepest=level == 4))
        narrow = features if config.output_dim is None else features // 2
        self.output_conv1 = nn.Conv2d(features, narrow, 3, padding=1)
        if config.output_dim is not None:
            self.output_conv2 = nn.Sequential(
                nn.Conv2d(narrow, HIDDEN, 3, padding=1), nn.ReLU(), nn.Conv2d(HIDDEN, config.output_dim, 1)
            )

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Four feature maps, the finest first, to one of twice the finest size."""
        narrowed = [self.get_submodule(f"layer{k}_rn")(x) for k, x in enumerate(levels, start=1)]
        height, width = narrowed[0].shape[-2:]
        sizes = [(2 * height, 2 * width), *(tuple(x.shape[-2:]) for x in narrowed[:3])]
        x = self.get_submodule("refinenet4")(narrowed[3], None, sizes[3])
        for level in (3, 2, 1):
            x = self.get_submodule(f"refinenet{level}")(x, narrowed[level - 1], sizes[level - 1])
        return self.output_conv1(x)


class DptHead(nn.Module):
    """Tokens of four levels to a feature map, or to values with confidence."""

    def __init__(self, config: DptConfig) -> None:
        super().__init__()
        self.config = config
        first, second, _, last = config.channels
        self.norm = nn.LayerNorm(config.dim, eps=EPS)
        self.projects = nn.ModuleList(nn.Conv2d(config.dim, channels, 1) for channels in config.channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, 4, stride=4),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(last, last, 3, stride=2, padding=1),
            ]
        )
        self.scratch = Scratch(config)

    def forward(self, levels: Mapping[int, Tensor], layout: FrameLayout) -> DenseMap:
        """Values and confidence from tokens (batch, frames, tokens, dim) by level."""
        raw = self._in_parts(levels, layout, self._prediction).movedim(2, -1)
        values = DENSE[self.config.activation](raw[..., :-1])
        return DenseMap(values, CONFIDENCE[self.config.confidence](raw[..., -1]))

    def features(self, levels: Mapping[int, Tensor], layout: FrameLayout) -> Tensor:
        """Feature maps (batch, frames, channels, height / down_ratio, width / down_ratio)."""
        return self._in_parts(levels, layout, self._features)

    def _in_parts(self, levels: Mapping[int, Tensor], layout: FrameLayout, run: DptStep) -> Tensor:
        """``run`` on a few frames at a time."""
        read = [levels[level] for level in self.config.levels]
        batch, frames = read[0].shape[:2]
        flat = [level.flatten(0, 1) for level in read]
        parts = [
            run([level[k : k + FRAMES_AT_ONCE] for level in flat], layout)
            for k in range(0, batch * frames, FRAMES_AT_ONCE)
        ]
        return torch.cat(parts).unflatten(0, (batch, frames))

    def _prediction(self, levels: list[Tensor], layout: FrameLayout) -> Tensor:
        return self.scratch.output_conv2(self._features(levels, layout))

    def _features(self, levels: list[Tensor], layout: FrameLayout) -> Tensor:
        size = self.config.patch_size
        aspect = layout.columns / layout.rows
        maps = []
        for tokens, project, resize in zip(levels, self.projects, self.resize_layers, strict=True):
            patches = self.norm(tokens[:, layout.special :].to(self.norm.weight.dtype))
            grid = patches.unflatten(1, (layout.rows, layout.columns)).permute(0, 3, 1, 2)
            maps.append(resize(self._placed(project(grid), aspect)))
        joined = self.scratch(maps)
        full = (layout.rows * size // self.config.down_ratio, layout.columns * size // self.config.down_ratio)
        return self._placed(_resize(joined, full), aspect)

    def _placed(self, x: Tensor, aspect: float) -> Tensor:
        """Add the position embedding, if the head has one."""
        if not self.config.position_embedding:
            return x
        return x + POSITION_SHARE * sine_positions(x, aspect)


def sine_positions(like: Tensor, aspect: float) -> Tensor:
    """Sines and cosines (channels, height, width) of the pixel positions of ``like``, x before y.

    aspect: width over height of the image, which may differ from that of the feature map. Positions are centred and the
    image's diagonal is 2; computed in float64.
    """
    channels, height, width = like.shape[-3:]
    diagonal = (aspect**2 + 1) ** 0.5
    across = _pixel_centres(width, aspect / diagonal, like.device)
    down = _pixel_centres(height, 1 / diagonal, like.device)
    frequencies = POSITION_BASE ** -(
        torch.arange(channels // 4, dtype=torch.float64, device=like.device) / (channels / 4)
    )
    parts = []
    for positions, view in ((across, (1, width)), (down, (height, 1))):
        angles = frequencies[:, None] * positions
        waves = torch.cat([angles.sin(), angles.cos()]).view(-1, *view)
        parts.append(waves.expand(-1, height, width))
    return torch.cat(parts).to(like.dtype)


def _pixel_centres(count: int, span: float, device: torch.device) -> Tensor:
    """Centres of ``count`` pixels that divide -span..span."""
    reach = span * (count - 1) / count
    return torch.linspace(-reach, reach, count, dtype=torch.float64, device=device)


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)
