"""Nodes, edges and their noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from recon.core.similarity import Sim3


@dataclass(frozen=True)
class EdgeNoise:
    """Standard deviations of an edge: rotation [rad], translation [unit of the edge's second submap], log of scale."""

    rotation: float
    translation: float
    log_scale: float

    def __post_init__(self) -> None:
        if not min(self.rotation, self.translation, self.log_scale) > 0:
            raise ValueError(f"standard deviations must be positive, got {self}")


@dataclass(frozen=True, eq=False)
class Edge:
    """The relative pose of two submaps, ``second`` as seen from ``first``, by their ids."""

    first: int
    second: int
    first_from_second: Sim3
    noise: EdgeNoise

    def __post_init__(self) -> None:
        if self.first == self.second:
            raise ValueError(f"an edge joins two submaps, got {self.first} twice")


@dataclass(frozen=True, eq=False)
class PoseGraph:
    """world_from_submap: the estimated pose of every submap, in the order of the chain.

    chain: edges between consecutive submaps. loops: edges between others, some of which may be wrong.
    Raises ValueError for an edge to a submap without a pose, two edges of the chain between the same submaps, and a
    submap that the chain does not reach.
    """

    world_from_submap: Mapping[int, Sim3]
    chain: Sequence[Edge]
    loops: Sequence[Edge]

    def __post_init__(self) -> None:
        strangers = {n for e in (*self.chain, *self.loops) for n in (e.first, e.second)} - set(self.world_from_submap)
        if strangers:
            raise ValueError(f"edges lead to submaps without a pose: {sorted(strangers)}")
        order = list(self.world_from_submap)
        expected = list(pairwise(order))
        if [(edge.first, edge.second) for edge in self.chain] != expected:
            raise ValueError("the chain must join every submap to the next, once and in order")


@dataclass(frozen=True, eq=False)
class Optimised:
    """The result of an optimisation.

    world_from_submap: corrected, with the first submap fixed; the input's if the result was ``refused``. error_before,
    error_after: half the sum of squared residuals in standard deviations over the chain and the accepted loops.
    residuals: of every loop after the optimisation, in standard deviations. rejected: rows of ``PoseGraph.loops`` that
    contradict the rest. refused: why nothing was changed; empty otherwise.
    """

    world_from_submap: Mapping[int, Sim3]
    error_before: float
    error_after: float
    iterations: int
    residuals: tuple[float, ...]
    rejected: tuple[int, ...]
    refused: str = ""
