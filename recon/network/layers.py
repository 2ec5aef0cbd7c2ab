"""The transformer block used in all parts of the network. Parameter names are those of the public files."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from recon.network.attention import Backend, attend
from recon.network.config import CameraHeadConfig, VitConfig
from recon.network.rotary import Turn, rotate


class Mlp(nn.Module):
    """Two linear layers with an exact (erf) GELU between them."""

    def __init__(self, dim: int, hidden: int, output: int, *, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, output, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor per channel (Touvron et al. 2021)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Attention(nn.Module):
    """Multi-head attention with separate projections, for keys that come from other tokens.

    Heads are split as (batch, heads, tokens, channels). With ``qk_norm``, queries and keys are normalised per head
    before the rotation.
    """

    def __init__(
        self, dim: int, heads: int, *, qk_norm: bool, qkv_bias: bool = True, bias: bool = True, backend: Backend
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.backend = dim, heads, backend
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.q_norm: nn.Module = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(dim // heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor, turn: Turn | None = None) -> Tensor:
        """Tokens (batch, tokens, dim) that attend to each other."""
        return self.output(*self.project(x, turn))

    def project(self, x: Tensor, turn: Turn | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the same tokens."""
        query, key, value = self._split(self.qkv(x), 3)
        return self._turned(self.q_norm(query), turn, value), self._turned(self.k_norm(key), turn, value), value

    def queries(self, x: Tensor, turn: Turn | None) -> Tensor:
        """Queries only."""
        bias = None if self.qkv.bias is None else self.qkv.bias[: self.dim]
        (query,) = self._split(functional.linear(x, self.qkv.weight[: self.dim], bias), 1)
        return self._turned(self.q_norm(query), turn, query)

    def keys_values(self, x: Tensor, turn: Turn | None) -> tuple[Tensor, Tensor]:
        """Keys and values only."""
        bias = None if self.qkv.bias is None else self.qkv.bias[self.dim :]
        key, value = self._split(functional.linear(x, self.qkv.weight[self.dim :], bias), 2)
        return self._turned(self.k_norm(key), turn, value), value

    def output(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend, join the heads and project: (batch, queries, dim)."""
        attended = attend(query, key, value, self.backend)
        return self.proj(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        split = x.unflatten(-1, (parts, self.heads, -1))
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    @staticmethod
    def _turned(x: Tensor, turn: Turn | None, like: Tensor) -> Tensor:
        # Under autocast, norms and rotations are float32; attention needs all three in the type of the values.
        return (x if turn is None else rotate(x, turn)).to(like.dtype)


def plain_blocks(config: VitConfig | CameraHeadConfig, eps: float, backend: Backend) -> Iterator[Block]:
    """The blocks of a transformer over one set of tokens, without normalised queries and keys or rotary positions."""
    for _ in range(config.depth):
        yield Block(
            config.dim,
            config.heads,
            config.mlp_ratio,
            eps=eps,
            qk_norm=False,
            layer_scale=config.layer_scale,
            backend=backend,
        )


class Block(nn.Module):
    """Attention and an MLP, each after a LayerNorm and with a skip connection."""

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float,
        *,
        eps: float,
        qk_norm: bool,
        layer_scale: bool,
        backend: Backend,
        biases: tuple[bool, bool, bool] = (True, True, True),
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qk_norm=qk_norm, qkv_bias=biases[0], bias=biases[1], backend=backend)
        self.ls1: nn.Module = LayerScale(dim) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dim, bias=biases[2])
        self.ls2: nn.Module = LayerScale(dim) if layer_scale else nn.Identity()

    def forward(self, x: Tensor, turn: Turn | None = None) -> Tensor:
        """Tokens (batch, tokens, dim) to tokens."""
        return self.finish(x, self.attn(self.norm1(x), turn))

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The part after attention, for callers that attend with other keys."""
        x = x + self.ls1(attended)
        return x + self.ls2(self.mlp(self.norm2(x)))
