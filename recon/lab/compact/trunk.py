"""The trunk: tokens at 1/16 attend alternately to their own frame and to descriptors of all frames (FlashVGGT)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recon.network.aggregator import EPS, Embedded, across, with_special_tokens
from recon.network.cache import KeysValues
from recon.network.descriptors import Offer
from recon.network.layers import Block, LayerScale
from recon.network.layout import FrameLayout, frame_layout
from recon.network.rotary import Turn

SCALE_AT_START = 0.1  # of every residual branch
TOKEN_DEVIATION = 0.02


@dataclass(frozen=True)
class TrunkConfig:
    """entry: number of frame blocks before the pairs. pairs: number of pairs of a frame block and a block across
    frames. registers: tokens of a frame in addition to its camera token. factor: patches per descriptor along each
    side.
    """

    dim: int = 320
    heads: int = 5
    mlp_ratio: float = 4.0
    registers: int = 4
    entry: int = 2
    pairs: int = 5
    factor: int = 2
    rope_base: float = 100.0


class Trunk(nn.Module):
    """Blocks and special tokens. channels: of the maps from which the patch tokens are made."""

    def __init__(self, config: TrunkConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Linear(channels, config.dim)
        # Index 0 for the first frame of a sequence, 1 for all others.
        self.special = nn.Parameter(TOKEN_DEVIATION * torch.randn(1, 2, 1 + config.registers, config.dim))
        self.entry_blocks = blocks(config, config.entry)
        self.frame_blocks = blocks(config, config.pairs)
        self.global_blocks = blocks(config, config.pairs)

    def embed(self, maps: Tensor, *, start: bool) -> Embedded:
        """Tokens of maps (batch, frames, channels, rows, columns).

        Patches pass through the entry blocks before the special tokens join them; until then they depend on their image
        alone. start: whether frame 0 starts the sequence.
        """
        rows, columns = maps.shape[-2:]
        patches = self.project(maps.flatten(3).transpose(2, 3))
        special = self.special.shape[2]
        layout = frame_layout(
            special,
            rows,
            columns,
            channels=self.config.dim // self.config.heads,
            rope_base=self.config.rope_base,
            like=patches,
        )
        turn = layout.turn_at(torch.arange(special, layout.tokens, device=maps.device))
        for block in self.entry_blocks:
            patches = _inside(block, patches, turn)
        return Embedded(with_special_tokens(patches, self.special, start=start), layout)

    def pair(
        self, number: int, tokens: Tensor, layout: FrameLayout, offer: Offer, past: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        """Tokens after a pair of blocks, and the keys and values of the second block. past: those of earlier chunks."""
        tokens = _inside(self.frame_blocks[number], tokens, layout.turn)
        return across(self.global_blocks[number], tokens, layout, offer, past)


def blocks(config: TrunkConfig, count: int) -> nn.ModuleList:
    """Transformer blocks whose branches start small."""
    made = nn.ModuleList(
        Block(config.dim, config.heads, config.mlp_ratio, eps=EPS, qk_norm=True, layer_scale=True, backend="torch")
        for _ in range(count)
    )
    for module in made.modules():
        if isinstance(module, LayerScale):
            nn.init.constant_(module.gamma, SCALE_AT_START)
    return made


def patch_maps(tokens: Tensor, layout: FrameLayout) -> Tensor:
    """The patch tokens of (batch, frames, tokens, dim) as maps (batch * frames, dim, rows, columns)."""
    patches = tokens[:, :, layout.special :].flatten(0, 1)
    maps: Tensor = patches.transpose(1, 2).unflatten(2, (layout.rows, layout.columns))
    return maps


def _inside(block: nn.Module, tokens: Tensor, turn: Turn | None) -> Tensor:
    """A block whose tokens (batch, frames, tokens, dim) attend to their own frame."""
    seen: Tensor = block(tokens.flatten(0, 1), turn).unflatten(0, tokens.shape[:2])
    return seen
