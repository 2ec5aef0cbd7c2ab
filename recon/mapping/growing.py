"""The map that a run builds chunk by chunk: placement, doubts, loops, adjustment, and the final unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

from recon.core.announcer import Announcer
from recon.core.events import ChunkReconstructed, LoopClosed, Notice, PosesCorrected
from recon.core.places import LoopRecord, PlaceRecogniser
from recon.core.rigs import frames_of_shot, rig_scale
from recon.core.similarity import Sim3
from recon.core.stopwatch import stage
from recon.core.types import Chunk, ChunkGeometry, FrameGeometry, Mount, PlacedFrame, SparsePoints, Submap
from recon.core.workers import Workers
from recon.mapping.correction import Renewed
from recon.mapping.doubts import Doubts, find_doubts, scale_jumps, unjudged, warnings
from recon.mapping.loops import FEWEST_BRIDGES, LoopCloser
from recon.mapping.placement import Piece, Placement
from recon.mapping.world import depth_seen, final_from_grown, moved, moved_points, typical_depth

EXAMINE = "recon.mapping.sanity:examine"
UNIT_OF_RIG = "Lengths are in the unit of the rig file, as the distances between the cameras there say."


class SubmapStore(Protocol):
    """Stores submaps, so that their depth need not stay in memory; see ``MapStore``."""

    def write_submap(
        self, submap: Submap, new_frames: set[int], other_frames: Sequence[FrameGeometry] = ()
    ) -> None: ...

    def read_submap(self, number: int, placed: Mapping[int, PlacedFrame]) -> Mapping[int, FrameGeometry]: ...


class GrowingMap:
    """The poses of everything reconstructed so far. Depth goes to the ``store``, by submap.

    recogniser: finds loops; None to close no loops. If doubts or loops fail, the failure is reported and the map grows
    without them. workers: optimise the pose graph and examine the map.
    """

    def __init__(
        self,
        store: SubmapStore,
        tell: Announcer,
        recogniser: PlaceRecogniser | None = None,
        workers: Workers | None = None,
    ) -> None:
        self._store, self._tell, self._workers = store, tell, workers or Workers()
        self._placement = Placement()
        self._loops = LoopCloser(recogniser, self._workers) if recogniser else None
        self._doubts: dict[int, Doubts] = {}  # by chunk
        self._depths: dict[int, float] = {}  # by frame, see recon.mapping.world
        self._before: dict[int, FrameGeometry] = {}  # of the previous chunk
        self._mounts: dict[int, Mount] = {}  # of the frames of rigs
        self.points = SparsePoints.empty()

    @property
    def frames(self) -> tuple[PlacedFrame, ...]:
        """The placed frames of the largest connected piece, in source order."""
        placed = self._placement.main
        return tuple(placed[index] for index in sorted(placed))

    @property
    def ledger(self) -> tuple[LoopRecord, ...]:
        """Every loop candidate, with its verdict."""
        return self._loops.ledger if self._loops else ()

    @property
    def confirmed_loops(self) -> tuple[tuple[int, int], ...]:
        """See ``LoopCloser.confirmed``."""
        return self._loops.confirmed if self._loops else ()

    def add(self, chunk: Chunk, geometry: ChunkGeometry) -> Submap | None:
        """Place a chunk, store the frames that it adds, and close its loops; None if none of its frames has a pose.

        Raises OutputError.
        """
        self._mounts |= {frame.index: frame.mount for frame in chunk.frames if frame.mount}
        submap = self._place(chunk, geometry) if geometry.frames else None
        self._before = {frame.index: frame for frame in geometry.frames}
        return submap

    def warnings(self) -> dict[int, tuple[str, ...]]:
        """Why parts of the map may be wrong: sentences by chunk."""
        sentences = self._tell.helpers.attempt("doubts", lambda: warnings(list(self._doubts.values()))) or []
        return {number: tuple(found) for number, found in zip(self._doubts, sentences, strict=False)}

    def adjust(self, frames: Sequence[PlacedFrame], points: SparsePoints) -> None:
        """Apply the result of the joint adjustment of all poses."""
        self._placement.replace_main(frames)
        self.points = points

    def renew(self, renewed: Renewed) -> None:
        """Take note of depth that was computed again."""
        self._depths |= renewed.depths
        self._doubts |= renewed.doubts

    def settle(self, earlier: Mapping[int, Sim3]) -> None:
        """Give the map its final frame and unit. earlier: see ``final_from_grown``."""
        placed = self._placement.main
        centres = {index: frame.world_from_cam.translation for index, frame in placed.items()}
        unit = rig_scale(centres, self._mounts)
        change = final_from_grown(placed, self._depths, earlier, unit)
        self.adjust([moved(frame, change) for frame in placed.values()], moved_points(self.points, change))
        self._tell(PosesCorrected(self.frames, self.points))
        if unit:
            self._tell(Notice(UNIT_OF_RIG))

    @property
    def _views(self) -> int:
        return frames_of_shot(self._mounts.values())

    def examine(self) -> tuple[str, ...]:
        """Why to doubt the settled map. Raises InsaneMapError if it is certainly wrong."""
        placed = self._placement.main
        seen = depth_seen(placed, self._depths)
        found = self._workers.call("geometry", EXAMINE, placed, self.points, seen, self._views)
        against = contradiction(self._loops.contradicting, placed) if self._loops else ()
        only = self._doubts.values() if len(self._doubts) == 1 else ()  # a doubtful submap is then the map
        return (*found, *against, *(sentence for doubts in only for sentence in scale_jumps(doubts)))

    def _place(self, chunk: Chunk, geometry: ChunkGeometry) -> Submap:
        pieces = len(self._placement.pieces)
        with stage("alignment"):
            submap, new = self._placement.place(chunk, geometry)
        new_piece = len(self._placement.pieces) > pieces
        doubts = self._judge(chunk, geometry.frames[max(0, len(geometry.frames) - len(new) - 1) :])
        added = {frame.index for frame in new}
        self._depths.update({frame.index: typical_depth(frame) for frame in geometry.frames if frame.index in added})
        if new_piece and pieces:
            self._tell(Notice(f"{_span(chunk)} could not be connected with the frames before; trying again later."))
        self._write(submap, added)
        self._tell(ChunkReconstructed(submap, new, self._placement.first_submap))
        if self._loops is not None:
            self._close_loops(self._loops, submap, chunk, added, doubts=doubts, new_piece=new_piece)
        return submap

    def _judge(self, chunk: Chunk, frames: Sequence[FrameGeometry]) -> Doubts:
        """Doubts about the frames that a chunk adds."""
        found = self._tell.helpers.attempt("doubts", lambda: find_doubts(frames, self._views))
        if found is None:
            return unjudged(frames)
        self._doubts[chunk.index] = found
        return found

    def _write(self, submap: Submap, added: set[int]) -> None:
        """Store a submap, with the shared frames whose geometry differs from the previous chunk's."""
        others = [frame for frame in submap.geometry.frames if frame.index not in added]
        changed = [frame for frame in others if self._before.get(frame.index) is not frame]
        with stage("store"):
            self._store.write_submap(submap, added, changed)

    def _close_loops(
        self, loops: LoopCloser, submap: Submap, chunk: Chunk, added: set[int], *, doubts: Doubts, new_piece: bool
    ) -> None:
        """Look for places seen before, and move all submaps if a loop is closed."""
        known = set(loops.closed)
        extend = partial(
            loops.extend,
            submap,
            [frame for frame in chunk.frames if frame.index in added],
            partial(self._read_submap, self._everywhere()),
            doubts=doubts,
            new_piece=new_piece,
            revised=self._placement.revised,
        )
        with stage("loops"):
            moved_submaps = self._tell.helpers.attempt("loops", extend)
        for line in loops.ledger:
            if line.verdict == "accepted" and (line.earlier, line.frame) not in known:
                self._tell(LoopClosed(line))
        if moved_submaps:
            self._move(moved_submaps, chunk)

    def _everywhere(self) -> Piece:
        """The placed frames of all pieces."""
        return {index: frame for piece in self._placement.pieces for index, frame in piece.items()}

    def _read_submap(self, placed: Piece, number: int) -> Mapping[int, FrameGeometry]:
        return self._store.read_submap(number, placed)

    def _move(self, world_from_submap: Mapping[int, Sim3], chunk: Chunk) -> None:
        pieces = len(self._placement.pieces)
        self._placement.move(world_from_submap)
        if len(self._placement.pieces) < pieces:
            self._tell(Notice(f"{_span(chunk)} connect two parts of the map: they show places seen before."))
        self._tell(PosesCorrected(self.frames, self.points))


def contradiction(loops: Sequence[LoopRecord], placed: Mapping[int, PlacedFrame]) -> tuple[str, ...]:
    """A sentence about loops that agree with each other, and that the map contradicts; none if they are too few."""
    known = [loop for loop in loops if {loop.earlier, loop.frame} <= placed.keys()]
    if len(known) < FEWEST_BRIDGES:
        return ()
    surest = max(known, key=lambda loop: loop.inliers)
    ends = f"{placed[surest.earlier].name} and {placed[surest.frame].name}"
    return (
        f"the path contradicts {len(known)} recognised places that agree with each other, such as {ends}: "
        "either the two places only look alike, or the path between them is wrong",
    )


def _span(chunk: Chunk) -> str:
    return f"Frames {chunk.frames[0].name} to {chunk.frames[-1].name}"
