"""The interface between the pipeline and place recognition, which returns loops with their evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from recon.core.similarity import Sim3
from recon.core.types import Frame, FrameGeometry, Submap

Verdict = Literal["accepted", "rejected", "retracted"]
LoopKind = Literal["loop", "bridge"]
ReadSubmap = Callable[[int], Mapping[int, FrameGeometry]]  # a submap's own frames by index, in its chunk's frame


@dataclass(frozen=True, eq=False)
class LoopEdge:
    """The pose of submap ``second`` as seen from submap ``first``, and the evidence.

    first_from_second: between their chunk frames. inliers: matched features that agree with it. residual: their median
    reprojection error as a share of the image's width.
    """

    first: int
    second: int
    first_from_second: Sim3
    inliers: int
    residual: float


@dataclass(frozen=True, eq=False)
class LoopCandidate:
    """Two frames that look alike, ``frame`` among the newest and ``earlier`` long before, and the geometric check.
    edge: None if geometry does not confirm the pair; ``reason`` then says why.
    """

    frame: int
    earlier: int
    similarity: float
    edge: LoopEdge | None
    reason: str = ""


@dataclass(frozen=True)
class LoopRecord:
    """A line of the ledger: a candidate and its verdict.

    first, second: submaps of ``earlier`` and ``frame``. inliers, residual: of ``LoopEdge``, 0 without. before, after:
    residual of the edge in standard deviations of the pose graph, before and after its optimisation; 0 without.
    kind: a bridge joins two pieces of the map that are not connected yet, so no graph can judge it.
    """

    frame: int
    earlier: int
    first: int
    second: int
    similarity: float
    inliers: int
    residual: float
    before: float
    after: float
    verdict: Verdict
    reason: str
    kind: LoopKind = "loop"


class PlaceRecogniser(Protocol):
    """Finds loops as the map grows."""

    @property
    def name(self) -> str:
        """The descriptor's name, for the report."""
        ...

    def look(self, submap: Submap, frames: Sequence[Frame], read_submap: ReadSubmap) -> Sequence[LoopCandidate]:
        """Add the places of a new submap to memory, and compare them with all earlier ones.

        frames: the newly placed ones. read_submap: reads the geometry of earlier submaps' own frames, so none of it
        stays in memory. Every candidate's ``frame`` is one of ``frames``. A frame that appears again stays with its
        first submap.
        """
        ...
