"""Alignment of a submap: the similarity between two chunks that share frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recon.core.projection import moved_to_chunk, points_in_chunk
from recon.core.similarity import Array, Sim3
from recon.core.types import FrameGeometry

MAX_POINTS_PER_FRAME = 2000
ITERATIONS = 20


@dataclass(frozen=True)
class Alignment:
    """residual: weighted RMS distance of the inliers in units of b. inliers: their share of the weight."""

    b_from_a: Sim3
    residual: float
    inliers: float


def fit_similarity(points_a: Array, points_b: Array, weights: Array) -> Sim3:
    """The similarity that minimises ``sum(weights * |points_b - b_from_a(points_a)|^2)`` in closed form.

    points: (n, 3), weights: (n,) not negative. Umeyama 1991. Raises ValueError if fewer than three points have weight
    or all of them coincide.
    """
    total = weights.sum()
    if np.count_nonzero(weights) < 3 or total <= 0:
        raise ValueError("a similarity needs at least three points with weight")
    share = (weights / total)[:, None]
    mean_a, mean_b = (share * points_a).sum(axis=0), (share * points_b).sum(axis=0)
    centred_a, centred_b = points_a - mean_a, points_b - mean_b
    variance = float((share * centred_a**2).sum())
    if variance <= 0:
        raise ValueError("a similarity needs points in more than one place")
    left, singular, right = np.linalg.svd((share * centred_b).T @ centred_a)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    rotation = left @ np.diag(signs) @ right
    scale = float((singular * signs).sum() / variance)
    return Sim3(scale, rotation, mean_b - scale * rotation @ mean_a)


def fit_robustly(points_a: Array, points_b: Array, weights: Array, start: Sim3) -> Alignment:
    """``fit_similarity`` that ignores outliers: reweighted by Geman and McClure's kernel from a rough ``start``.

    The kernel's width shrinks from the median distance at the start to twice the inliers' own spread.
    """
    estimate = start
    distance = np.linalg.norm(points_b - estimate.apply(points_a), axis=1)
    width = max(_weighted_median(distance, weights), 1e-12)
    kernel = np.ones_like(weights)
    for _ in range(ITERATIONS):
        kernel = 1 / (1 + (distance / width) ** 2) ** 2
        estimate = fit_similarity(points_a, points_b, weights * kernel)
        distance = np.linalg.norm(points_b - estimate.apply(points_a), axis=1)
        width = max(min(width, 2 * _weighted_median(distance, weights)), 1e-12)
    mean = float((weights * kernel * distance**2).sum() / (weights * kernel).sum())
    inliers = float(weights[distance < 3 * width].sum() / weights.sum())
    return Alignment(estimate, float(np.sqrt(mean)), inliers)


def align_frames(pairs: list[tuple[FrameGeometry, FrameGeometry]]) -> Alignment:
    """How chunk b sees chunk a, from frames that both contain, given as (frame in a, frame in b).

    The same pixel is the same point in both; confidence is the weight. Camera centres are points too, so that frames
    without depth count. Raises ValueError if too few frames, or no depth, determine a scale.
    """
    if not pairs:
        raise ValueError("there are no shared frames")
    points_a, points_b, weights = (np.concatenate(parts) for parts in zip(*map(_shared_points, pairs), strict=True))
    starts = [start for start in map(_rough_similarity, pairs) if start is not None]
    if not starts or len(points_a) < 3:
        raise ValueError("the shared frames have no depth in common")

    def spread(start: Sim3) -> float:
        return _weighted_median(np.linalg.norm(points_b - start.apply(points_a), axis=1), weights)

    return fit_robustly(points_a, points_b, weights, min(starts, key=spread))


def _shared_points(pair: tuple[FrameGeometry, FrameGeometry]) -> tuple[Array, Array, Array]:
    """Points (n, 3) of a and of b, and weights (n,): pixels with depth in both, and the camera centre."""
    first, second = pair
    both = (first.depth > 0) & (second.depth > 0)
    rows, columns = np.nonzero(both)
    step = max(1, len(rows) // MAX_POINTS_PER_FRAME)
    rows, columns = rows[::step], columns[::step]
    weights = np.sqrt(first.confidence[rows, columns] * second.confidence[rows, columns]).astype(np.float64)
    points = [
        np.vstack([points_in_chunk(frame, rows, columns), moved_to_chunk(np.zeros((1, 3)), frame.cam_from_chunk)])
        for frame in pair
    ]
    return points[0], points[1], np.append(weights, max(float(weights.sum()) * 0.1, 1.0))


def _rough_similarity(pair: tuple[FrameGeometry, FrameGeometry]) -> Sim3 | None:
    """From one shared frame: scale is the median ratio of depth, rotation and translation follow from the two poses."""
    first, second = pair
    both = (first.depth > 0) & (second.depth > 0)
    if not both.any():
        return None
    scale = float(np.median(second.depth[both] / first.depth[both]))
    b_from_cam = Sim3.from_matrix(second.cam_from_chunk).inverse()
    cam_from_a = Sim3.from_matrix(first.cam_from_chunk)
    return b_from_cam @ Sim3(scale, np.eye(3), np.zeros(3)) @ cam_from_a


def _weighted_median(values: Array, weights: Array) -> float:
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, 0.5 * cumulative[-1])])
