"""The stream as first published by FlashVGGT, to compare results and cost; nothing else uses it.

It remembers normalised descriptor tokens and projects, normalises and rotates all of them again in every chunk.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from recon.network.aggregator import Aggregated
from recon.network.config import DescriptorsV1
from recon.network.descriptors import resize_patches
from recon.network.layers import Block
from recon.network.layout import FrameLayout
from recon.network.model import GeometryNetwork


class PublishedStream:
    """One stream under rule v1 with a factor above 1; its memory grows without limit."""

    def __init__(self, network: GeometryNetwork, rule: DescriptorsV1, drop_rate: int = 1) -> None:
        self._aggregator, self._rule, self._drop_rate = network.aggregator, rule, drop_rate
        depth = network.config.aggregator.depth
        self._tokens: list[list[Tensor]] = [[] for _ in range(depth)]  # per global block, one part per chunk
        self._places: list[list[Tensor]] = [[] for _ in range(depth)]  # the same tokens' positions inside their frames

    def step(self, images: Tensor, levels: Collection[int]) -> Aggregated:
        """Tokens of the next chunk (batch, frames, 3, height, width)."""
        start = not self._tokens[0]
        embedded = self._aggregator.embed(images, start=start)
        tokens, layout = embedded.tokens, embedded.layout
        behind: dict[int, list[Tensor]] = {level: [] for level in levels}
        for kind, layer in self._aggregator.schedule():
            if kind == "frame":
                block = self._aggregator.frame_blocks[layer]
                tokens = block(tokens.flatten(0, 1), layout.turn).unflatten(0, tokens.shape[:2])
            else:
                tokens = self._global(layer, tokens, layout, start=start)
            if layer in behind:
                behind[layer].append(tokens)
        return Aggregated(layout, {level: torch.cat(parts, dim=-1) for level, parts in behind.items()}, ())

    def _global(self, layer: int, tokens: Tensor, layout: FrameLayout, *, start: bool) -> Tensor:
        block = self._aggregator.global_blocks[layer]
        assert isinstance(block, Block)
        normed = block.norm1(tokens)
        self._remember(layer, normed, layout, start=start)
        remembered, places = torch.cat(self._tokens[layer], dim=1), torch.cat(self._places[layer])
        key, value = block.attn.keys_values(remembered, layout.turn_at(places))
        query = block.attn.queries(normed.flatten(1, 2), layout.turn)
        return block.finish(tokens, block.attn.output(query, key, value).unflatten(1, tokens.shape[1:3]))

    def _remember(self, layer: int, normed: Tensor, layout: FrameLayout, *, start: bool) -> None:
        if start:
            self._tokens[layer].append(normed[:, 0, layout.special :])
            self._places[layer].append(torch.arange(layout.special, layout.tokens, device=normed.device))
        descriptors = resize_patches(normed[:, :: self._drop_rate], layout, self._rule.factor)
        self._tokens[layer].append(descriptors.flatten(1, 2))
        sampled = layout.sampled(self._rule.factor, normed.device)
        self._places[layer].append(sampled.repeat(descriptors.shape[1]))
