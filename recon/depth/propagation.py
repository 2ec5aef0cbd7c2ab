"""Depth of the views that show almost nothing new, from the views around them.

In a video, most views lie between two others that see the same surfaces from almost the same place: the depth of those,
moved to the view between, is as good as depth of its own and takes a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from recon.core.beside import beside
from recon.core.stopwatch import stage
from recon.core.types import SURE, DepthMap, Mask
from recon.depth.plane_sweep import FEWEST_POINTS, sparse_points
from recon.depth.views import Depth, DepthStage, PosedView

SAME = 0.03  # relative; a larger difference in inverse depth is another surface

Neighbours = dict[int, Mask]  # by view index, nearest first: which of a view's sparse points the neighbour sees


@dataclass(frozen=True)
class Propagated:
    """Depth by another stage where views show something new; the other views get theirs from these.

    farthest: distance between a view and one whose depth it takes, relative to the depth of its points. covered: share
    of a view's points that such views see, and of its pixels that get depth, relative to theirs; with less, the
    view is computed. sources: views that it takes depth from.
    """

    inner: DepthStage
    farthest: float = 0.05
    covered: float = 0.95
    sources: int = 3

    def depth(self, views: list[PosedView], solved: Mapping[int, Depth]) -> list[Depth]:
        """Depth of every view, see ``DepthStage``."""
        with stage("propagated depth"):
            near = {view.index: self._neighbours(view, views) for view in views}
            computed = self._informative(near, solved)
        found = self._compute(views, computed, solved)
        with stage("propagated depth"):
            moved = self._propagate(views, near, found)
        lacking = {index for index, (depth, share) in moved.items() if np.mean(depth.depth > 0) < self.covered * share}
        if lacking:
            found = self._compute(views, {*found, *lacking}, found)
        found = {index: depth for index, (depth, _) in moved.items()} | dict(solved) | found
        return [found[view.index] for view in views]

    def _neighbours(self, view: PosedView, views: Sequence[PosedView]) -> Neighbours:
        """The views near a view; none for a view with few points."""
        if len(view.sparse) < FEWEST_POINTS:
            return {}
        points, reach = sparse_points(view), self.farthest * float(np.median(view.sparse[:, 2]))
        centre = _centre(view)
        distances = {other.index: float(np.linalg.norm(_centre(other) - centre)) for other in views}
        near = [other for other in views if other.index != view.index and distances[other.index] < reach]
        near.sort(key=lambda other: distances[other.index])
        return {other.index: sees(other, points) for other in near}

    def _informative(self, near: Mapping[int, Neighbours], solved: Mapping[int, Depth]) -> set[int]:
        """The views whose own depth is needed: without any other one, a view would not be covered."""
        needed = {index for index in near if index not in solved or not solved[index].propagated}
        spared = set[int]()
        for index in near:
            if index in solved:
                continue
            rest = needed - {index}
            leaning = [index, *(other for other in spared if index in near[other])]
            if all(self._is_covered(near[other], rest) for other in leaning):
                needed = rest
                spared.add(index)
        return needed

    def _is_covered(self, neighbours: Neighbours, chosen: Collection[int]) -> bool:
        seen = [mask for index, mask in neighbours.items() if index in chosen]
        return bool(seen) and float(np.mean(np.any(seen, axis=0))) >= self.covered

    def _compute(self, views: list[PosedView], chosen: Collection[int], solved: Mapping[int, Depth]) -> dict[int, Depth]:
        """Depth of the chosen views by index."""
        together = [view for view in views if view.index in chosen]
        return dict(zip((view.index for view in together), self.inner.depth(together, solved), strict=True))

    def _propagate(
        self, views: list[PosedView], near: Mapping[int, Neighbours], found: Mapping[int, Depth]
    ) -> dict[int, tuple[Depth, float]]:
        """Depth of the other views by index, with the mean share of the pixels where its sources have depth."""
        by_index = {view.index: view for view in views}

        def move(view: PosedView) -> tuple[Depth, float]:
            chosen = [index for index in near[view.index] if index in found][: self.sources]
            share = float(np.mean([np.mean(found[index].depth > 0) for index in chosen]))
            return propagate(view, [(by_index[index], found[index]) for index in chosen]), share

        left = [view for view in views if view.index not in found]
        return dict(zip((view.index for view in left), beside(move, left), strict=True))


def propagate(view: PosedView, sources: Sequence[tuple[PosedView, Depth]]) -> Depth:
    """The depth of other views at a view's pixels: the mean of those that agree on the nearest reliable surface.

    The confidence is the best of these, times their share of all that have depth there.
    """
    moved = [splat(view, *source) for source in sources]
    inverse, confidence = (np.stack(maps) for maps in zip(*moved, strict=True))
    reliable = np.where(confidence >= SURE, inverse, 0).max(axis=0)
    front = np.where(reliable > 0, reliable, inverse.max(axis=0))
    agrees = (inverse > 0) & (np.abs(inverse - front) < SAME * front)
    weight = np.where(agrees, confidence, 0)
    mean = (weight * inverse).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-9)
    known = view.mask & (mean > 0)
    share = agrees.sum(axis=0) / np.maximum((inverse > 0).sum(axis=0), 1)
    depth = np.where(known, 1 / np.where(known, mean, 1), 0)
    sure = np.where(known, weight.max(axis=0) * share, 0)
    return Depth(depth.astype(np.float32), sure.astype(np.float32), propagated=True)


def splat(view: PosedView, source: PosedView, depth: Depth) -> tuple[DepthMap, DepthMap]:
    """Inverse depth and confidence (h, w) of the source's pixels at those of the view; the nearest where several meet.

    Cracks between pixels that move apart are closed by the median of 3x3 pixels.
    """
    height, width = view.mask.shape
    rows, columns = np.nonzero(depth.depth)
    view_from_source = view.cam_from_chunk @ np.linalg.inv(source.cam_from_chunk)
    rotation = (view.intrinsics @ view_from_source[:3, :3] @ np.linalg.inv(source.intrinsics)).astype(np.float32)
    offset = (view.intrinsics @ view_from_source[:3, 3]).astype(np.float32)
    pixels = np.stack([columns, rows, np.ones_like(rows)]).astype(np.float32) + np.array([[0.5], [0.5], [0]], np.float32)
    x, y, z = (rotation @ pixels) * depth.depth[rows, columns] + offset[:, None]
    scale = 1 / np.maximum(z, np.float32(1e-6))
    x, y = x * scale, y * scale
    inside = (z > 1e-6) & (x >= 0) & (y >= 0) & (x < width) & (y < height)
    place = y[inside].astype(np.int64) * width + x[inside].astype(np.int64)
    near, sure = scale[inside], depth.confidence[rows, columns][inside]
    inverse, confidence = np.zeros(height * width, np.float32), np.zeros(height * width, np.float32)
    np.maximum.at(inverse, place, near)
    front = near == inverse[place]
    confidence[place[front]] = sure[front]
    return _closed(inverse.reshape(height, width), confidence.reshape(height, width))


def _closed(inverse: DepthMap, confidence: DepthMap) -> tuple[DepthMap, DepthMap]:
    around = cv2.medianBlur(inverse, 3)
    crack = around > (1 + SAME) * inverse
    return np.where(crack, around, inverse), np.where(crack, cv2.medianBlur(confidence, 3), confidence)


def sees(view: PosedView, points: np.ndarray) -> Mask:
    """Which points (n, 3) of the chunk project into the view."""
    points_cam = points @ view.cam_from_chunk[:3, :3].T + view.cam_from_chunk[:3, 3]
    pixels = points_cam @ view.intrinsics.T
    x, y, z = pixels.T
    height, width = view.mask.shape
    return np.asarray((z > 1e-6) & (x >= 0) & (y >= 0) & (x < width * z) & (y < height * z))


def _centre(view: PosedView):
    return np.linalg.inv(view.cam_from_chunk)[:3, 3]
