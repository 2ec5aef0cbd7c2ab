"""Depth of the views that show almost nothing new, from the views around them.

In a video, most views lie between others that see the same surfaces from almost the same place. The depth of these,
moved to the view between, is as good as depth of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import KDTree

from recon.core.beside import beside
from recon.core.projection import back_project, centre_of, moved_to_chunk
from recon.core.similarity import Array
from recon.core.stopwatch import stage
from recon.core.types import SURE, DepthMap, Mask
from recon.depth.plane_sweep import FEWEST_POINTS
from recon.depth.views import Depth, DepthStage, PosedView, relative_projection

CELLS = 24  # along either side of a view, to count which part of it other views see
SAME = 0.03  # relative; a larger difference in inverse depth is another surface

Neighbours = dict[int, Mask]  # which cells of a view each neighbour sees, by its index, the nearest first


@dataclass(frozen=True)
class Propagated:
    """Depth by another stage where views show something new; the other views take theirs from these.

    farthest: distance between a view and those that it takes depth from, relative to its median depth. covered: least
    share of the view that they see. sources: how many it takes depth from. in_a_row: most such views one after another;
    without a limit, a camera that hardly moves would leave too little depth to compare and average.
    """

    inner: DepthStage
    farthest: float = 0.08
    covered: float = 0.97
    sources: int = 3
    in_a_row: int = 2

    def depth(self, views: list[PosedView], solved: Mapping[int, Depth]) -> list[Depth]:
        """Depth of every view, see ``DepthStage``. Depth that is itself propagated supports no other."""
        with stage("propagated depth"):
            near = {view.index: self._neighbours(view, views) for view in views}
            needed = self._needed(near, solved)
        computed = [view for view in views if view.index in needed]
        depths = self.inner.depth(computed, solved)
        known = {view.index: (view, depth) for view, depth in zip(computed, depths, strict=True)}

        def propagated(view: PosedView) -> Depth:
            return propagate(view, [known[index] for index in near[view.index] if index in known][: self.sources])

        with stage("propagated depth"):
            between = [view for view in views if view.index not in needed and view.index not in solved]
            moved = dict(zip((view.index for view in between), beside(propagated, between), strict=True))
        found = dict(solved) | {index: depth for index, (_, depth) in known.items()} | moved
        return [found[view.index] for view in views]

    def _neighbours(self, view: PosedView, views: Sequence[PosedView]) -> Neighbours:
        """The views near a view; none if its depth is hardly known."""
        if len(view.sparse) < FEWEST_POINTS:
            return {}
        reach, centre = self.farthest * float(np.median(view.sparse[:, 2])), centre_of(view.cam_from_chunk)
        distances = {other.index: float(np.linalg.norm(centre_of(other.cam_from_chunk) - centre)) for other in views}
        near = [other for other in views if other.index != view.index and distances[other.index] < reach]
        near.sort(key=lambda other: distances[other.index])
        points = _cells(view)
        return {other.index: sees(other, points) for other in near}

    def _needed(self, near: Mapping[int, Neighbours], solved: Mapping[int, Depth]) -> set[int]:
        """The first, the last, and the views without which another one, or they themselves, would not be covered."""
        needed = {index for index in near if index not in solved or not solved[index].propagated}
        spared, row = set[int](), 0
        for index in list(near)[1:-1]:
            rest = needed - {index}
            affected = [index, *(other for other in spared if index in near[other])]
            free = index not in solved and row < self.in_a_row
            if free and all(self._is_covered(near[other], rest) for other in affected):
                needed, row = rest, row + 1
                spared.add(index)
            else:
                row = 0
        return needed

    def _is_covered(self, neighbours: Neighbours, chosen: Collection[int]) -> bool:
        seen = [mask for index, mask in neighbours.items() if index in chosen]
        return bool(seen) and float(np.mean(np.any(seen, axis=0))) >= self.covered


def propagate(view: PosedView, sources: Iterable[tuple[PosedView, Depth]]) -> Depth:
    """The depth of other views at a view's pixels: the mean of those that agree with the nearest reliable surface.

    The confidence is the best of theirs, times their share of the views that have depth there.
    """
    inverse, confidence = (np.stack(maps) for maps in zip(*(splat(view, *source) for source in sources), strict=True))
    reliable = np.where(confidence >= SURE, inverse, 0).max(axis=0)
    front = np.where(reliable > 0, reliable, inverse.max(axis=0))
    agrees = (inverse > 0) & (np.abs(inverse - front) < SAME * front)
    weight = np.where(agrees, confidence, 0)
    total = weight.sum(axis=0)
    known = view.mask & (total > 0)
    depth = np.divide(total, (weight * inverse).sum(axis=0), out=np.zeros_like(total), where=known)
    share = agrees.sum(axis=0) / np.maximum((inverse > 0).sum(axis=0), 1)
    return Depth(depth, np.where(known, weight.max(axis=0) * share, 0).astype(np.float32), propagated=True)


def splat(view: PosedView, source: PosedView, depth: Depth) -> tuple[DepthMap, DepthMap]:
    """Inverse depth and confidence (h, w) of the source's pixels at those of the view; the nearest where several meet.

    Cracks between pixels that move apart are closed.
    """
    height, width = view.mask.shape
    rotation, offset = (part.astype(np.float32) for part in relative_projection(source, view))
    rows, columns = np.nonzero(depth.depth)
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))]).astype(np.float32)
    x, y, z = rotation @ pixels * depth.depth[rows, columns] + offset[:, None]
    kept = (z > 0) & (x >= 0) & (y >= 0) & (x < width * z) & (y < height * z)
    near = 1 / z[kept]
    place = (y[kept] * near).astype(np.int64) * width + (x[kept] * near).astype(np.int64)
    place = np.minimum(place, height * width - 1)  # rounding
    inverse, confidence = np.zeros((2, height * width), np.float32)
    np.maximum.at(inverse, place, near)
    front = near == inverse[place]
    confidence[place[front]] = depth.confidence[rows, columns][kept][front]
    inverse, confidence = inverse.reshape(height, width), confidence.reshape(height, width)
    window = np.ones((3, 3), np.uint8)
    closed, sure = (cv2.morphologyEx(part, cv2.MORPH_CLOSE, window) for part in (inverse, confidence))
    crack = closed > (1 + SAME) * inverse
    return np.where(crack, closed, inverse), np.where(crack, sure, confidence)


def sees(view: PosedView, points: Array) -> Mask:
    """Which points (n, 3) of the chunk project into the view's image (n,)."""
    points_cam = points @ view.cam_from_chunk[:3, :3].T + view.cam_from_chunk[:3, 3]
    x, y, z = view.intrinsics @ points_cam.T
    height, width = view.mask.shape
    return np.asarray((z > 0) & (x >= 0) & (y >= 0) & (x < width * z) & (y < height * z))


def _cells(view: PosedView) -> Array:
    """The middles of CELLS x CELLS cells of the view as points (n, 3) of the chunk, each as deep as the sparse point
    nearest to it in the image."""
    height, width = view.mask.shape
    pixels = (np.stack(np.meshgrid(np.arange(CELLS), np.arange(CELLS)), -1).reshape(-1, 2) + 0.5) / CELLS
    pixels *= (width, height)
    depth = view.sparse[KDTree(view.sparse[:, :2]).query(pixels)[1], 2]
    return moved_to_chunk(back_project(pixels, depth, view.intrinsics), view.cam_from_chunk)
