"""LighterGlue: LightGlue (Lindenberger et al., ICCV 2023, arXiv 2306.13643) at the size that XFeat's authors trained.

Points of two images exchange information in six layers, each by attention within an image and then between the images.
Points that hardly can have a match leave the later layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from recon.core.errors import WeightsError
from recon.network.checkpoints import Checkpoint, differences
from recon.network.xfeat import DIM

WIDTH, LAYERS = 96, 6
PREFIX = "matcher."  # of the tensors that belong to the matcher in the public file, which also holds XFeat
LEFT_OUT = "token_confidence."  # ends the work early on easy pairs; the published settings do without
OWN = f"{PREFIX}posenc.Wr.weight"
HOPELESS = 0.05  # matchability of points that leave
ENOUGH = 0.1  # probability of a match


@dataclass(frozen=True, eq=False)
class Points:
    """positions: (n, 2), x and y from the middle of the image in halves of its longer side. descriptors: (n, 64)."""

    positions: Tensor
    descriptors: Tensor


@dataclass(frozen=True, eq=False)
class _State:
    """Points inside the network. vectors: (n, 96). turns: (n, 48), complex, the rotary encoding of their positions.
    rows: (n,), among the points of the image.
    """

    vectors: Tensor
    turns: Tensor
    rows: Tensor

    def at(self, kept: Tensor) -> _State:
        return _State(self.vectors[kept], self.turns[kept], self.rows[kept])


def _perceptron() -> nn.Sequential:
    both = 2 * WIDTH
    return nn.Sequential(nn.Linear(both, both), nn.LayerNorm(both), nn.GELU(), nn.Linear(both, WIDTH))


def _updated(vectors: Tensor, message: Tensor, perceptron: nn.Module) -> Tensor:
    """Vectors (n, 96) with what follows from them and a message (n, 96)."""
    return vectors + perceptron(torch.cat([vectors, message], dim=-1))


class _SelfAttention(nn.Module):
    """Attention among the points of one image; queries and keys turn with the position."""

    def __init__(self) -> None:
        super().__init__()
        self.Wqkv, self.out_proj, self.ffn = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), _perceptron()

    def forward(self, state: _State) -> Tensor:
        query, key, value = self.Wqkv(state.vectors).unflatten(-1, (WIDTH, 3)).unbind(-1)
        query, key = (_turned(vectors, state.turns) for vectors in (query, key))
        message = functional.scaled_dot_product_attention(query[None], key[None], value[None])[0]
        return _updated(state.vectors, self.out_proj(message), self.ffn)


class _CrossAttention(nn.Module):
    """Attention between the points of two images: one similarity serves both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qk, self.to_v, self.to_out = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.ffn = _perceptron()

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        similarity = self.to_qk(first) @ self.to_qk(second).T * WIDTH**-0.5
        to_first = similarity.softmax(1) @ self.to_v(second)
        to_second = similarity.T.softmax(1) @ self.to_v(first)
        messages = self.to_out(to_first), self.to_out(to_second)
        return _updated(first, messages[0], self.ffn), _updated(second, messages[1], self.ffn)


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.cross_attn = _SelfAttention(), _CrossAttention()

    def forward(self, first: _State, second: _State) -> tuple[Tensor, Tensor]:
        vectors: tuple[Tensor, Tensor] = self.cross_attn(self.self_attn(first), self.self_attn(second))
        return vectors


class _Assignment(nn.Module):
    """How likely points are to have a match, and which."""

    def __init__(self) -> None:
        super().__init__()
        self.matchability, self.final_proj = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, WIDTH)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Probabilities (n1, n2) that two points match."""
        similarity = self.final_proj(first) @ self.final_proj(second).T * WIDTH**-0.5
        each = _matchable(self.matchability, first)[:, None] * _matchable(self.matchability, second)
        return similarity.softmax(0) * similarity.softmax(1) * each


def _matchable(layer: nn.Module, vectors: Tensor) -> Tensor:
    """Probabilities (n,) that points have a match."""
    probability: Tensor = layer(vectors)[:, 0].sigmoid()
    return probability


class _Frequencies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.Wr = nn.Linear(2, WIDTH // 2, bias=False)

    def forward(self, positions: Tensor) -> Tensor:
        angles = self.Wr(positions)
        return torch.polar(torch.ones_like(angles), angles)


class LighterGlue(nn.Module):
    """Matches the points of two images. Parameter names are those of the public file."""

    def __init__(self) -> None:
        super().__init__()
        self.input_proj, self.posenc = nn.Linear(DIM, WIDTH), _Frequencies()
        self.transformers = nn.ModuleList(_Layer() for _ in range(LAYERS))
        self.log_assignment = nn.ModuleList(_Assignment() for _ in range(LAYERS))

    def forward(self, first: Points, second: Points) -> tuple[Tensor, Tensor]:
        """Matched rows (m, 2) and the probabilities (m,) of their matches."""
        a, b = self._start(first), self._start(second)
        for number, (transformer, assignment) in enumerate(zip(self.transformers, self.log_assignment, strict=True)):
            if not len(a.rows) or not len(b.rows):
                return a.rows.new_zeros((0, 2)), a.vectors.new_zeros(0)
            vectors = transformer(a, b)
            a, b = _State(vectors[0], a.turns, a.rows), _State(vectors[1], b.turns, b.rows)
            if number < LAYERS - 1:
                layer = assignment.get_submodule("matchability")
                a, b = (state.at(_matchable(layer, state.vectors) > HOPELESS) for state in (a, b))
        found, probabilities = _mutual(self.log_assignment[-1](a.vectors, b.vectors))
        return torch.stack([a.rows[found[:, 0]], b.rows[found[:, 1]]], dim=1), probabilities

    def _start(self, points: Points) -> _State:
        rows = torch.arange(len(points.positions), device=points.positions.device)
        return _State(self.input_proj(points.descriptors), self.posenc(points.positions), rows)


def _turned(vectors: Tensor, turns: Tensor) -> Tensor:
    """Vectors (n, 96), of which every two neighbouring values turn by an angle."""
    return torch.view_as_real(torch.view_as_complex(vectors.unflatten(-1, (-1, 2)).contiguous()) * turns).flatten(-2)


def _mutual(probability: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (m, 2) that are each other's likeliest partners, and their probabilities (m,), those above ENOUGH."""
    best, partner = probability.max(dim=1)
    rows = torch.arange(len(best), device=best.device)
    kept = (probability.argmax(dim=0)[partner] == rows) & (best > ENOUGH)
    return torch.stack([rows, partner], dim=1)[kept], best[kept]


def load_lighterglue(checkpoint: Checkpoint) -> LighterGlue:
    """The network in evaluation mode. Raises WeightsError, naming the differences, for another network's file."""
    own = {name.removeprefix(PREFIX): x for name, x in checkpoint.tensors.items() if name.startswith(PREFIX)}
    tensors = {name: x for name, x in own.items() if not name.startswith(LEFT_OUT)}
    network = LighterGlue()
    wrong = differences({name: tuple(x.shape) for name, x in tensors.items()}, network)
    if wrong.count:
        raise WeightsError(f"{checkpoint.path} does not fit LighterGlue; tensors: {wrong}. Use the published file.")
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)


def verify_lighterglue(checkpoint: Checkpoint) -> str:
    """What a file is, for ``recon.network.architectures``. Raises WeightsError if its tensors do not fit."""
    load_lighterglue(checkpoint)
    return "LighterGlue, for matching XFeat"
