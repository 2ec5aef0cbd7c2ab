"""The transformer that refines tracks (CoTracker, Karaev et al. 2023): attention along time, then across points.

Attention across points goes through a few virtual tracks, so its cost is linear in the number of points. These blocks
differ from those of ``layers``: the skip connection starts after the first norm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recon.network.layers import Mlp

DEPTH = 6
HEADS = 8
MLP_RATIO = 4
VIRTUAL_TRACKS = 64
EPS = 1e-5


class SelfBlock(nn.Module):
    """Tokens attend to each other."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.attn = nn.MultiheadAttention(dim, HEADS, batch_first=True)
        self.mlp = Mlp(dim, MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class CrossBlock(nn.Module):
    """Tokens attend to the tokens of a context."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.norm_context = nn.LayerNorm(dim, eps=EPS)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.cross_attn = nn.MultiheadAttention(dim, HEADS, batch_first=True)
        self.mlp = Mlp(dim, MLP_RATIO * dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x, context = self.norm1(x), self.norm_context(context)
        x = x + self.cross_attn(x, context, context, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class TrackTransformer(nn.Module):
    """Features of tracks to updates of the tracks."""

    def __init__(self, dim: int, hidden: int, output: int) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(dim, eps=EPS)
        self.input_transform = nn.Linear(dim, hidden)
        self.output_norm = nn.LayerNorm(hidden, eps=EPS)
        self.flow_head = nn.Linear(hidden, output)
        self.virual_tracks = nn.Parameter(torch.zeros(1, VIRTUAL_TRACKS, 1, hidden))  # the spelling in the files
        self.time_blocks = nn.ModuleList(SelfBlock(hidden) for _ in range(DEPTH))
        self.space_virtual_blocks = nn.ModuleList(SelfBlock(hidden) for _ in range(DEPTH))
        self.space_point2virtual_blocks = nn.ModuleList(CrossBlock(hidden) for _ in range(DEPTH))
        self.space_virtual2point_blocks = nn.ModuleList(CrossBlock(hidden) for _ in range(DEPTH))

    def forward(self, tracks: Tensor) -> Tensor:
        """(batch, points, frames, dim) to (batch, points, frames, output)."""
        batch, points, frames, _ = tracks.shape
        start = self.input_transform(self.input_norm(tracks))
        tokens = torch.cat([start, self.virual_tracks.expand(batch, -1, frames, -1)], dim=1)
        for depth, time_block in enumerate(self.time_blocks):
            tokens = time_block(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
            tokens = self._across_points(tokens.transpose(1, 2), depth, points).transpose(1, 2)
        return self.flow_head(self.output_norm(tokens[:, :points] + start))

    def _across_points(self, tokens: Tensor, depth: int, points: int) -> Tensor:
        """Attention between the tracks of a frame; tokens: (batch, frames, tracks, hidden)."""
        flat = tokens.flatten(0, 1)
        real, virtual = flat[:, :points], flat[:, points:]
        virtual = self.space_virtual2point_blocks[depth](virtual, real)
        virtual = self.space_virtual_blocks[depth](virtual)
        real = self.space_point2virtual_blocks[depth](real, virtual)
        return torch.cat([real, virtual], dim=1).unflatten(0, tokens.shape[:2])
