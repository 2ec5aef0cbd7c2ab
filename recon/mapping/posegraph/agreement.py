"""Which loops agree with each other: pairwise consistent measurement sets (Mangelson et al., ICRA 2018).

Two loops and the two stretches of the chain between their ends form a cycle. The noise of its parts, which grows with
the length of the stretches, must explain the error with which the cycle closes. A wrong loop agrees with almost no
other, a right one with all other right ones, so the largest set in which all agree is right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recon.core.similarity import Array
from recon.mapping.posegraph.graph import Edge, PoseGraph

STARTS = 32
MAX_CHI_SQUARED = 18.5  # 99% of right cycles stay below, with 7 degrees of freedom


def largest_agreeing_set(graph: PoseGraph) -> list[int]:
    """Rows of the graph's loops that all agree with each other, in ascending order."""
    return largest_clique(agreement(graph))


def agreement(graph: PoseGraph) -> NDArray[np.bool_]:
    """Which loops agree with which: (loops, loops), symmetric."""
    chain = _Chain(graph)
    count = len(graph.loops)
    agrees = np.eye(count, dtype=bool)
    for row in range(count):
        others = np.arange(row + 1, count)
        agrees[row, others] = agrees[others, row] = chain.chi_squared(row, others) <= MAX_CHI_SQUARED
    return agrees


def largest_clique(adjacent: NDArray[np.bool_]) -> list[int]:
    """A largest clique, by the paper's greedy search from every node, or from the STARTS nodes with most neighbours.

    Each step takes the candidate with the most neighbours among the candidates; the first if several have as many. The
    search skips start nodes with too few neighbours to beat the best set so far, and updates the counts of neighbours
    incrementally: a place that is always in view has hundreds of loops, nearly all of which agree.
    """
    best: list[int] = []
    neighbours = adjacent.sum(axis=1)  # with the node itself
    for start in sorted(np.argsort(-neighbours, kind="stable")[:STARTS].tolist()):
        if neighbours[start] > len(best):
            best = max(best, _clique_from(start, adjacent), key=len)
    return sorted(best)


def _clique_from(start: int, adjacent: NDArray[np.bool_]) -> list[int]:
    clique, candidates = [start], adjacent[start].copy()
    candidates[start] = False
    degree = adjacent[:, candidates].sum(axis=1)
    while candidates.any():
        chosen = int(np.where(candidates, degree, -1).argmax())
        clique.append(chosen)
        gone = candidates & ~adjacent[chosen]
        gone[chosen] = True
        candidates &= ~gone
        degree -= adjacent[:, gone].sum(axis=1)
    return clique


class _Chain:
    """Poses, loops and noise of a graph as arrays, so that one loop is compared with many at once."""

    def __init__(self, graph: PoseGraph) -> None:
        rows = {node: row for row, node in enumerate(graph.world_from_submap)}
        poses = np.array([pose.matrix() for pose in graph.world_from_submap.values()])
        self._first = np.array([rows[edge.first] for edge in graph.loops], dtype=np.int64)
        self._second = np.array([rows[edge.second] for edge in graph.loops], dtype=np.int64)
        self._inverse = np.linalg.inv(poses)
        self._poses = poses
        self._loops = np.array([edge.first_from_second.matrix() for edge in graph.loops]).reshape(-1, 4, 4)
        self._scales = np.cbrt(np.linalg.det(poses[:, :3, :3]))
        self._loop_noise = _variances(graph.loops)
        self._sums = self._running_sums(_variances(graph.chain))

    def _running_sums(self, variances: Array) -> Array:
        """Sums (submaps, 8) over the chain up to each submap; their differences are the sums over any stretch.

        Columns: variance of rotation, of translation in the world, of log scale, and the joint variance of rotation and
        scale times 1, x, y, z, |position|^2: a rotation at one place moves another in proportion to its distance.
        """
        position, scale = self._poses[1:, :3, 3], self._scales[1:]
        rotation, translation, log_scale = variances.T
        turning = rotation + log_scale
        moments = np.column_stack([np.ones(len(position)), position, (position**2).sum(axis=1)]) * turning[:, None]
        steps = np.column_stack([rotation, translation * scale**2, log_scale, moments])
        return np.vstack([np.zeros((1, 8)), np.cumsum(steps, axis=0)])

    def chi_squared(self, row: int, others: NDArray[np.int64]) -> Array:
        """Squared closing error of the cycles through loop ``row`` and each of ``others``, relative to their noise."""
        a, b, c, d = self._first[row], self._second[row], self._first[others], self._second[others]
        there = self._inverse[b] @ self._poses[d]
        back = self._inverse[c] @ self._poses[a]
        circle = self._loops[row] @ there @ np.linalg.inv(self._loops[others]) @ back
        rotation, translation, log_scale = _deviations(circle)
        variance = self._loop_noise[row] * _in_world(self._scales[b])
        variance = variance + self._loop_noise[others] * _in_world(self._scales[d])
        for start, end in ((b, d), (c, a)):
            variance = variance + self._stretch(start, end, self._poses[a, :3, 3])
        in_world = translation * self._scales[a]
        return np.asarray(
            rotation**2 / variance[..., 0] + in_world**2 / variance[..., 1] + log_scale**2 / variance[..., 2]
        )

    def _stretch(self, start: NDArray[np.int64], end: NDArray[np.int64], seen_from: Array) -> Array:
        """Variances (n, 3) of rotation, translation in the world at ``seen_from``, and log scale of stretches."""
        sums = self._sums[np.maximum(start, end)] - self._sums[np.minimum(start, end)]
        lever = sums[..., 7] - 2 * sums[..., 4:7] @ seen_from + sums[..., 3] * (seen_from @ seen_from)
        return np.stack([sums[..., 0], sums[..., 1] + np.maximum(lever, 0), sums[..., 2]], axis=-1)


def _variances(edges: Sequence[Edge]) -> Array:
    """(edges, 3): of rotation, translation and log scale."""
    noise = [(e.noise.rotation, e.noise.translation, e.noise.log_scale) for e in edges]
    return np.array(noise, dtype=np.float64).reshape(-1, 3) ** 2


def _in_world(scale: Array) -> Array:
    """Factors (..., 3) that convert variances from a submap's unit to that of the world."""
    one = np.ones_like(scale)
    return np.stack([one, scale**2, one], axis=-1)


def _deviations(matrices: Array) -> tuple[Array, Array, Array]:
    """How far similarities (n, 4, 4) are from the identity: angle [rad], translation, |log scale|."""
    linear = matrices[:, :3, :3]
    scale = np.cbrt(np.linalg.det(linear))
    cosine = (np.trace(linear, axis1=1, axis2=2) / scale - 1) / 2
    return np.arccos(np.clip(cosine, -1, 1)), np.linalg.norm(matrices[:, :3, 3], axis=1), np.abs(np.log(scale))
