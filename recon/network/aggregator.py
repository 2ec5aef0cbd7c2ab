"""Images to tokens: patch embedding, then blocks that attend alternately inside each frame and across frames."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recon.core.errors import SettingsError
from recon.network.attention import Backend
from recon.network.cache import KeysValues
from recon.network.config import AggregatorConfig, BlockKind
from recon.network.descriptors import Offer, offered
from recon.network.layers import Block
from recon.network.layout import FrameLayout, frame_layout
from recon.network.vit import PatchEmbedding, VisionTransformer

IMAGE_MEAN = (0.485, 0.456, 0.406)  # ImageNet's
IMAGE_STD = (0.229, 0.224, 0.225)
EPS = 1e-5
FRAMES_AT_ONCE = 64  # in the patch embedding, where frames are independent; bounds memory


@dataclass(frozen=True, eq=False)
class Embedded:
    """tokens: (batch, frames, tokens, dim) as they enter the first block."""

    tokens: Tensor
    layout: FrameLayout

    def frame_means(self) -> Tensor:
        """One vector per frame (batch, frames, dim), used to choose keyframes."""
        return self.tokens.mean(dim=2)


@dataclass(frozen=True, eq=False)
class Aggregated:
    """levels: tokens (batch, frames, tokens, 2 dim) after the requested blocks, frame block before global block.

    layers: all keys and values that each global block attended to; None for a block that attends inside frames only,
    and for all blocks if nothing is to be remembered.
    """

    layout: FrameLayout
    levels: Mapping[int, Tensor]
    layers: tuple[KeysValues | None, ...]


class Aggregator(nn.Module):
    """VGGT's alternating-attention transformer (section 3.2), optionally with FlashVGGT's descriptors."""

    def __init__(self, config: AggregatorConfig, backend: Backend = "torch") -> None:
        super().__init__()
        self.config = config
        self.patch_embed: PatchEmbedding | VisionTransformer = (
            VisionTransformer(config.vit, backend) if config.vit else PatchEmbedding(config.patch_size, config.dim)
        )
        # Index 0 for the first frame of a sequence, 1 for all others.
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, config.dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, config.registers, config.dim))
        self.frame_blocks = self._blocks(backend)
        self.global_blocks = self._blocks(backend)

    def _blocks(self, backend: Backend) -> nn.ModuleList:
        config = self.config
        return nn.ModuleList(
            Block(
                config.dim,
                config.heads,
                config.mlp_ratio,
                eps=EPS,
                qk_norm=config.qk_norm,
                layer_scale=config.layer_scale,
                backend=backend,
                biases=config.biases,
            )
            for _ in range(config.depth)
        )

    def embed(self, images: Tensor, *, start: bool) -> Embedded:
        """Images (batch, frames, 3, height, width) in 0..1 to tokens. start: whether frame 0 starts the sequence.

        Raises SettingsError if a side is not a positive multiple of the patch size.
        """
        batch, frames, _, height, width = images.shape
        rows, columns = self._grid(height, width)
        parts = images.flatten(0, 1).split(FRAMES_AT_ONCE)
        patches = torch.cat([self._patches(normalised(part)) for part in parts])
        special = torch.cat([self.camera_token, self.register_token], dim=2)
        tokens = with_special_tokens(patches.unflatten(0, (batch, frames)), special, start=start)
        layout = frame_layout(
            special.shape[2],
            rows,
            columns,
            channels=self.config.dim // self.config.heads,
            rope_base=self.config.rope_base,
            like=tokens,
        )
        return Embedded(tokens, layout)

    def _patches(self, images: Tensor) -> Tensor:
        embedded = self.patch_embed(images)
        return embedded if isinstance(embedded, Tensor) else embedded.patches

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        size = self.config.patch_size
        if height % size or width % size or not height or not width:
            raise SettingsError(
                f"The network takes images whose sides are multiples of {size} px, got {width} x {height}. Resize them."
            )
        return height // size, width // size

    def forward(
        self,
        embedded: Embedded,
        offer: Offer,
        *,
        levels: Collection[int],
        past: Sequence[KeysValues | None] = (),
        remember: bool = False,
    ) -> Aggregated:
        """Run all blocks. past: memory of earlier chunks for each global block; empty for the first chunk."""
        tokens, layout, rule = embedded.tokens, embedded.layout, offer.rule
        behind: dict[BlockKind, dict[int, Tensor]] = {"frame": {}, "global": {}}
        layers: list[KeysValues | None] = [None] * self.config.depth
        for kind, layer in self.schedule():
            block = self.frame_blocks[layer] if kind == "frame" else self.global_blocks[layer]
            if kind == "global" and rule.looks_across(layer):
                tokens, seen = across(block, tokens, layout, offer, past[layer] if past else None)
                layers[layer] = seen if remember and rule.remembers else None
            else:
                tokens = block(tokens.flatten(0, 1), layout.turn).unflatten(0, tokens.shape[:2])
            if layer in levels:
                behind[kind][layer] = tokens
        joined = {layer: torch.cat([behind["frame"][layer], behind["global"][layer]], dim=-1) for layer in levels}
        return Aggregated(layout, joined, tuple(layers))

    def schedule(self) -> Iterator[tuple[BlockKind, int]]:
        """Kind and number of all blocks, in order of execution."""
        size = self.config.block_size
        for group in range(0, self.config.depth, size):
            for kind in self.config.order:
                for layer in range(group, group + size):
                    yield kind, layer


def normalised(images: Tensor) -> Tensor:
    """Images (..., 3, height, width) in 0..1, normalised by ImageNet's mean and standard deviation."""
    return (images - images.new_tensor(IMAGE_MEAN).view(3, 1, 1)) / images.new_tensor(IMAGE_STD).view(3, 1, 1)


def with_special_tokens(patches: Tensor, special: Tensor, *, start: bool) -> Tensor:
    """Patch tokens (batch, frames, patches, dim), each frame's special tokens prepended.

    special: (1, 2, tokens, dim), for the first frame of a sequence and for all others. start: whether frame 0 is the
    first.
    """
    batch, frames = patches.shape[:2]
    kinds = torch.ones(frames, dtype=torch.long, device=patches.device)
    kinds[0] = 0 if start else 1
    return torch.cat([special[:, kinds].expand(batch, -1, -1, -1), patches], dim=2)


def across(
    block: nn.Module, tokens: Tensor, layout: FrameLayout, offer: Offer, past: KeysValues | None
) -> tuple[Tensor, KeysValues]:
    """Apply a block whose tokens attend to the keys of all frames of this chunk and before; also returns these keys."""
    assert isinstance(block, Block)
    query, seen = offered(block.attn, block.norm1(tokens), layout, offer)
    if past:
        seen = KeysValues.join([past, seen])
    attended = block.attn.output(query, seen.keys, seen.values)
    return block.finish(tokens, attended.unflatten(1, tokens.shape[1:3])), seen
