"""Anchor frames of a single pass: frame 0 and representatives of clusters of similar frames (FlashVGGT, section 3).

The published code clusters from random starts, so its choice depends on device and precision. Ours is deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recon.core.similarity import Array
from recon.network.eviction import farthest_points

STARTS = 8
ITERATIONS = 100


@dataclass(frozen=True, eq=False)
class Keyframes:
    """indices: (batch, keyframes), frame 0 first, repeats possible. centres: (batch, clusters, dim)."""

    indices: Tensor
    centres: Tensor


def choose_keyframes(frame_tokens: Tensor, every: int, start: Tensor | None = None) -> Keyframes:
    """One keyframe per ``every`` frames, by k-means on the frames' mean tokens (batch, frames, dim), and frame 0.

    Each cluster is represented by the frame nearest to its centre. start: (batch, clusters, dim), initial centres in
    place of ours, for comparisons.
    """
    batch, frames, dim = frame_tokens.shape
    clusters = frames // every
    if clusters <= 1:
        zeros = torch.zeros(batch, 1, dtype=torch.long, device=frame_tokens.device)
        return Keyframes(zeros, frame_tokens.new_zeros(batch, 0, dim))
    points = _as_array(frame_tokens)
    if start is None:
        centres = np.stack([k_means(sequence, clusters) for sequence in points])
    else:
        centres = np.stack([_lloyd(*pair) for pair in zip(points, _as_array(start), strict=True)])
    nearest = np.stack([_distances(*pair).argmin(axis=1) for pair in zip(centres, points, strict=True)])
    indices = np.concatenate([np.zeros((batch, 1), dtype=np.int64), nearest], axis=1)
    return Keyframes(torch.from_numpy(indices).to(frame_tokens.device), torch.from_numpy(centres).to(frame_tokens))


def _as_array(x: Tensor) -> Array:
    return np.asarray(x.detach().double().cpu().numpy())


def k_means(points: Array, clusters: int) -> Array:
    """Centres (clusters, dim) of the tightest clustering that Lloyd's algorithm finds from a few spread-out starts."""
    distances = _distances(points, points)
    firsts = np.unique(np.linspace(0, len(points) - 1, STARTS).round().astype(int))
    solutions = [
        _lloyd(points, points[farthest_points(distances, [first], range(len(points)), clusters)]) for first in firsts
    ]
    return min(solutions, key=lambda centres: float((_distances(points, centres).min(axis=1) ** 2).sum()))


def _lloyd(points: Array, centres: Array) -> Array:
    for _ in range(ITERATIONS):
        nearest = _distances(points, centres).argmin(axis=1)
        moved = np.stack(
            [points[nearest == k].mean(axis=0) if (nearest == k).any() else centres[k] for k in range(len(centres))]
        )
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _distances(a: Array, b: Array) -> Array:
    """Euclidean distances (a, b), without the large difference tensor."""
    squares = (a**2).sum(axis=1)[:, None] - 2 * a @ b.T + (b**2).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(squares, 0)))
