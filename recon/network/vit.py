"""DINOv2's vision transformer with registers (Oquab et al. 2023, Darcet et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from recon.network.attention import Backend
from recon.network.config import VitConfig
from recon.network.layers import plain_blocks

EPS = 1e-6


class PatchEmbedding(nn.Module):
    """One token per square patch."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(images, 3, height, width) to (images, rows * columns, dim)."""
        return self.proj(images).flatten(2).transpose(1, 2)


@dataclass(frozen=True, eq=False)
class VitTokens:
    """Normalised output: class_token (images, dim), registers and patches (images, tokens, dim)."""

    class_token: Tensor
    registers: Tensor
    patches: Tensor


class VisionTransformer(nn.Module):
    """Images to tokens."""

    def __init__(self, config: VitConfig, backend: Backend = "torch") -> None:
        super().__init__()
        self.config = config
        dim, patches = config.dim, (config.image_size // config.patch_size) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, dim))
        if config.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))  # in the files, but used in training only
        self.patch_embed = PatchEmbedding(config.patch_size, dim)
        self.blocks = nn.ModuleList(plain_blocks(config, EPS, backend))
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, images: Tensor) -> VitTokens:
        """Normalised images (images, 3, height, width), sides a multiple of the patch size."""
        tokens = self.tokens(images)
        for block in self.blocks:
            tokens = block(tokens)
        first_patch = 1 + self.config.registers
        tokens = self.norm(tokens)
        return VitTokens(tokens[:, 0], tokens[:, 1:first_patch], tokens[:, first_patch:])

    def tokens(self, images: Tensor) -> Tensor:
        """Input of the first block: class token, registers (without a position), patches."""
        count, size = len(images), self.config.patch_size
        grid = (images.shape[-2] // size, images.shape[-1] // size)
        patches = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(count, -1, -1), patches], dim=1)
        tokens = tokens + self.position_embedding(*grid).to(tokens.dtype)
        if not self.config.registers:
            return tokens
        return torch.cat([tokens[:, :1], self.register_tokens.expand(count, -1, -1), tokens[:, 1:]], dim=1)

    def position_embedding(self, rows: int, columns: int) -> Tensor:
        """The stored embedding (1, 1 + rows * columns, dim), resized bicubically in float32 for other grids."""
        side = self.config.image_size // self.config.patch_size
        if (rows, columns) == (side, side):
            return self.pos_embed
        stored = self.pos_embed.float()
        patches = stored[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        if self.config.offset:
            # The factors affect the sampling positions too, not only the size.
            scale = ((rows + self.config.offset) / side, (columns + self.config.offset) / side)
            resized = functional.interpolate(
                patches, scale_factor=scale, mode="bicubic", antialias=self.config.antialias
            )
        else:
            resized = functional.interpolate(
                patches, size=(rows, columns), mode="bicubic", antialias=self.config.antialias
            )
        return torch.cat([stored[:, :1], resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
