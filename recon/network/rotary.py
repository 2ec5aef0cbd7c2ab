"""Rotary position embedding in two dimensions (RoPE, Su et al. 2021; its 2D form in Heo et al. 2024).

The first half of a head's channels rotates with the row of the patch, the second half with its column. In each half,
channel i is paired with the channel a quarter of the head further.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Turn:
    """Cosines and sines (tokens, head channels) of the rotation angles of the tokens of a frame."""

    cos: Tensor
    sin: Tensor

    def at(self, tokens: Tensor) -> Turn:
        """The tables of some of the tokens, given by their indices."""
        return Turn(self.cos[tokens], self.sin[tokens])


def turn_for(positions: Tensor, channels: int, base: float, dtype: torch.dtype) -> Turn:
    """The tables of tokens at ``positions`` (tokens, 2), row before column, for heads of ``channels`` channels.

    Position (0, 0) is not rotated. Angles are computed in float64, and the tables are at least float32: bfloat16 could
    not separate neighbouring patches.
    """
    quarter = channels // 4
    exponents = torch.arange(quarter, dtype=torch.float64, device=positions.device) / quarter
    angles = positions.double()[:, :, None] * base**-exponents  # (tokens, 2, quarter)
    angles = torch.cat([angles, angles], dim=-1).flatten(1)
    kept = torch.promote_types(dtype, torch.float32)
    return Turn(angles.cos().to(kept), angles.sin().to(kept))


def rotate(vectors: Tensor, turn: Turn) -> Tensor:
    """Rotated ``vectors`` (batch, heads, tokens, channels); the tokens are those of whole frames, all rotated alike."""
    frames = vectors.unflatten(2, (-1, len(turn.cos)))
    pairs = frames.unflatten(-1, (2, 2, -1))
    partner = torch.stack([-pairs[..., 1, :], pairs[..., 0, :]], dim=-2).flatten(-3)
    return (frames * turn.cos + partner * turn.sin).flatten(2, 3)
