"""Matching at 1/8: a map of unit vectors per frame, and evidence about every cell from the similarity of two maps.

Cells are numbered by rows. The centre of cell (row, column) lies at 8 * (column + 0.5), 8 * (row + 0.5) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recon.depth.layers import resize_like

TEMPERATURE = 20.0
REACH = 3  # cells on either side of the best one whose similarity is evidence
EVIDENCE = (2 * REACH + 1) ** 2 + 4  # similarities, expected offset, peak, entropy
PEAK = -2  # channel of the evidence
FIRST_PARTNER = 0


class MatchingMap(nn.Module):
    """Unit vectors for matching, from the stem's map at 1/8 and the upsampled tokens."""

    def __init__(self, eighth: int, dim: int, channels: int) -> None:
        super().__init__()
        self.from_stem = nn.Conv2d(eighth, channels, 1)
        self.from_tokens = nn.Conv2d(dim, channels, 1)
        self.temperature = nn.Parameter(torch.tensor(TEMPERATURE))

    def forward(self, eighth: Tensor, patches: Tensor) -> Tensor:
        """(n, channels, h / 8, w / 8) with mean 0 and length 1 in every cell. patches: (n, dim, h / 16, w / 16)."""
        mixed = (self.from_stem(eighth) + resize_like(self.from_tokens(patches), eighth)).float()
        return functional.normalize(mixed - mixed.mean(1, keepdim=True), dim=1)


def cosines(maps: Tensor, others: Tensor) -> Tensor:
    """Similarity (n, cells, cells of the other) of every cell of maps (n, c, h, w) to every cell of ``others``."""
    with torch.autocast(maps.device.type, enabled=False):
        return maps.float().flatten(2).mT @ others.float().flatten(2)


def dual_softmax(scores: Tensor) -> Tensor:
    """The product of both softmaxes (Rocco 2018) of scores (n, cells, others): high if both prefer each other."""
    return scores.softmax(2) * scores.softmax(1)


def evidence(similarity: Tensor, temperature: Tensor, size: tuple[int, int]) -> Tensor:
    """Evidence (n, EVIDENCE, rows, columns) from similarities (n, cells, cells) of maps of one size (rows, columns).
    Channels: the similarities around the best cell by rows (0 outside), the expected offset x, y in units of the longer
    side, the peak of the dual softmax, and its spread, 0 to 1. No gradient: the maps learn from their own loss.
    """
    with torch.no_grad(), torch.autocast(similarity.device.type, enabled=False):
        dual = dual_softmax(similarity * temperature)
        peak, best = dual.max(2)
        shares = dual / dual.sum(2, keepdim=True).clamp(min=1e-12)
        own = cell_positions(size, similarity.device)
        offset = (shares @ own - own) / max(size)
        entropy = -(shares * (shares + 1e-9).log()).sum(2) / math.log(similarity.shape[2])
        around = look_up(similarity, best, size, REACH)
        cues = torch.cat([around, offset, peak[..., None], entropy[..., None]], 2)
        channels_first: Tensor = cues.mT.unflatten(2, size)
        return channels_first


def cell_positions(size: tuple[int, int], device: torch.device) -> Tensor:
    """Column and row (cells, 2) of every cell, as floats."""
    rows, columns = torch.meshgrid(
        torch.arange(size[0], device=device), torch.arange(size[1], device=device), indexing="ij"
    )
    return torch.stack([columns, rows], -1).flatten(0, 1).float()


def look_up(similarity: Tensor, centre: Tensor, size: tuple[int, int], reach: int) -> Tensor:
    """Similarities (n, cells, window) within ``reach`` cells of ``centre`` (n, cells), by rows; 0 outside the map."""
    steps = torch.arange(-reach, reach + 1, device=similarity.device)
    rows = (centre // size[1])[..., None] + steps
    columns = (centre % size[1])[..., None] + steps
    inside = _within(rows, size[0])[..., :, None] & _within(columns, size[1])[..., None, :]
    index = rows.clamp(0, size[0] - 1)[..., :, None] * size[1] + columns.clamp(0, size[1] - 1)[..., None, :]
    return similarity.gather(2, index.flatten(2)) * inside.flatten(2)


def _within(index: Tensor, size: int) -> Tensor:
    return (index >= 0) & (index < size)


class CorrelationTokens(nn.Module):
    """Turns the evidence from matching a frame with its partners into an addition to its tokens. The last convolution
    starts at zero, so that the trunk starts without this evidence.
    """

    def __init__(self, dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.local = nn.Conv2d(EVIDENCE, hidden, 3, padding=1)
        self.covisible = nn.Conv2d(hidden, 1, 1)
        self.tokens = nn.Conv2d(hidden, dim, 3, stride=2, padding=1)
        nn.init.zeros_(self.tokens.weight)
        nn.init.zeros_(self.tokens.bias)  # type: ignore[arg-type]

    def forward(self, cues: Tensor) -> tuple[Tensor, Tensor]:
        """Additions (n, dim, rows / 2, columns / 2), and logits that the partner sees each cell (n, partners, ...).
        cues: evidence (n, partners, EVIDENCE, rows, columns). Partners count in proportion to how clearly they match.
        """
        partners = cues.shape[:2]
        hidden = functional.relu(self.local(cues.flatten(0, 1)))
        covisible = self.covisible(hidden)[:, 0].unflatten(0, partners)
        peaks = functional.avg_pool2d(cues[:, :, PEAK], 2)[:, :, None] + 1e-6
        tokens = self.tokens(hidden).unflatten(0, partners)
        return (tokens * (peaks / peaks.sum(1, keepdim=True))).sum(1), covisible


def choose_partners(kept: Sequence[int], chunk: Sequence[int], count: int) -> list[list[int]]:
    """For every frame of a chunk, the rows of its partners in ``[*kept, *chunk]``, which hold positions in the
    sequence. Partners are the first frame of the sequence, then the nearest others, earlier ones first; ``count`` or
    all there are.
    """
    known = [*kept, *chunk]

    def rank(frame: int, row: int) -> tuple[bool, int, int]:
        return known[row] != FIRST_PARTNER, abs(known[row] - frame), known[row]

    others = [[row for row in range(len(known)) if known[row] != frame] for frame in chunk]
    return [
        sorted(rows, key=lambda row, frame=frame: rank(frame, row))[:count]  # type: ignore[misc]
        for frame, rows in zip(chunk, others, strict=True)
    ]
