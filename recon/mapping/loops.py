"""Loop closure while the map grows: candidates enter the pose graph, which corrects submaps, and a ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from recon.core.places import LoopCandidate, LoopEdge, LoopKind, LoopRecord, PlaceRecogniser, ReadSubmap
from recon.core.similarity import Array, Sim3
from recon.core.types import Frame, Submap
from recon.core.workers import Workers
from recon.mapping.doubts import ENOUGH_CARRIED, Doubts
from recon.mapping.posegraph.agreement import largest_agreeing_set
from recon.mapping.posegraph.graph import Edge, EdgeNoise, Optimised, PoseGraph
from recon.mapping.world import median_depth

# gtsam holds the interpreter's lock, so another process calls it.
OPTIMISE, CLOSING_ERROR = "recon.mapping.posegraph.solver:optimise", "recon.mapping.posegraph.solver:closing_error"
MAX_CLOSING_ERROR = 5.0  # standard deviations of the chain's drift; a loop beyond that is a mistake
# Drift from one submap to the next: generous, so that no loop is rejected because the map has drifted a little.
DRIFT_ROTATION = 0.02  # rad
DRIFT_TRANSLATION = 0.03  # of the path within the submap and its scene depth
DRIFT_LOG_SCALE = 0.03
LOST_LOG_SCALE = 1.0  # if nothing carries the scale, as when the camera turns in front of a blank wall
NOTHING_REVISED: Mapping[int, Sim3] = {}
NOTHING_KNOWN = EdgeNoise(100.0, 1e4, 100.0)
OTHER_PIECE = "it leads to a part of the map that is not connected with this one"
OTHER_PLACE = "the loops that connect the two parts of the map contradict it"
FEWEST_BRIDGES = 3  # loops that must agree before two pieces become one
LOOP_ROTATION = 0.01  # rad
LOOP_TRANSLATION = 0.02  # of the scene depth
LOOP_LOG_SCALE = 0.02


@dataclass
class Piece:
    """Connected submaps. loops: row of the ledger and edge."""

    world_from_node: dict[int, Sim3] = field(default_factory=dict)
    chain: list[Edge] = field(default_factory=list)
    loops: list[tuple[int, Edge]] = field(default_factory=list)

    @property
    def graph(self) -> PoseGraph:
        return PoseGraph(self.world_from_node, self.chain, [edge for _, edge in self.loops])

    def joined(self, other: Piece, bridges: Sequence[tuple[int, Edge]]) -> Piece:
        """This piece followed by another one, which ``bridges``, the loops between them, place.

        The first bridge gives the start of the optimisation; the chain between the pieces carries no information.
        """
        _, first = bridges[0]
        seen = self.world_from_node[first.first] @ first.first_from_second
        moved = seen @ other.world_from_node[first.second].inverse()
        placed = {node: moved @ pose for node, pose in other.world_from_node.items()}
        last, start = next(reversed(self.world_from_node)), next(iter(placed))
        link = Edge(last, start, self.world_from_node[last].inverse() @ placed[start], NOTHING_KNOWN)
        chain = [*self.chain, link, *other.chain]
        return Piece(self.world_from_node | placed, chain, [*self.loops, *bridges, *other.loops])


class LoopCloser:
    """The pose graphs of the map's connected pieces, the newest of which grows, and the ledger of the whole run.

    A node of a graph is the camera after the weakest link of a submap, since the map bends there. The chunk frame may
    lie anywhere: chunks that continue each other all share the first one's.
    """

    def __init__(self, recogniser: PlaceRecogniser, workers: Workers | None = None) -> None:
        self._recogniser, self._workers = recogniser, workers or Workers()
        self._piece = Piece()
        self._others: list[Piece] = []
        self._bridges: list[tuple[int, Edge]] = []  # from other pieces to the newest
        self._node_from_chunk: dict[int, Sim3] = {}
        self._bent: list[tuple[int, Edge]] = []  # those that bend the map too much
        self._ledger: list[LoopRecord] = []
        self._depth: dict[int, float] = {}

    @property
    def ledger(self) -> tuple[LoopRecord, ...]:
        """Every candidate so far, in order of appearance, with its current verdict."""
        return tuple(self._ledger)

    @property
    def closed(self) -> tuple[tuple[int, int], ...]:
        """The frames of every loop that is accepted now, the earlier frame first."""
        return tuple((line.earlier, line.frame) for line in self._ledger if line.verdict == "accepted")

    @property
    def confirmed(self) -> tuple[tuple[int, int], ...]:
        """The frames of ``closed``, and of loops to other pieces, which are too few to judge.

        The joint adjustment may connect the pieces there.
        """
        bridges = ((line.earlier, line.frame) for line in self._ledger if line.kind == "bridge")
        return (*self.closed, *bridges)

    @property
    def contradicting(self) -> tuple[LoopRecord, ...]:
        """Loops that agree with each other, although each was rejected because it bends the newest piece too much.

        Either two places look alike, or the path between them is wrong.
        """
        bent = [loop for loop in self._bent if {loop[1].first, loop[1].second} <= self._piece.world_from_node.keys()]
        agreed = agreeing(self._piece, bent) if bent else []
        return tuple(self._ledger[row] for row, _ in agreed) if len(agreed) >= FEWEST_BRIDGES else ()

    def extend(
        self,
        submap: Submap,
        frames: Sequence[Frame],
        read_submap: ReadSubmap,
        *,
        doubts: Doubts,
        new_piece: bool,
        revised: Mapping[int, Sim3] = NOTHING_REVISED,
    ) -> Mapping[int, Sim3]:
        """Add a submap that was just placed; returns the poses of all submaps of its piece if a loop is closed.

        frames: those that the submap adds. doubts: about these. new_piece: it shares nothing with the previous submap.
        revised: new poses of earlier submaps, from this one. The result is empty if nothing changes. Loops that agree
        may join the piece with another one; the result then holds the submaps of both.
        """
        self._revise(revised)
        self._append(submap, doubts, new_piece=new_piece)
        candidates = self._recogniser.look(submap, frames, read_submap)
        loops, bridges = len(self._piece.loops), len(self._bridges)
        for candidate in candidates:
            self._enter(candidate)
        joined = self._join() if len(self._bridges) > bridges else {}
        return joined or (self._optimise() if len(self._piece.loops) > loops else {})

    def _revise(self, world_from_submap: Mapping[int, Sim3]) -> None:
        """Apply re-estimated poses, and update the chain's edges at these submaps."""
        poses, chain = self._piece.world_from_node, self._piece.chain
        poses.update(
            {
                number: pose @ self._node_from_chunk[number].inverse()
                for number, pose in world_from_submap.items()
                if number in poses
            }
        )
        for row, edge in enumerate(chain):
            if edge.first in world_from_submap or edge.second in world_from_submap:
                chain[row] = replace(edge, first_from_second=poses[edge.first].inverse() @ poses[edge.second])

    def _append(self, submap: Submap, doubts: Doubts, *, new_piece: bool) -> None:
        self._depth[submap.index] = median_depth(submap.geometry.frames)
        node_from_chunk = Sim3.from_matrix(pose_of(doubts.carried_frame, submap))
        world_from_node = submap.world_from_chunk @ node_from_chunk.inverse()
        if new_piece and self._piece.world_from_node:
            self._others.append(self._piece)
            self._piece, self._bridges = Piece(), []
        elif self._piece.world_from_node:
            last, pose = next(reversed(self._piece.world_from_node.items()))
            noise = drift(submap, doubts, self._depth[submap.index])
            self._piece.chain.append(Edge(last, submap.index, pose.inverse() @ world_from_node, noise))
        self._node_from_chunk[submap.index] = node_from_chunk
        self._piece.world_from_node[submap.index] = world_from_node

    def _enter(self, candidate: LoopCandidate) -> None:
        """Record a candidate in the ledger and, if it may be right, as a loop or as a bridge to another piece."""
        edge, reason, before = candidate.edge, candidate.reason, 0.0
        kind: LoopKind = "loop"
        row = len(self._ledger)
        if edge is not None and edge.first not in self._piece.world_from_node:
            reason, kind = OTHER_PIECE, "bridge"
            self._bridges.append((row, self._as_edge(edge)))
        elif edge is not None:
            loop = self._as_edge(edge)
            before = self._workers.call("loops", CLOSING_ERROR, self._stretch(loop))
            if before > MAX_CLOSING_ERROR:
                reason = f"it bends the map by {before:.0f} standard deviations of its drift"
                self._bent.append((row, loop))
            else:
                self._piece.loops.append((row, loop))
        self._ledger.append(replace(record(candidate, before, reason), kind=kind))

    def _as_edge(self, edge: LoopEdge) -> Edge:
        noise = EdgeNoise(LOOP_ROTATION, LOOP_TRANSLATION * self._depth[edge.second], LOOP_LOG_SCALE)
        ends = self._node_from_chunk[edge.first], self._node_from_chunk[edge.second]
        return Edge(edge.first, edge.second, ends[0] @ edge.first_from_second @ ends[1].inverse(), noise)

    def _stretch(self, loop: Edge) -> PoseGraph:
        """The part of the chain that a loop spans, with the loop."""
        nodes = list(self._piece.world_from_node)
        first, second = sorted((nodes.index(loop.first), nodes.index(loop.second)))
        poses = {node: self._piece.world_from_node[node] for node in nodes[first : second + 1]}
        return PoseGraph(poses, self._piece.chain[first:second], [loop])

    def _optimise(self) -> Mapping[int, Sim3]:
        """Optimise the graph, judge all its loops again, and return the poses of the submaps."""
        return self._settle(self._optimised(self._piece.graph))

    def _optimised(self, graph: PoseGraph) -> Optimised:
        found: Optimised = self._workers.call("loops", OPTIMISE, graph)
        return found

    def _settle(self, found: Optimised) -> Mapping[int, Sim3]:
        """Apply the result of an optimisation of the newest piece."""
        for number, (row, _) in enumerate(self._piece.loops):
            self._ledger[row] = judged(self._ledger[row], found, number)
        self._piece.world_from_node = dict(found.world_from_submap)
        if found.refused:
            return {}
        return {number: pose @ self._node_from_chunk[number] for number, pose in found.world_from_submap.items()}

    def _join(self) -> Mapping[int, Sim3]:
        """Connect the newest piece with another one if enough loops to it agree on their relative pose.

        Here no chain contradicts a wrong loop, so one loop is not enough. Returns the poses of the submaps of both.
        """
        for other in self._others:
            bridges = [bridge for bridge in self._bridges if bridge[1].first in other.world_from_node]
            agreed = agreeing(other.joined(self._piece, bridges), bridges) if bridges else []
            if len(agreed) < FEWEST_BRIDGES:
                continue
            joined = other.joined(self._piece, agreed)
            found = self._optimised(joined.graph)
            if found.refused:
                continue
            for row, _ in bridges:  # those that agreed are judged below
                self._ledger[row] = replace(self._ledger[row], reason=OTHER_PLACE, kind="loop")
            self._others.remove(other)
            self._bridges = [bridge for bridge in self._bridges if bridge not in bridges]
            self._piece = joined
            return self._settle(found)
        return {}


def agreeing(piece: Piece, loops: Sequence[tuple[int, Edge]]) -> list[tuple[int, Edge]]:
    """The largest set of loops that agree with each other, such as bridges on the relative pose of two pieces."""
    graph = PoseGraph(piece.world_from_node, piece.chain, [edge for _, edge in loops])
    return [loops[row] for row in largest_agreeing_set(graph)]


def record(candidate: LoopCandidate, before: float, reason: str) -> LoopRecord:
    """The ledger's line for a candidate that the pose graph has not judged yet; a ``reason`` rejects it."""
    edge = candidate.edge
    return LoopRecord(
        frame=candidate.frame,
        earlier=candidate.earlier,
        first=edge.first if edge else -1,
        second=edge.second if edge else -1,
        similarity=candidate.similarity,
        inliers=edge.inliers if edge else 0,
        residual=edge.residual if edge else 0.0,
        before=before,
        after=0.0,
        verdict="rejected" if reason or edge is None else "accepted",
        reason=reason,
    )


def judged(line: LoopRecord, found: Optimised, number: int) -> LoopRecord:
    """A loop's line after an optimisation, in which it is loop ``number``."""
    after = found.residuals[number]
    if found.refused:
        return replace(line, after=after, verdict="retracted", reason=found.refused)
    if number in found.rejected:
        reason = f"it contradicts the rest of the map by {after:.0f} standard deviations"
        return replace(line, after=after, verdict="retracted", reason=reason)
    return replace(line, after=after, verdict="accepted", reason="", kind="loop")


def pose_of(index: int, submap: Submap) -> Array:
    """cam_from_chunk (4, 4) of a frame of a submap."""
    return next(frame.cam_from_chunk for frame in submap.geometry.frames if frame.index == index)


def drift(submap: Submap, doubts: Doubts, depth: float) -> EdgeNoise:
    """Expected error of a submap relative to the previous one. depth: median depth of its scene, in its own unit.

    It grows with the camera's path in the submap and with the residual of the shared frames. It also grows if the depth
    shows that the scale has jumped, or may have jumped unnoticed: then only loops can correct it.
    """
    centres = np.array([np.linalg.inv(frame.cam_from_chunk)[:3, 3] for frame in submap.geometry.frames])
    way = float(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum())
    residual = submap.residual
    lost = LOST_LOG_SCALE if doubts.carried < ENOUGH_CARRIED else 0.0
    return EdgeNoise(
        rotation=DRIFT_ROTATION + residual,
        translation=(DRIFT_TRANSLATION + residual) * (way + depth),
        log_scale=DRIFT_LOG_SCALE + residual + doubts.scale_jump + lost,
    )
