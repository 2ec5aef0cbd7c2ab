"""Matches between two frames for a pose solver: mutual, confident, finer than a cell, in pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from recon.depth.stem import EIGHTH, QUARTER
from recon.lab.compact.matching import cell_positions, dual_softmax

FINE_REACH = 3  # pixels of the map at 1/4 searched on either side


@dataclass(frozen=True, eq=False)
class Matches:
    """first, second: pixels (n, 2), x and y. confidence: (n,) in 0..1, the dual softmax's value."""

    first: Tensor
    second: Tensor
    confidence: Tensor


@dataclass(frozen=True, eq=False)
class MutualCells:
    """first, second: cells (n,) that are each other's best match. confidence: (n,)."""

    first: Tensor
    second: Tensor
    confidence: Tensor


def mutual_cells(scores: Tensor, least: float) -> MutualCells:
    """Mutual matches from scores (cells, others), cosines times temperature, with at least the confidence ``least``."""
    dual = dual_softmax(scores[None])[0]
    confidence, best = dual.max(1)
    back = dual.argmax(0)
    first = torch.arange(len(dual), device=dual.device)
    chosen = (back[best] == first) & (confidence >= least)
    return MutualCells(first[chosen], best[chosen], confidence[chosen])


def cell_centres(cells: Tensor, columns: int) -> Tensor:
    """Pixels (..., 2), x and y, of cells (...) by rows."""
    return (torch.stack([cells % columns, cells // columns], -1) + 0.5) * EIGHTH


def between_cells(scores: Tensor, cells: MutualCells, size: tuple[int, int]) -> Tensor:
    """Pixels (n, 2) of the second cells, moved to the centre of mass of the softmax of the 3x3 cells around them."""
    positions = cell_positions(size, scores.device)
    near = (positions[cells.second][:, None] - positions[None]).abs().amax(2) <= 1
    shares = scores[cells.first].masked_fill(~near, -torch.inf).softmax(1)
    return (shares @ positions + 0.5) * EIGHTH


def refine(first: Tensor, second: Tensor, pixels: Tensor, guesses: Tensor, temperature: Tensor) -> Tensor:
    """Positions of points of the first image in the second, from maps at 1/4: pixels (n, points, 2). first, second:
    unit vectors (n, c, h / 4, w / 4). pixels, guesses: (n, points, 2) in the images. The result is the expected
    position under the softmax of the similarities within FINE_REACH of the guess.
    """
    steps = torch.arange(-FINE_REACH, FINE_REACH + 1, device=first.device, dtype=torch.float32)
    window = torch.stack([steps.repeat(len(steps)), steps.repeat_interleave(len(steps))], -1) * QUARTER
    asked = _sample(first, pixels[:, :, None])
    places = guesses[:, :, None] + window
    shares = ((asked * _sample(second, places)).sum(1) * temperature).softmax(2)
    return guesses + shares @ window


def _sample(maps: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear values (n, c, points, window) of maps at 1/4 at pixels (n, points, window, 2)."""
    extent = maps.new_tensor([maps.shape[3], maps.shape[2]]) * QUARTER
    return functional.grid_sample(maps, 2 * pixels / extent - 1, padding_mode="border", align_corners=False)
