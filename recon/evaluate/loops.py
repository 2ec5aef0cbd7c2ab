"""Recall and precision of a run's loops, judged by reference poses.

Two frames see the same place if they share surface: the map's depth of one, placed at the reference pose, agrees with
that of the other. This needs no true depth, and a poor map gives fewer revisits, not wrong ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.core.errors import SourceError
from recon.core.files import write_atomically
from recon.core.places import LoopRecord
from recon.core.similarity import Array, Sim3
from recon.core.types import FrameGeometry
from recon.evaluate.poses import matching_rows
from recon.exports.trajectory import Trajectory, rigid_trajectory
from recon.mapping.overlap import shared_surface
from recon.store.map import ReconstructedMap

REVISIT_OVERLAP = 0.3  # least share of the surface seen by either frame for a revisit
RIGHT_OVERLAP = 0.05  # least share of the surface seen by either frame for a right loop
RIGHT_SHARE = 0.5  # least share of the overlap that must be the same surface: rooms overlap through their wall
GAP = 100  # least number of frames between the two of a revisit
NEARBY = 10  # a loop finds a revisit if it is within so many frames
MAX_DEPTH_ERROR = 0.15
SAMPLED_FRAMES = 120
STEP = 8  # px between compared points of a depth map
Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision and recall (n,) of the first 1, 2, ... n candidates in order of ``score``."""

    score: str
    precision: Array
    recall: Array


@dataclass(frozen=True, eq=False)
class LoopEvaluation:
    """revisits: pairs among evenly sampled frames that see the same place long after each other. accepted, right: loops
    of the run, and how many of them join frames that share surface. precision: right / accepted, 1 without any. recall:
    share of the revisits that a right accepted loop finds."""

    revisits: int
    candidates: int
    accepted: int
    right: int
    precision: float
    recall: float
    curves: tuple[Curve, ...]


@dataclass(frozen=True, eq=False)
class View:
    """A frame with depth, at its reference pose. reference_from_cam: with the depth's scale."""

    geometry: FrameGeometry
    reference_from_cam: Sim3


def evaluate_loops(
    reconstruction: ReconstructedMap, ledger: Sequence[LoopRecord], reference: Mapping[int, Array], scale: float
) -> LoopEvaluation:
    """Judge the loops in the ledger of a run.

    reference: true world_from_cam (4, 4) by frame index; passed-over frames have no depth and do not count. scale:
    reference units per unit of the map. Raises SourceError if no place is revisited.
    """
    reference = {frame.index: reference[frame.index] for frame in reconstruction.frames if frame.index in reference}
    sampled = sorted(reference)[:: -(-len(reference) // SAMPLED_FRAMES) or 1]
    known = [line for line in ledger if line.frame in reference and line.earlier in reference]
    wanted = {*sampled, *(line.frame for line in known), *(line.earlier for line in known)}
    views = read_views(reconstruction, {index: reference[index] for index in wanted}, scale)
    known = [line for line in known if line.frame in views and line.earlier in views]
    revisits = find_revisits({index: views[index] for index in sampled if index in views})
    if not revisits:
        raise SourceError(f"No two frames {GAP} or more apart show the same place, so there are no loops to find.")
    right = np.array([is_right(views[line.earlier], views[line.frame]) for line in known], dtype=bool)
    accepted = np.array([line.verdict == "accepted" for line in known], dtype=bool)
    pairs = np.array([(line.earlier, line.frame) for line in known], dtype=np.int64).reshape(-1, 2)
    number = int(accepted.sum())
    return LoopEvaluation(
        revisits=len(revisits),
        candidates=len(known),
        accepted=number,
        right=int(right[accepted].sum()),
        precision=float(right[accepted].mean()) if number else 1.0,
        recall=float(found_by(pairs[accepted & right], revisits).any(axis=0).mean()),
        curves=(
            curve("similarity", [line.similarity for line in known], pairs, right, revisits),
            curve("inliers", [line.inliers for line in known], pairs, right, revisits),
        ),
    )


def reference_by_frame(reconstruction: ReconstructedMap, reference: Trajectory, *, by_index: bool) -> dict[int, Array]:
    """Reference poses of the map's frames by index, including passed-over ones.

    by_index: whether the reference's timestamps are frame indices; otherwise both use the same clock.
    """
    estimated = rigid_trajectory(reconstruction, by_index=by_index)
    rows, reference_rows = matching_rows(estimated.timestamps, reference.timestamps)
    indices = estimated.indices[rows].tolist() if estimated.indices is not None else []
    return dict(zip(indices, reference.world_from_cam[reference_rows], strict=True))


def read_views(reconstruction: ReconstructedMap, reference: Mapping[int, Array], scale: float) -> dict[int, View]:
    """The frames of the map that have a reference pose and reliable depth."""
    return {
        placed.index: View(geometry.sure(), _scaled(reference[placed.index], scale * placed.world_from_cam.scale))
        for placed, geometry in reconstruction.geometry()
        if placed.index in reference and (geometry.sure().depth > 0).any()
    }


def _scaled(world_from_cam: Array, scale: float) -> Sim3:
    pose = Sim3.from_matrix(world_from_cam)
    return Sim3(scale, pose.rotation, pose.translation)


def find_revisits(views: Mapping[int, View]) -> list[Pair]:
    """Pairs of frames at least GAP apart that share much of their surface, the earlier first."""
    far = [(first, second) for first, second in combinations(sorted(views), 2) if second - first >= GAP]
    return [pair for pair in far if overlap(views[pair[0]], views[pair[1]]) >= REVISIT_OVERLAP]


def overlap(first: View, second: View) -> float:
    """The share of one view's depth that is the same surface in the other; the smaller of both directions."""
    return min(seen * same for seen, same in shared_both_ways(first, second))


def is_right(first: View, second: View) -> bool:
    """Whether a loop between two frames is right: loops join neighbourhoods, so a shared corner is enough."""
    return all(seen >= RIGHT_OVERLAP and same >= RIGHT_SHARE for seen, same in shared_both_ways(first, second))


def shared_both_ways(first: View, second: View) -> tuple[tuple[float, float], tuple[float, float]]:
    """``shared_surface`` of the first view in the second, and of the second in the first."""
    second_from_first = _in_chunk(second) @ _in_chunk(first).inverse()
    return (
        shared_surface(second_from_first, first.geometry, second.geometry, MAX_DEPTH_ERROR, STEP),
        shared_surface(second_from_first.inverse(), second.geometry, first.geometry, MAX_DEPTH_ERROR, STEP),
    )


def _in_chunk(view: View) -> Sim3:
    """The frame's chunk from the reference."""
    chunk_from_cam = Sim3.from_matrix(view.geometry.cam_from_chunk).inverse()
    return chunk_from_cam @ view.reference_from_cam.inverse()


def found_by(pairs: NDArray[np.int64], revisits: Sequence[Pair]) -> NDArray[np.bool_]:
    """(pairs, revisits): whether both frames of the pair lie within NEARBY frames of those of the revisit."""
    difference = np.abs(pairs[:, None] - np.array(revisits)[None])
    return np.asarray((difference <= NEARBY).all(axis=2))


def curve(
    name: str, scores: Sequence[float], pairs: NDArray[np.int64], right: NDArray[np.bool_], revisits: Sequence[Pair]
) -> Curve:
    """Precision and recall for each threshold of the score."""
    order = np.argsort(-np.array(scores, dtype=np.float64), kind="stable")
    precision = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    found = np.logical_or.accumulate(found_by(pairs, revisits)[order] & right[order, None], axis=0)
    return Curve(name, precision, found.mean(axis=1))


def plot_loops(evaluation: LoopEvaluation, path: Path) -> None:
    """Write a PNG with the precision-recall curves and the loops of the run. Raises OutputError."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes half a second, needed for plots only

    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for one in evaluation.curves:
        axes.plot(one.recall, one.precision, marker=".", label=f"all candidates, by {one.score}")
    axes.plot(evaluation.recall, evaluation.precision, "k*", markersize=14, label="loops that the run accepted")
    axes.set(xlabel="recall of revisits", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.05), title="Loops")
    axes.legend(loc="lower left")
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
