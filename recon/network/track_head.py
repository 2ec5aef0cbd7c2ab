"""Tracks of query points through the frames (VGGT, section 3.3, after VGGSfM and CoTracker)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recon.network.config import TrackerConfig, TrackHeadConfig
from recon.network.correlation import CorrelationPyramid, sample
from recon.network.dpt_head import DptHead
from recon.network.layers import Mlp
from recon.network.layout import FrameLayout
from recon.network.track_transformer import TrackTransformer

LARGEST_SIDE = 518  # by which displacements are scaled [px]
HIGHEST_FREQUENCY = 1000.0
POSITION_BASE = 10000.0


@dataclass(frozen=True, eq=False)
class Tracks:
    """points: per iteration (batch, frames, points, 2), x before y [px]. visibility, confidence: without the last axis.

    features: the maps (batch, frames, channels, height, width) used for tracking.
    """

    points: tuple[Tensor, ...]
    visibility: Tensor
    confidence: Tensor | None
    features: Tensor


class TrackHead(nn.Module):
    """Tokens and query points to tracks."""

    def __init__(self, config: TrackHeadConfig) -> None:
        super().__init__()
        self.feature_extractor = DptHead(config.extractor)
        self.tracker = Tracker(config.tracker)

    def forward(self, levels: Mapping[int, Tensor], layout: FrameLayout, queries: Tensor) -> Tracks:
        """Track ``queries`` (batch, points, 2), x before y [px] in the first frame, through all frames."""
        features = self.feature_extractor.features(levels, layout)
        return self.tracker(features, queries)


class Tracker(nn.Module):
    """Iterative refinement of tracks on feature maps."""

    def __init__(self, config: TrackerConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.features
        window = config.levels * (2 * config.radius + 1) ** 2
        dim = 3 * channels + 4  # displacement and its embedding, correlation, features
        self.query_ref_token = nn.Parameter(torch.zeros(1, 2, dim))
        self.corr_mlp = Mlp(window, config.hidden, channels)
        self.updateformer = TrackTransformer(dim, config.hidden, channels + 2)
        self.fmap_norm = nn.LayerNorm(channels)
        self.ffeat_norm = nn.GroupNorm(1, channels)
        self.ffeat_updater = nn.Sequential(nn.Linear(channels, channels), nn.GELU())
        self.vis_predictor = nn.Sequential(nn.Linear(channels, 1))
        if config.confidence:
            self.conf_predictor = nn.Sequential(nn.Linear(channels, 1))

    def forward(self, features: Tensor, queries: Tensor) -> Tracks:
        """Tracks of ``queries`` (batch, points, 2) on features (batch, frames, channels, height, width)."""
        maps = self.fmap_norm(features.movedim(2, -1)).movedim(-1, 2)
        frames = maps.shape[1]
        points = (queries / self.config.stride)[:, None].expand(-1, frames, -1, -1)
        tracked = sample(maps[:, 0], points[:, 0], border=True)[:, None].expand(-1, frames, -1, -1)
        pyramid = CorrelationPyramid(maps, self.config.levels, self.config.radius)
        found = []
        for _ in range(self.config.iterations):
            entry = self._entry(pyramid, tracked, points, maps)
            change = self.updateformer(entry.transpose(1, 2)).transpose(1, 2)
            tracked = tracked + self._feature_change(change[..., 2:])
            # The query itself does not move.
            points = torch.cat([points[:, :1], points[:, 1:] + change[:, 1:, :, :2]], dim=1)
            found.append(points * self.config.stride)
        visibility = self.vis_predictor(tracked).squeeze(-1).sigmoid()
        confidence = self.conf_predictor(tracked).squeeze(-1).sigmoid() if self.config.confidence else None
        return Tracks(tuple(found), visibility, confidence, features)

    def _entry(self, pyramid: CorrelationPyramid, tracked: Tensor, points: Tensor, maps: Tensor) -> Tensor:
        """The transformer's input (batch, frames, points, dim)."""
        displacement = points - points[:, :1]
        scaled = displacement / LARGEST_SIDE
        parts = [
            waves(displacement, self.config.features // 2),
            scaled,
            scaled,
            self.corr_mlp(pyramid.correlate(tracked, points)),
            tracked,
        ]
        entry = torch.cat(parts, dim=-1)
        grid = grid_positions(entry.shape[-1], maps).expand(len(maps), -1, -1, -1)
        place = sample(grid, points[:, 0], border=True)[:, None]
        first, others = self.query_ref_token[:, :1], self.query_ref_token[:, 1:]
        kinds = torch.cat([first, others.expand(-1, maps.shape[1] - 1, -1)], dim=1)[:, :, None]
        return entry + place + kinds

    def _feature_change(self, change: Tensor) -> Tensor:
        normed = self.ffeat_norm(change.flatten(0, 2)).view_as(change)
        return self.ffeat_updater(normed)


def waves(xy: Tensor, channels: int) -> Tensor:
    """Interleaved sines and cosines (..., 2 * channels) of x, then of y, at evenly spaced frequencies."""
    frequencies = torch.arange(0, channels, 2, dtype=xy.dtype, device=xy.device) * (HIGHEST_FREQUENCY / channels)
    angles = xy[..., None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


def grid_positions(channels: int, like: Tensor) -> Tensor:
    """Sines, then cosines, of the column and of the row of each pixel: (1, channels, height, width)."""
    height, width = like.shape[-2:]
    quarter = channels // 4
    exponents = torch.arange(quarter, dtype=torch.float64, device=like.device) / quarter
    parts = []
    for count, view in ((width, (1, width)), (height, (height, 1))):
        positions = torch.arange(count, dtype=torch.float64, device=like.device)
        angles = POSITION_BASE ** -exponents[:, None] * positions
        parts.append(torch.cat([angles.sin(), angles.cos()]).view(-1, *view).expand(-1, height, width))
    return torch.cat(parts)[None].to(like.dtype)
