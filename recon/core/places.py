"""The seam between the pipeline and whatever recognises places, and what it hands over: loops with their evidence."""

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
    """How submap ``first`` sees submap ``second``, and the evidence.

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
    """Two frames that look alike: ``frame`` among the newest, ``earlier`` long before, and what geometry says.

    edge: None where geometry does not confirm it, with the reason.
    """

    frame: int
    earlier: int
    similarity: float
    edge: LoopEdge | None
    reason: str = ""


@dataclass(frozen=True)
class LoopRecord:
    """A line of the ledger: a candidate and what became of it.

    first, second: submaps of ``earlier`` and ``frame``. inliers, residual: of ``LoopEdge``, 0 without. before, after:
    residual of the edge in standard deviations of the pose graph, before and after its optimisation; 0 without.
    kind: a bridge leads to a piece of the map that is not connected with this one, so no graph can judge it yet.
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
        """Which descriptor recognises, for the report."""
        ...

    def look(self, submap: Submap, frames: Sequence[Frame], read_submap: ReadSubmap) -> Sequence[LoopCandidate]:
        """Remember the places that a new submap adds, and compare them with all before.

        frames: the newly placed ones. read_submap: gives the geometry of earlier submaps' own frames, so that nothing
        of them need be kept in memory. Every candidate's ``frame`` is among ``frames``. A frame that comes again stays
        with the submap that brought it first.
        """
        ...
