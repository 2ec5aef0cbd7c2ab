"""The posed depth network: encode every view once, then sweep, smooth and refine for each reference view.

The network has no unit of length: depths are positions between the nearest and the farthest plane, which the caller
sets, so scaling poses and planes scales the depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from recon.depth.layers import convex_upsample
from recon.depth.refine import Refiner
from recon.depth.regularise import Hourglass, peak_position
from recon.depth.stem import EIGHTH, HALF, QUARTER, Features, Stem
from recon.depth.sweep import Geometry, Visibility, average_sources, group_correlation, patch_correlation, sample_planes

PATCHES = 2  # channels of patch correlation in the cost volume
SHARPNESS = 10.0  # scales correlations, which are cosines, to the initial range of the layers
NEAREST_SHARE = 0.05  # depth never leaves the planes' range by more than this share of the far inverse depth


@dataclass(frozen=True)
class PosedDepthConfig:
    """Sizes of the network.

    stem: channels at 1/2 .. 1/32. matching: channels of the matching maps, in ``groups`` for correlation.
    planes: depth hypotheses. volume: channels of the cost volume at full, half and quarter size.
    offsets: hypotheses of the local search on either side, half a plane apart.
    """

    stem: tuple[int, int, int, int, int] = (16, 32, 64, 96, 128)
    matching: int = 16
    groups: int = 4
    planes: int = 48
    volume: tuple[int, int, int] = (16, 32, 64)
    offsets: int = 4

    @property
    def local_samples(self) -> int:
        """Channels of the local search: learned groups and patch correlations at every offset."""
        return (2 * self.offsets + 1) * (self.groups + 1)


@dataclass(frozen=True, eq=False)
class Sweep:
    """The input of a depth estimate for a reference view.

    geometry: of its sources. inverse_depths: (batch, planes), evenly spaced from far to near. sparse: (batch, 1, h, w)
    inverse depth of triangulated points at full resolution, 0 = none.
    """

    geometry: Geometry
    inverse_depths: Tensor
    sparse: Tensor

    def to(self, device: torch.device) -> Sweep:
        geometry = Geometry(*(tensor.to(device) for tensor in vars(self.geometry).values()))
        return Sweep(geometry, self.inverse_depths.to(device), self.sparse.to(device))

    def position_of(self, inverse_depth: Tensor) -> Tensor:
        """Inverse depths (batch, ...) in planes."""
        shape = (-1, *[1] * (inverse_depth.dim() - 1))
        far, step = self._far_and_step()
        return (inverse_depth - far.reshape(shape)) / step.reshape(shape)

    def inverse_depth_at(self, position: Tensor) -> Tensor:
        """Inverse depth, always positive, of positions (batch, ...) in planes."""
        shape = (-1, *[1] * (position.dim() - 1))
        far, step = self._far_and_step()
        inverse = far.reshape(shape) + position * step.reshape(shape)
        return torch.maximum(inverse, NEAREST_SHARE * (far + step).reshape(shape))

    def _far_and_step(self) -> tuple[Tensor, Tensor]:
        planes = self.inverse_depths.shape[1]
        return self.inverse_depths[:, 0], (self.inverse_depths[:, -1] - self.inverse_depths[:, 0]) / (planes - 1)


@dataclass(frozen=True, eq=False)
class Estimate:
    """scores: (batch, planes, h / 8, w / 8) before the softmax. coarse: (batch, 1, h / 4, w / 4) inverse depth.

    inverse_depth: (batch, 1, h, w). log_scale: (batch, 1, h, w), log of the expected error of the log depth.
    """

    scores: Tensor
    coarse: Tensor
    inverse_depth: Tensor
    log_scale: Tensor


@dataclass(frozen=True, eq=False)
class Pair:
    """References and the stacked sources of each, with the inputs of their correlations."""

    reference: Features
    sources: Features
    sweep: Sweep

    def learned(self, name: str, inverse_depth: Tensor, stride: int, groups: int) -> tuple[Tensor, Tensor]:
        """Group correlation of the maps named ``name``, and visibility; see ``Geometry.project``."""
        maps, others = self._maps(name)
        positions, seen = self.sweep.geometry.project(inverse_depth, stride, (maps.shape[2], maps.shape[3]))
        return group_correlation(maps, others, positions, groups), seen

    def patches(self, inverse_depth: Tensor, window: int, *, narrow: bool) -> Tensor:
        """Correlation of patches at given inverse depths of the half-resolution pixels."""
        maps, others = self._maps("grey")
        with torch.no_grad():
            return patch_correlation(maps, self._warped(others, inverse_depth), window, narrow=narrow)

    def _warped(self, maps: Tensor, inverse_depth: Tensor) -> Tensor:
        """The sources' half-resolution maps at the reference's pixels."""
        geometry = self.sweep.geometry
        if inverse_depth.shape[2:] == (1, 1) and maps.device.type == "cpu":
            return geometry.warp_planes(maps, inverse_depth[:, :, 0, 0], HALF)
        positions, _ = geometry.project(inverse_depth, HALF, (maps.shape[3], maps.shape[4]))
        return sample_planes(maps, positions)

    def _maps(self, name: str) -> tuple[Tensor, Tensor]:
        maps: Tensor = getattr(self.reference, name)
        others: Tensor = getattr(self.sources, name)
        return maps, others.reshape(len(maps), -1, *others.shape[1:])


class PosedDepthNet(nn.Module):
    """Depth of a reference view from source views with known poses."""

    def __init__(self, config: PosedDepthConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PosedDepthConfig()
        quarter, eighth = config.stem[1], config.stem[2]
        self.stem = Stem(config.stem, config.matching)
        self.visibility = Visibility(config.groups + PATCHES)
        self.hourglass = Hourglass(config.groups + PATCHES + 3, config.volume, eighth)
        self.shares = nn.Sequential(nn.Conv2d(eighth, eighth, 3, padding=1), nn.ReLU(), nn.Conv2d(eighth, 36, 1))
        self.refiner = Refiner(config.local_samples, quarter)

    def encode(self, images: Tensor) -> Features:
        """Maps of images (batch, 3, h, w) in 0..1; h and w are multiples of 8."""
        features: Features = self.stem(images)
        return features

    def estimate(self, reference: Features, sources: Features, sweep: Sweep) -> Estimate:
        """Depth of references (batch first); the maps of their sources are stacked (batch * sources first)."""
        pair = Pair(reference, sources, sweep)
        volume, weights = self._cost_volume(pair)
        scores = self.hourglass(volume, reference.context_eighth).float()
        shares = self.shares(reference.context_eighth).float()
        position = convex_upsample(peak_position(scores), shares, 2)
        samples = self._local_correlation(pair, position.detach(), weights)
        extra = self._extra(position, scores, sweep)
        refined = self.refiner(position.detach(), samples, reference.context_quarter, extra)
        return Estimate(
            scores, sweep.inverse_depth_at(position), sweep.inverse_depth_at(refined.position), refined.log_scale
        )

    def _cost_volume(self, pair: Pair) -> tuple[Tensor, Tensor]:
        """The volume (batch, planes, h, w, channels) and the sources' weights (batch, sources, h, w), at 1/8."""
        planes = pair.sweep.inverse_depths[:, :, None, None]
        learned, seen = pair.learned("coarse", planes, EIGHTH, self.config.groups)
        patches = pair.patches(planes, EIGHTH // HALF, narrow=True)
        correlation = torch.cat([SHARPNESS * learned, patches], 2)
        weights = self.visibility(correlation, seen)
        mean, total = average_sources(correlation, seen, weights)
        sparse = sparse_volume(pair.sweep, EIGHTH)
        return torch.cat([mean.permute(0, 2, 3, 4, 1), total[..., None], sparse], -1), weights

    def _local_correlation(self, pair: Pair, position: Tensor, weights: Tensor) -> Tensor:
        """Correlation (batch, samples, h, w) half a plane apart around positions (batch, 1, h, w) at 1/4."""
        reach = self.config.offsets
        offsets = torch.arange(-reach, reach + 1, device=position.device) / 2
        inverse = pair.sweep.inverse_depth_at(position + offsets[None, :, None, None])
        learned, seen = pair.learned("fine", inverse, QUARTER, self.config.groups)
        at_half = functional.interpolate(inverse, scale_factor=QUARTER // HALF, mode="nearest")
        patches = pair.patches(at_half, QUARTER // HALF, narrow=False)
        correlation = torch.cat([SHARPNESS * learned, patches], 2)
        fine_weights = functional.interpolate(weights, position.shape[2:], mode="nearest")
        mean, _ = average_sources(correlation, seen, fine_weights)
        return mean.flatten(1, 2)

    def _extra(self, position: Tensor, scores: Tensor, sweep: Sweep) -> Tensor:
        """Position, clarity of the peak, and the sparse points, (batch, 5, h, w) at 1/4."""
        shares = scores.softmax(1)
        clear = torch.cat([shares.amax(1, keepdim=True), -(shares * (shares + 1e-6).log()).sum(1, keepdim=True)], 1)
        clear = functional.interpolate(clear, position.shape[2:], mode="nearest")
        sparse, mask = pool_sparse(sweep.sparse, QUARTER)
        offset = (sweep.position_of(sparse) - position).clamp(-4, 4) * mask
        return torch.cat([position / scores.shape[1], clear, offset, mask], 1).detach()


def pool_sparse(sparse: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """The nearest sparse inverse depth in every cell (batch, 1, h, w) at 1/stride, and whether there is one."""
    pooled = functional.max_pool2d(sparse, stride)
    return pooled, (pooled > 0).to(sparse.dtype)


def sparse_volume(sweep: Sweep, stride: int) -> Tensor:
    """Two channels (batch, planes, h, w, 2): a bump at the sparse point's plane, and whether there is a point."""
    sparse, mask = pool_sparse(sweep.sparse, stride)
    planes = torch.arange(sweep.inverse_depths.shape[1], device=sparse.device)[None, :, None, None]
    bump = torch.exp(-0.5 * (planes - sweep.position_of(sparse)).square()) * mask
    return torch.stack([bump, mask.expand_as(bump)], -1)
