"""Closing loops as the map grows: candidates into the pose graph, corrected submaps out, and a ledger of verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from recon.doubts import ENOUGH_CARRIED, Doubts
from recon.placement import median_depth
from recon.places import LoopCandidate, LoopEdge, LoopRecord, PlaceRecogniser, ReadSubmap
from recon.posegraph.graph import Edge, EdgeNoise, Optimised, PoseGraph
from recon.posegraph.solver import closing_error, optimise
from recon.similarity import Array, Sim3
from recon.types import Frame, Submap

MAX_CLOSING_ERROR = 5.0  # standard deviations of the chain's drift beyond which a loop is no drift but a mistake
# Drift from one submap to the next: generous, for a loop must never be refused because a map has drifted a little.
DRIFT_ROTATION = 0.02  # rad
DRIFT_TRANSLATION = 0.03  # of the way within the submap and its depth of scene
DRIFT_LOG_SCALE = 0.03
LOST_LOG_SCALE = 1.0  # where nothing carries the scale, as when the camera turns before a blank wall
OTHER_PIECE = "it leads to a part of the map that is not connected with this one"
NOTHING_REVISED: Mapping[int, Sim3] = {}
LOOP_ROTATION = 0.01  # rad
LOOP_TRANSLATION = 0.02  # of the depth of scene
LOOP_LOG_SCALE = 0.02


class LoopCloser:
    """The pose graph of the newest connected piece of the map, and the ledger of the whole run.

    A node of the graph is the camera behind the weakest link of a submap, for there it bends. The frame of its chunk
    may lie anywhere: chunks that continue each other all share the first one's.
    """

    def __init__(self, recogniser: PlaceRecogniser) -> None:
        self._recogniser = recogniser
        self._world_from_node: dict[int, Sim3] = {}
        self._node_from_chunk: dict[int, Sim3] = {}
        self._chain: list[Edge] = []
        self._loops: list[tuple[int, Edge]] = []  # row of the ledger, edge
        self._ledger: list[LoopRecord] = []
        self._depth: dict[int, float] = {}

    @property
    def ledger(self) -> tuple[LoopRecord, ...]:
        """Every candidate so far, in the order in which they came up, with the verdict as it is now."""
        return tuple(self._ledger)

    @property
    def confirmed(self) -> tuple[tuple[int, int], ...]:
        """The frames of every loop that holds as it is now, the earlier one first, and of those between two pieces.

        No graph tells whether the latter are true, but they are where the joint adjustment can connect the pieces.
        """
        return tuple(
            (line.earlier, line.frame)
            for line in self._ledger
            if line.verdict == "accepted" or line.reason == OTHER_PIECE
        )

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
        """Take in a submap that was just placed; returns where all submaps of its piece lie once a loop is closed.

        frames: those that the submap adds. doubts: about these. new_piece: it shares nothing with the submap before.
        revised: earlier submaps that it sees elsewhere than they lay. The result is empty where nothing changes.
        """
        self._revise(revised)
        self._append(submap, doubts, new_piece=new_piece)
        candidates = self._recogniser.look(submap, frames, read_submap)
        closed = sum(self._enter(candidate) for candidate in candidates)
        return self._optimise() if closed else {}

    def _revise(self, world_from_submap: Mapping[int, Sim3]) -> None:
        """Take over poses that were estimated anew, and with them the edges of the chain that touch them."""
        poses = self._world_from_node
        poses.update(
            {
                number: pose @ self._node_from_chunk[number].inverse()
                for number, pose in world_from_submap.items()
                if number in poses
            }
        )
        for row, edge in enumerate(self._chain):
            if edge.first in world_from_submap or edge.second in world_from_submap:
                self._chain[row] = replace(edge, first_from_second=poses[edge.first].inverse() @ poses[edge.second])

    def _append(self, submap: Submap, doubts: Doubts, *, new_piece: bool) -> None:
        self._depth[submap.index] = median_depth(submap.geometry.frames)
        node_from_chunk = Sim3.from_matrix(pose_of(doubts.carried_frame, submap))
        world_from_node = submap.world_from_chunk @ node_from_chunk.inverse()
        if new_piece:
            self._world_from_node, self._chain, self._loops = {}, [], []
        elif self._world_from_node:
            last, pose = next(reversed(self._world_from_node.items()))
            noise = drift(submap, doubts, self._depth[submap.index])
            self._chain.append(Edge(last, submap.index, pose.inverse() @ world_from_node, noise))
        self._node_from_chunk[submap.index] = node_from_chunk
        self._world_from_node[submap.index] = world_from_node

    def _enter(self, candidate: LoopCandidate) -> bool:
        """Write a candidate into the ledger; True where it is a loop of the graph."""
        edge, reason, before = candidate.edge, candidate.reason, 0.0
        if edge is not None and edge.first not in self._world_from_node:
            reason = OTHER_PIECE
        elif edge is not None:
            loop = self._as_edge(edge)
            before = closing_error(self._stretch(loop))
            if before > MAX_CLOSING_ERROR:
                reason = f"it bends the map by {before:.0f} standard deviations of its drift"
            else:
                self._loops.append((len(self._ledger), loop))
        self._ledger.append(record(candidate, before, reason))
        return not reason and edge is not None

    def _as_edge(self, edge: LoopEdge) -> Edge:
        noise = EdgeNoise(LOOP_ROTATION, LOOP_TRANSLATION * self._depth[edge.second], LOOP_LOG_SCALE)
        ends = self._node_from_chunk[edge.first], self._node_from_chunk[edge.second]
        return Edge(edge.first, edge.second, ends[0] @ edge.first_from_second @ ends[1].inverse(), noise)

    def _stretch(self, loop: Edge) -> PoseGraph:
        """The part of the chain that a loop closes, with the loop."""
        nodes = list(self._world_from_node)
        first, second = sorted((nodes.index(loop.first), nodes.index(loop.second)))
        poses = {node: self._world_from_node[node] for node in nodes[first : second + 1]}
        return PoseGraph(poses, self._chain[first:second], [loop])

    def _optimise(self) -> Mapping[int, Sim3]:
        """Make the graph agree, judge every loop of it anew, and return where the submaps lie."""
        found = optimise(PoseGraph(self._world_from_node, self._chain, [edge for _, edge in self._loops]))
        for number, (row, _) in enumerate(self._loops):
            self._ledger[row] = judged(self._ledger[row], found, number)
        self._world_from_node = dict(found.world_from_submap)
        if found.refused:
            return {}
        return {number: pose @ self._node_from_chunk[number] for number, pose in self._world_from_node.items()}


def record(candidate: LoopCandidate, before: float, reason: str) -> LoopRecord:
    """The ledger's line for a candidate that is not judged by the pose graph yet; a ``reason`` rejects it."""
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
    return replace(line, after=after, verdict="accepted", reason="")


def pose_of(index: int, submap: Submap) -> Array:
    """cam_from_chunk (4, 4) of a frame of a submap."""
    return next(frame.cam_from_chunk for frame in submap.geometry.frames if frame.index == index)


def drift(submap: Submap, doubts: Doubts, depth: float) -> EdgeNoise:
    """How far a submap may be off, seen from the one before. depth: median depth of its scene, in its own unit.

    It grows with the way that the camera goes in the submap, with the residual of the frames that they share, and where
    depth says that scale has jumped or may have done so unseen: only loops can tell then.
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
