"""Whether two places are the same, by geometry: local features with depth on both sides, then the depth maps as such.

Matched features are points in both chunks, so three of them give a similarity, with scale. RANSAC finds the one that
projects most features of either side onto their matches on the other. It must then hold for the depth maps too: where
both see a surface, they must see the same one. That keeps out places which merely share a poster or a kind of chair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from recon.alignment import fit_similarity, unproject
from recon.sfm.matching import Features, Matcher, SiftMatcher
from recon.similarity import Array, Sim3
from recon.types import Frame, FrameGeometry

SEED = 0
GRID = 4  # cells along a side in which inliers are counted
DENSE_STEP = 4  # px between points of a depth map that are compared


@dataclass(frozen=True)
class VerificationSettings:
    """What makes a loop. trials: hypotheses of RANSAC. max_error: reprojection error as a share of the image's width.

    max_depth_error: relative, of a single point. min_inliers; min_share: of the matches. min_cells: of the 4 x 4 cells
    of each image that hold inliers. min_overlap: share of a depth map seen by the other. min_agreement: share of the
    overlap with the same depth.
    """

    trials: int = 1000
    max_error: float = 0.015
    max_depth_error: float = 0.15
    min_inliers: int = 20
    min_share: float = 0.3
    min_cells: int = 4
    min_overlap: float = 0.15
    min_agreement: float = 0.6
    matcher: Matcher = field(default_factory=SiftMatcher)


@dataclass(frozen=True, eq=False)
class Verification:
    """first_from_second: between chunk frames; None with the ``reason`` where the places are not shown to be one.

    residual: median reprojection error of the inliers as a share of the image's width. agreement: of depth, 0..1.
    """

    first_from_second: Sim3 | None
    matches: int
    inliers: int
    residual: float
    agreement: float
    reason: str


@dataclass(frozen=True, eq=False)
class _Side:
    """One end of the matches: points (n, 3) in the chunk, pixels (n, 2), depth (n,), and their cameras.

    cam_from_chunk: (n, 4, 4). intrinsics: (n, 3, 3). width: of the images [px].
    """

    points: Array
    pixels: Array
    depth: Array
    cam_from_chunk: Array
    intrinsics: Array
    width: int

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> _Side:
        return _Side(
            points=self.points[chosen],
            pixels=self.pixels[chosen],
            depth=self.depth[chosen],
            cam_from_chunk=self.cam_from_chunk[chosen],
            intrinsics=self.intrinsics[chosen],
            width=self.width,
        )


def verify(
    first: Sequence[FrameGeometry], second: Sequence[FrameGeometry], settings: VerificationSettings
) -> Verification:
    """Compare two places, each seen by a few frames of one chunk."""
    a, b = _matched(first, second, settings.matcher)
    count = len(a.points)
    if count < settings.min_inliers:
        return Verification(None, count, 0, 0.0, 0.0, f"only {count} features with depth match")
    found, inliers = _search(a, b, settings)
    number = int(inliers.sum())
    if found is None or number < max(settings.min_inliers, settings.min_share * count):
        return Verification(None, count, number, 0.0, 0.0, f"only {number} of {count} matches agree on a similarity")
    found, inliers = _refined(found, inliers, a, b, settings)
    if not inliers.any():
        return Verification(None, count, 0, 0.0, 0.0, "no match agrees with the refined similarity")
    a, b = a.rows(inliers), b.rows(inliers)
    residual, agreement = float(np.median(_errors(found, a, b))), _dense_agreement(found, first, second, settings)
    cells = min(_cells(a, first), _cells(b, second))
    reason = _objection(len(a.points), cells, agreement, settings)
    return Verification(None if reason else found, count, len(a.points), residual, agreement or 0.0, reason)


def _objection(inliers: int, cells: int, agreement: float | None, settings: VerificationSettings) -> str:
    """Why a similarity is not believed; empty where it is."""
    if inliers < settings.min_inliers or cells < settings.min_cells:
        return f"the {inliers} matches that agree lie in {cells} of {GRID * GRID} parts of the image"
    if agreement is None:
        return "the two views do not overlap enough to compare their depth"
    if agreement < settings.min_agreement:
        return f"only {agreement:.0%} of the depth agrees where both views see a surface"
    return ""


def _matched(first: Sequence[FrameGeometry], second: Sequence[FrameGeometry], matcher: Matcher) -> tuple[_Side, _Side]:
    """Both ends of the matches between every frame of the one place and every frame of the other."""
    ends_a, ends_b = ([(frame, _with_depth(frame, matcher)) for frame in frames] for frames in (first, second))
    sides = []
    for frame_a, features_a in ends_a:
        for frame_b, features_b in ends_b:
            rows = matcher.match(features_a, features_b).astype(np.int64)
            sides.append((_side(frame_a, features_a, rows[:, 0]), _side(frame_b, features_b, rows[:, 1])))
    return _joined([a for a, _ in sides]), _joined([b for _, b in sides])


def _with_depth(geometry: FrameGeometry, matcher: Matcher) -> Features:
    """The features of a frame's undistorted image that have depth."""
    height, width = geometry.depth.shape
    mask = np.ones((height, width), dtype=bool)
    features = matcher.describe(Frame(geometry.index, 0.0, geometry.colour, "", (width, height), "", 0.0, mask))
    rows, columns = _cell_of(features.keypoints, geometry)
    kept = geometry.depth[rows, columns] > 0
    return Features(features.keypoints[kept], features.descriptors[kept])


def _cell_of(pixels: NDArray[np.floating], geometry: FrameGeometry) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of the depth map under each pixel position."""
    limits = np.array(geometry.depth.shape[::-1]) - 1
    columns, rows = np.clip(np.floor(pixels[:, :2]).astype(np.int64), 0, limits).T
    return rows, columns


def _side(geometry: FrameGeometry, features: Features, chosen: NDArray[np.int64]) -> _Side:
    pixels = features.keypoints[chosen, :2].astype(np.float64)
    rows, columns = _cell_of(pixels, geometry)
    depth = geometry.depth[rows, columns].astype(np.float64)
    rays = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(geometry.intrinsics).T
    points = Sim3.from_matrix(geometry.cam_from_chunk).inverse().apply(rays * depth[:, None])
    cameras = np.broadcast_to(geometry.cam_from_chunk, (len(points), 4, 4))
    intrinsics = np.broadcast_to(geometry.intrinsics, (len(points), 3, 3))
    return _Side(points, pixels, depth, cameras, intrinsics, geometry.depth.shape[1])


def _joined(sides: Sequence[_Side]) -> _Side:
    return _Side(
        points=np.concatenate([side.points for side in sides]),
        pixels=np.concatenate([side.pixels for side in sides]),
        depth=np.concatenate([side.depth for side in sides]),
        cam_from_chunk=np.concatenate([side.cam_from_chunk for side in sides]),
        intrinsics=np.concatenate([side.intrinsics for side in sides]),
        width=sides[0].width,
    )


def _search(a: _Side, b: _Side, settings: VerificationSettings) -> tuple[Sim3 | None, NDArray[np.bool_]]:
    """The similarity of three matches that most others agree with, and which those are."""
    rng, count = np.random.default_rng(SEED), len(a.points)
    best, best_inliers = None, np.zeros(count, dtype=bool)
    for _ in range(settings.trials):
        sample = rng.choice(count, 3, replace=False)
        candidate = _from_three(a.points[sample], b.points[sample])
        if candidate is None or not _inliers(candidate, a.rows(sample), b.rows(sample), settings).all():
            continue
        inliers = _inliers(candidate, a, b, settings)
        if inliers.sum() > best_inliers.sum():
            best, best_inliers = candidate, inliers
    return best, best_inliers


def _from_three(points_a: Array, points_b: Array) -> Sim3 | None:
    """From three points; None where they lie on one line or too close, or differ in shape."""
    sides_a, sides_b = (np.linalg.norm(p - np.roll(p, 1, axis=0), axis=1) for p in (points_a, points_b))
    if min(sides_a.min(), sides_b.min()) <= 0:
        return None
    ratios = sides_a / sides_b
    if ratios.max() > 1.5 * ratios.min():
        return None
    try:
        return fit_similarity(points_b, points_a, np.ones(3))
    except ValueError:
        return None


def _inliers(first_from_second: Sim3, a: _Side, b: _Side, settings: VerificationSettings) -> NDArray[np.bool_]:
    """Which matches project onto each other on both sides, at the depth that was measured there."""
    depth_a, depth_b = _depth_errors(first_from_second, a, b)
    close = np.maximum(depth_a, depth_b) < np.log1p(settings.max_depth_error)
    return np.asarray(close & (_errors(first_from_second, a, b) < settings.max_error))


def _errors(first_from_second: Sim3, a: _Side, b: _Side) -> Array:
    """The larger of the two reprojection errors of each match, as a share of the image's width."""
    into_a, _ = _project(first_from_second, b.points, a)
    into_b, _ = _project(first_from_second.inverse(), a.points, b)
    errors = [np.linalg.norm(p - s.pixels, axis=1) / s.width for p, s in ((into_a, a), (into_b, b))]
    return np.asarray(np.maximum(errors[0], errors[1]))


def _depth_errors(first_from_second: Sim3, a: _Side, b: _Side) -> tuple[Array, Array]:
    """|log| of projected over measured depth, on both sides; infinite behind the camera."""
    _, into_a = _project(first_from_second, b.points, a)
    _, into_b = _project(first_from_second.inverse(), a.points, b)
    return _log_ratio(into_a, a.depth), _log_ratio(into_b, b.depth)


def _log_ratio(projected: Array, measured: Array) -> Array:
    ratio = np.maximum(projected, 1e-12) / measured
    return np.where(projected > 0, np.abs(np.log(ratio)), np.inf)


def _project(to_side: Sim3, points: Array, side: _Side) -> tuple[Array, Array]:
    """Pixels (n, 2) and depth (n,) of points of the other chunk in this side's cameras."""
    points_chunk = to_side.apply(points)
    points_cam = np.einsum("nij,nj->ni", side.cam_from_chunk[:, :3, :3], points_chunk) + side.cam_from_chunk[:, :3, 3]
    homogeneous = np.einsum("nij,nj->ni", side.intrinsics, points_cam)
    depth = points_cam[:, 2]
    return homogeneous[:, :2] / np.where(np.abs(depth) > 1e-9, depth, 1e-9)[:, None], depth


def _refined(
    start: Sim3, inliers: NDArray[np.bool_], a: _Side, b: _Side, settings: VerificationSettings
) -> tuple[Sim3, NDArray[np.bool_]]:
    """The similarity with the least reprojection and depth error over its inliers, and the inliers that it has."""
    kept_a, kept_b = a.rows(inliers), b.rows(inliers)

    def residuals(step: Array) -> Array:
        moved = start @ _similarity(step)
        parts = []
        for to_side, points, side in ((moved, kept_b.points, kept_a), (moved.inverse(), kept_a.points, kept_b)):
            pixels, depth = _project(to_side, points, side)
            parts.append(((pixels - side.pixels) / (side.width * settings.max_error)).ravel())
            parts.append(np.log(np.maximum(depth, 1e-12) / side.depth) / settings.max_depth_error)
        return np.concatenate(parts)

    size = float(np.median(np.linalg.norm(kept_b.points - np.median(kept_b.points, axis=0), axis=1)))
    scales = np.array([0.01, 0.01, 0.01, *[0.01 * max(size, 1e-9)] * 3, 0.01])
    solved = least_squares(residuals, np.zeros(7), loss="soft_l1", f_scale=0.3, x_scale=scales, max_nfev=30)
    refined = start @ _similarity(solved.x)
    return refined, _inliers(refined, a, b, settings)


def _similarity(step: Array) -> Sim3:
    """Rotation vector (3), translation (3), log of scale (1)."""
    return Sim3(float(np.exp(step[6])), Rotation.from_rotvec(step[:3]).as_matrix(), step[3:6])


def _cells(side: _Side, frames: Sequence[FrameGeometry]) -> int:
    """In how many cells of the image the matches lie."""
    height, width = frames[0].depth.shape
    cells = np.floor(side.pixels / (width, height) * GRID).astype(np.int64)
    return len(np.unique(cells[:, 0] * GRID + cells[:, 1]))


def _dense_agreement(
    first_from_second: Sim3,
    first: Sequence[FrameGeometry],
    second: Sequence[FrameGeometry],
    settings: VerificationSettings,
) -> float | None:
    """Share of the overlap in which both depth maps see the same surface, over both directions.

    None where the best overlap of any two frames is too small.
    """
    best: tuple[float, float] | None = None
    for a in first:
        for b in second:
            there = _same_surface(first_from_second, b, a, settings.max_depth_error)
            back = _same_surface(first_from_second.inverse(), a, b, settings.max_depth_error)
            overlap, agreement = min(there[0], back[0]), min(there[1], back[1])
            if overlap >= settings.min_overlap and (best is None or overlap > best[0]):
                best = overlap, agreement
    return None if best is None else best[1]


def _same_surface(
    target_from_source: Sim3, source: FrameGeometry, target: FrameGeometry, max_error: float
) -> tuple[float, float]:
    """Share of the source's depth that falls onto depth of the target, and the share of that with the same depth."""
    rows, columns = np.nonzero(source.depth[::DENSE_STEP, ::DENSE_STEP] > 0)
    points = unproject(source, rows * DENSE_STEP, columns * DENSE_STEP)
    points_cam = Sim3.from_matrix(target.cam_from_chunk).apply(target_from_source.apply(points))
    points_cam = points_cam[points_cam[:, 2] > 1e-9]
    pixels = points_cam @ target.intrinsics.T
    pixels = np.floor(pixels[:, :2] / pixels[:, 2:]).astype(np.int64)
    height, width = target.depth.shape
    inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=1)
    measured = target.depth[pixels[inside, 1], pixels[inside, 0]].astype(np.float64)
    known = measured > 0
    if not known.any():
        return 0.0, 0.0
    same = _log_ratio(points_cam[inside, 2][known], measured[known]) < np.log1p(max_error)
    return float(known.sum() / max(len(rows), 1)), float(same.mean())
