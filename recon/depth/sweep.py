"""The plane sweep: compares source maps with the reference's at every depth hypothesis (Collins 1996).

Maps of stride s have pixel centres at s * (column + 0.5), images at (column + 0.5); see docs/conventions.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recon.core.projection import plane_homography

NOISE = 2e-3  # variance in a standardised image below which a patch has no texture
BEHIND = 1e-4  # of the reference depth; points closer to the source's camera plane are not seen


@dataclass(frozen=True, eq=False)
class Geometry:
    """Maps pixels from the reference to the sources: x_source ~ rotation @ x_reference + inverse_depth * offset.

    rotation: (batch, sources, 3, 3). offset: (batch, sources, 3). Both act on full-resolution pixels. extent: (batch,
    sources, 2), width and height of the sources' images, which may be smaller than their padded maps.
    """

    rotation: Tensor
    offset: Tensor
    extent: Tensor

    @classmethod
    def between(
        cls, intrinsics: Tensor, source_intrinsics: Tensor, source_from_reference: Tensor, extent: Tensor
    ) -> Geometry:
        """intrinsics: (batch, 3, 3). source_intrinsics: (batch, sources, 3, 3). source_from_reference: (.., 4, 4)."""
        to_ray = torch.linalg.inv(intrinsics)[:, None]
        rotation = source_intrinsics @ source_from_reference[..., :3, :3] @ to_ray
        offset = (source_intrinsics @ source_from_reference[..., :3, 3:])[..., 0]
        return cls(rotation, offset, extent)

    def project(self, inverse_depth: Tensor, stride: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Positions in the sources of the reference's pixels at given inverse depths.

        inverse_depth: (batch, planes, h or 1, w or 1) of a map with ``stride``; size: (h, w) of the map.
        Returns positions (batch, sources, planes, h, w, 2) in -1..1 over the source's map of equal size, and whether
        they are in front of the source and inside its image (batch, sources, planes, h, w).
        """
        height, width = size
        rows = (torch.arange(height, device=inverse_depth.device) + 0.5) * stride
        columns = (torch.arange(width, device=inverse_depth.device) + 0.5) * stride
        grid = [columns[None, :].expand(size), rows[:, None].expand(size), torch.ones_like(columns).expand(size)]
        pixels = torch.stack(grid).to(self.rotation)
        rays = torch.einsum("bsij,jhw->bsihw", self.rotation, pixels)[:, :, :, None]
        x, y, z = (rays + inverse_depth[:, None, None] * self.offset[..., None, None, None]).unbind(2)
        safe = z.clamp(min=BEHIND)
        column, row = x / safe, y / safe
        right, bottom = self.extent[..., None, None, None].unbind(2)
        seen = (z > BEHIND) & (column >= 0) & (column <= right) & (row >= 0) & (row <= bottom)
        across, down = column * (2 / (stride * width)) - 1, row * (2 / (stride * height)) - 1
        return torch.stack([across, down], -1).clamp(-3, 3), seen

    def warp_planes(self, sources: Tensor, inverse_depths: Tensor, stride: int) -> Tensor:
        """Like ``grid_sample`` at the positions of ``project``, for planes that face the camera, on the CPU.

        sources: (batch, sources, 1, h, w), maps with ``stride``. inverse_depths: (batch, planes).
        Returns (batch, sources, planes, h, w); values differ only behind a source's camera, where nothing is seen.
        """
        import cv2  # noqa: PLC0415 - training needs only torch

        batch, count, _, height, width = sources.shape
        warped = np.empty((batch, count, inverse_depths.shape[1], height, width), np.float32)
        rotation, offset = self.rotation.double().numpy(), self.offset.double().numpy()
        for one, source in product(range(batch), range(count)):
            for plane, inverse_depth in enumerate(inverse_depths[one].tolist()):
                cv2.warpPerspective(
                    sources[one, source, 0].numpy(),
                    plane_homography(rotation[one, source], offset[one, source], inverse_depth, stride),
                    (width, height),
                    dst=warped[one, source, plane],
                    flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                    borderMode=cv2.BORDER_REPLICATE,
                )
        return torch.from_numpy(warped)


def group_correlation(reference: Tensor, sources: Tensor, positions: Tensor, groups: int) -> Tensor:
    """Correlation of the reference with the sources by groups of channels (Guo 2019).

    reference: (batch, c, h, w). sources: (batch, sources, c, h, w). positions: (batch, sources, planes, h, w, 2).
    Returns (batch, sources, groups, planes, h, w); with maps of unit length the groups add up to the cosine.
    """
    batch, count, planes, height, width, _ = positions.shape
    channels = reference.shape[1]
    sampled = functional.grid_sample(
        sources.flatten(0, 1), positions.flatten(0, 1).flatten(1, 2), padding_mode="border", align_corners=False
    ).reshape(batch, count, groups, channels // groups, planes, height, width)
    grouped = reference.reshape(batch, 1, groups, channels // groups, 1, height, width)
    return (sampled * grouped).sum(3)


@dataclass(frozen=True, eq=False)
class _Moments:
    """Means over windows: of the reference, the source, their squares and their product."""

    reference: Tensor
    source: Tensor
    reference_square: Tensor
    source_square: Tensor
    product: Tensor

    def correlation(self) -> Tensor:
        covariance = self.product - self.reference * self.source
        variances = [
            (square - mean * mean).clamp(min=0) + NOISE
            for square, mean in ((self.reference_square, self.reference), (self.source_square, self.source))
        ]
        return covariance / (variances[0] * variances[1]).sqrt()

    def widened(self) -> _Moments:
        """The moments of windows three times as wide."""
        wide = (functional.avg_pool2d(part, 3, 1, 1, count_include_pad=False) for part in vars(self).values())
        return _Moments(*wide)


def sample_planes(sources: Tensor, positions: Tensor) -> Tensor:
    """Maps (batch, sources, 1, H, W) at positions (batch, sources, planes, H, W, 2), without the channel."""
    batch, count, planes, height, width, _ = positions.shape
    found: Tensor = functional.grid_sample(
        sources.flatten(0, 1), positions.flatten(0, 1).flatten(1, 2), padding_mode="border", align_corners=False
    )
    return found.reshape(batch, count, planes, height, width)


def patch_correlation(reference: Tensor, warped: Tensor, window: int, *, narrow: bool) -> Tensor:
    """Normalised cross-correlation of image patches, a useful signal even before training.

    reference: (batch, 1, H, W). warped: (batch, sources, planes, H, W), the sources at its pixels.
    Returns (batch, sources, channels, planes, H / window, W / window). The last channel is for patches of side
    3 * window; if ``narrow``, one for side ``window`` precedes it. Patches without texture correlate near 0.
    """
    batch, count, planes = warped.shape[:3]
    warped = warped.flatten(1, 2)
    parts = (reference, warped, reference.square(), warped.square(), reference * warped)
    moments = _Moments(*(functional.avg_pool2d(part, window) for part in parts))
    wide = moments.widened().correlation()
    scores = torch.stack([moments.correlation(), wide] if narrow else [wide], 1)
    return scores.reshape(batch, -1, count, planes, *scores.shape[3:]).transpose(1, 2)


class Visibility(nn.Module):
    """Weight of each source at each pixel, from how clearly its correlation peaks (Zhang 2020)."""

    def __init__(self, groups: int, hidden: int = 16) -> None:
        super().__init__()
        self.score = nn.Linear(groups, 1)
        self.judge = nn.Sequential(nn.Conv2d(4, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, 1, 1))

    def forward(self, correlation: Tensor, seen: Tensor) -> Tensor:
        """Weights (batch, sources, h, w) in 0..1 from (batch, sources, groups, planes, h, w) and visibility."""
        batch, count, _, _, height, width = correlation.shape
        scores = self.score(correlation.movedim(2, -1))[..., 0].masked_fill(~seen, -4.0)
        shares = scores.softmax(2)
        entropy = -(shares * (shares + 1e-6).log()).sum(2)
        evidence = torch.stack([scores.amax(2), scores.mean(2), entropy, seen.to(scores.dtype).mean(2)], 2)
        weights: Tensor = self.judge(evidence.flatten(0, 1)).sigmoid()
        return weights.reshape(batch, count, height, width)


def average_sources(correlation: Tensor, seen: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean over the sources that see a point: (batch, groups, planes, h, w), and the sum of the weights.

    correlation: (batch, sources, groups, planes, h, w). seen: (batch, sources, planes, h, w). weights: (batch,
    sources, h, w). The sum is (batch, planes, h, w).
    """
    shares = weights[:, :, None] * seen
    total = shares.sum(1)
    mean = (correlation * shares[:, :, None]).sum(1) / (total + 1e-3)[:, None]
    return mean, total
