"""Classical dense depth: plane sweep over neighbouring views with semi-global smoothing.

For every depth hypothesis the neighbours are warped onto the view (Collins 1996) and compared by normalised
cross-correlation; the cost is smoothed along image lines (Hirschmueller 2008) and every pixel takes the best depth. All
this runs at half size; a search around that depth then restores the detail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.beside import beside
from recon.core.projection import back_project, moved_to_chunk, plane_homography
from recon.core.stopwatch import stage
from recon.core.types import DepthMap
from recon.depth.consistency import keep_consistent
from recon.depth.correlation import OUTSIDE, Patches, Volume, grey, two_best
from recon.depth.local_search import search
from recon.depth.views import Depth, PosedView, halved, relative_projection

NO_PARALLAX = 0.02  # degrees
FEWEST_POINTS = 8  # sparse points of a view, and those shared with another
SMOOTH = 0.03  # relative; a larger change in depth between half-size pixels is a step


@dataclass(frozen=True)
class PlaneSweep:
    """Dense depth for textured surfaces; plain walls and mirrors stay empty.

    sources: neighbouring views compared with each view. planes: depth hypotheses, evenly spaced in inverse depth.
    window: side of the correlation window [px of the half-size image]. step_cost, jump_cost: penalties for a depth that
    differs from its neighbour's by one plane or by more, relative to a correlation of 1.
    """

    sources: int = 4
    planes: int = 48
    window: int = 5
    best_angle: float = 6.0
    step_cost: float = 0.06
    jump_cost: float = 0.5
    min_correlation: float = 0.4

    @stage("classical depth")
    def depth(self, views: list[PosedView], solved: Mapping[int, Depth]) -> list[Depth]:
        """Depth of every view where a second view confirms it; see ``DepthStage``."""
        new = [view for view in views if view.index not in solved]
        neighbours = [select_sources(view, views, self.sources, self.best_angle) for view in new]
        small = {view.index: halved(view) for view in views}
        raw = list(beside(lambda pair: self._sweep(*pair, small), zip(new, neighbours, strict=True)))
        found = dict(solved) | {view.index: depth for view, depth in zip(new, raw, strict=True)}
        checks = [[(other, found[other.index]) for other in chosen] for chosen in neighbours]
        kept = beside(lambda job: keep_consistent(*job), zip(new, raw, checks, strict=True))
        found |= {view.index: depth.all_sure() for view, depth in zip(new, kept, strict=True)}
        return [found[view.index] for view in views]

    def _sweep(self, view: PosedView, sources: list[PosedView], small: Mapping[int, PosedView]) -> Depth:
        if not sources or len(view.sparse) < FEWEST_POINTS:
            return Depth(np.zeros(view.mask.shape, np.float32), np.zeros(view.mask.shape, np.float32))
        planes = depth_hypotheses(view, self.planes)
        coarse = self._coarse(small[view.index], [small[other.index] for other in sources], planes)
        around, step = enlarged(coarse, view.mask.shape), (planes[1] - planes[0]) / 2
        found = search(view, sources, around, step)
        confidence = np.clip((found.correlation - self.min_correlation) / (1 - self.min_correlation), 0, 1)
        # Within half a plane of the first or last plane, the best depth may lie outside the range.
        confidence[~view.mask | (around < planes[0] + step / 2) | (around > planes[-1] - step / 2)] = 0
        depth = np.where(confidence > 0, 1 / np.maximum(found.inverse_depth, 1e-12), 0)
        return Depth(depth.astype(np.float32), confidence.astype(np.float32))

    def _coarse(self, view: PosedView, sources: list[PosedView], planes: NDArray[np.float64]) -> DepthMap:
        """Inverse depth (h, w) by sweeping all planes."""
        score = correlation_volume(view, sources, planes, self.window)
        smooth = semi_global(1.0 - score, view.image, self.step_cost, self.jump_cost)
        best = smooth.argmin(axis=0)
        index = best + sub_plane_offset(smooth, best)
        return np.asarray(planes[0] + index * (planes[1] - planes[0]), dtype=np.float32)


def enlarged(depth: DepthMap, shape: tuple[int, ...]) -> DepthMap:
    """Depth or inverse depth at a larger size (h, w): bilinear, but the nearest value across a step."""
    size = (shape[1], shape[0])
    nearest = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)
    smooth = cv2.resize(depth, size)
    return np.where(np.abs(smooth - nearest) < SMOOTH * nearest, smooth, nearest)


def select_sources(view: PosedView, views: list[PosedView], count: int, best_angle: float) -> list[PosedView]:
    """The views that share most points with ``view`` at a useful triangulation angle [degrees], best first."""
    points = sparse_points(view)
    scores: list[tuple[float, PosedView]] = []
    for other in views:
        shared = np.isin(view.point_ids, other.point_ids) if other.index != view.index else np.zeros(0, bool)
        if shared.sum() >= FEWEST_POINTS:
            angles = triangulation_angles(points[shared], view.cam_from_chunk, other.cam_from_chunk)
            if np.median(angles) < NO_PARALLAX:  # another camera of the rig: at any depth, it sees the same
                continue
            width = np.where(angles < best_angle, best_angle / 3, 2 * best_angle)
            scores.append((float(np.exp(-0.5 * ((angles - best_angle) / width) ** 2).sum()), other))
    scores.sort(key=lambda item: (-item[0], item[1].index))
    return [other for score, other in scores[:count] if score > 1.0]


def sparse_points(view: PosedView) -> NDArray[np.float64]:
    """The view's sparse points (n, 3) in the chunk's frame."""
    points_cam = back_project(view.sparse[:, :2], view.sparse[:, 2], view.intrinsics)
    return moved_to_chunk(points_cam, view.cam_from_chunk)


def triangulation_angles(
    points: NDArray[np.float64], first_from_chunk: NDArray[np.float64], second_from_chunk: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Triangulation angles [degrees] of points (n, 3) between the centres of two cameras."""
    rays = []
    for cam_from_chunk in (first_from_chunk, second_from_chunk):
        ray = points - np.linalg.inv(cam_from_chunk)[:3, 3]
        rays.append(ray / np.linalg.norm(ray, axis=1, keepdims=True))
    return np.asarray(np.degrees(np.arccos(np.clip((rays[0] * rays[1]).sum(axis=1), -1, 1))))


def depth_hypotheses(view: PosedView, count: int) -> NDArray[np.float64]:
    """Inverse depths (count,), far to near, that cover the view's sparse points with a margin."""
    near, far = np.percentile(view.sparse[:, 2], [1, 99])
    return np.linspace(1 / (far * 1.5), 1 / (near * 0.7), count)


def correlation_volume(
    view: PosedView, sources: list[PosedView], inverse_depths: NDArray[np.float64], window: int
) -> Volume:
    """Normalised cross-correlation (planes, h, w): mean of the two best sources, -1 where none sees the point.

    Taking only the best two ignores sources in which the point is occluded.
    """
    reference = Patches.of(grey(view), window)
    volume = np.empty((len(inverse_depths), *view.mask.shape), np.float32)
    prepared = [(grey(source), *relative_projection(view, source)) for source in sources]
    for plane, inverse_depth in enumerate(inverse_depths):
        warped = (
            _warp(image, plane_homography(rotation, offset, inverse_depth), view.mask.shape)
            for image, rotation, offset in prepared
        )
        volume[plane] = two_best([reference.correlation(image) for image in warped])
    return volume


def _warp(image: NDArray[np.float32], source_from_view: NDArray[np.float64], shape: tuple[int, ...]) -> Volume:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpPerspective(image, source_from_view, shape[::-1], flags=flags, borderValue=OUTSIDE))


def semi_global(cost: Volume, image: NDArray[np.uint8], step_cost: float, jump_cost: float) -> Volume:
    """Sum of the cost (planes, h, w) smoothed along the four line directions; jumps are cheaper across image edges."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 1.0).astype(np.float32)
    total = np.zeros_like(cost)
    for axis in (0, 1):
        lines = np.ascontiguousarray(np.moveaxis(cost, axis + 1, 0))
        edges = np.abs(np.diff(grey, axis=axis, prepend=grey.take([0], axis=axis)))
        jumps = np.maximum(np.moveaxis(jump_cost / (1 + edges / 8), axis, 0), step_cost)
        smoothed = _smooth_lines(lines, jumps, step_cost)
        # A backward step from line n + 1 to n crosses the same edge as the forward step.
        smoothed += _smooth_lines(lines[::-1], np.roll(jumps, -1, axis=0)[::-1], step_cost)[::-1]
        total += np.moveaxis(smoothed, 0, axis + 1)
    return total


def _smooth_lines(cost: Volume, jumps: NDArray[np.float32], step_cost: float) -> Volume:
    """Dynamic programming over the first axis of cost (lines, planes, pixels); jumps: (lines, pixels)."""
    smooth = np.empty_like(cost)
    smooth[0] = cost[0]
    reach, step = np.empty_like(cost[0]), np.empty_like(cost[0])
    for line in range(1, len(cost)):
        previous = smooth[line - 1]
        floor = previous.min(axis=0)
        np.minimum(previous, floor + jumps[line], out=reach)
        np.add(previous, step_cost, out=step)
        np.minimum(reach[1:], step[:-1], out=reach[1:])
        np.minimum(reach[:-1], step[1:], out=reach[:-1])
        reach -= floor
        np.add(cost[line], reach, out=smooth[line])
    return smooth


def sub_plane_offset(cost: Volume, best: NDArray[np.int64]) -> NDArray[np.float32]:
    """Offset (h, w) in -0.5..0.5 planes of the parabola through the best plane and its two neighbours."""
    planes = len(cost)
    centre = np.clip(best, 1, planes - 2)[None]
    before, here, after = (np.take_along_axis(cost, centre + step, axis=0)[0] for step in (-1, 0, 1))
    curvature = before - 2 * here + after
    offset = np.where(curvature > 1e-6, 0.5 * (before - after) / np.maximum(curvature, 1e-6), 0)
    offset[(best == 0) | (best == planes - 1)] = 0
    return np.clip(offset, -0.5, 0.5)
