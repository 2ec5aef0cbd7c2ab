"""Keeps the matches of two frames that agree with one geometry: a fundamental matrix, or a homography.

The rules for the kind of a geometry are COLMAP's (Schoenberger and Frahm 2016), which reads it from the database. The
fundamental matrix is found by MAGSAC++ (Barath et al. 2020): a tenth of the time of COLMAP's own RANSAC.
"""

from __future__ import annotations

import cv2
import numpy as np
import pycolmap
from numpy.typing import NDArray

from recon.core.similarity import Array
from recon.sfm.guidance import allowed_matches
from recon.sfm.matching import Features, GuidedMatcher
from recon.sfm.stored_features import rows_of

FEWEST_MATCHES = 15
GUIDE_BELOW = 150  # matches: better pairs have tracks enough
MAX_ERROR = 4.0  # px of the working image
NOISE = 1.5  # px of the working image, of a good match
MAX_TRIALS, CONFIDENCE = 1500, 0.999  # pairs that need more trials are too weak to help
PLANAR_SHARE = 0.8  # of the epipolar inliers that fit a homography, from which the scene counts as flat
BORDER = 0.1  # of the image's diagonal
WATERMARK_SHARE = 0.7  # of the inliers that are at the border, and of those that move alike

Kind = pycolmap.TwoViewGeometryConfiguration
Rows = NDArray[np.uint32]


def verify(
    matches: Rows, first: Features, second: Features, pixel: float, matcher: GuidedMatcher | None = None
) -> pycolmap.TwoViewGeometry:
    """The geometry of two frames and the matches that agree with it, if there are at least FEWEST_MATCHES.

    pixel: of the working image, in pixels of the original. matcher: finds more matches if there are few. Those that the
    geometry allows need not stand out among all features.
    """
    geometry = estimate(matches, first, second, pixel)
    if matcher is None or not 0 < len(geometry.inlier_matches) < GUIDE_BELOW:
        return geometry
    allowed = allowed_matches(geometry, _positions(first), _positions(second), MAX_ERROR * pixel)
    if allowed is not None:
        more = rows_of(matcher.match_guided(first, second, allowed), first, second)
        if len(more) > len(geometry.inlier_matches):
            geometry.inlier_matches = more
    return geometry


def estimate(matches: Rows, first: Features, second: Features, pixel: float) -> pycolmap.TwoViewGeometry:
    """Like ``verify``, without more matches."""
    geometry = pycolmap.TwoViewGeometry()
    geometry.config = Kind.DEGENERATE
    pixels = _positions(first)[matches[:, 0]], _positions(second)[matches[:, 1]]
    fundamental, epipolar = _fundamental(*pixels, pixel)
    homography, flat = _homography(*pixels, pixel)
    is_flat = flat.sum() > PLANAR_SHARE * epipolar.sum()
    kept = flat if flat.sum() > epipolar.sum() else epipolar
    if kept.sum() < FEWEST_MATCHES:
        return geometry
    geometry.F, geometry.H = fundamental, homography
    if _is_watermark(pixels[0][kept], pixels[1][kept], (first.size, second.size), pixel):
        geometry.config = Kind.WATERMARK  # a text or logo in the image, not the scene
        return geometry
    geometry.config = Kind.PLANAR_OR_PANORAMIC if is_flat else Kind.UNCALIBRATED
    geometry.inlier_matches = matches[kept]
    return geometry


def _positions(features: Features) -> Array:
    return features.keypoints[:, :2].astype(np.float64)


def sampson_errors(fundamental: Array, first: Array, second: Array) -> Array:
    """Sampson errors (n,) [px] of pixels (n, 2) (Hartley and Zisserman 2004, equation 11.9)."""
    points_first, points_second = (np.column_stack([pixels, np.ones(len(pixels))]) for pixels in (first, second))
    lines_second, lines_first = points_first @ fundamental.T, points_second @ fundamental
    spread = (lines_second[:, :2] ** 2).sum(axis=1) + (lines_first[:, :2] ** 2).sum(axis=1)
    return np.asarray(np.abs((points_second * lines_second).sum(axis=1)) / np.sqrt(spread + 1e-18))


def _fundamental(first: Array, second: Array, pixel: float) -> tuple[Array | None, NDArray[np.bool_]]:
    """The fundamental matrix (3, 3), and the matches (n,) that agree with it."""
    try:
        found, _ = cv2.findFundamentalMat(first, second, cv2.USAC_MAGSAC, NOISE * pixel, CONFIDENCE, MAX_TRIALS)
    except cv2.error:  # how OpenCV reports no model
        found = None
    if found is None or found.shape != (3, 3) or not np.isfinite(found).all():
        return None, np.zeros(len(first), np.bool_)
    fundamental = np.asarray(found, dtype=np.float64)
    return fundamental, sampson_errors(fundamental, first, second) <= MAX_ERROR * pixel


def _homography(first: Array, second: Array, pixel: float) -> tuple[Array | None, NDArray[np.bool_]]:
    """The homography (3, 3) from the first frame to the second, and the matches (n,) that agree with it."""
    options = pycolmap.RANSACOptions(max_error=MAX_ERROR * pixel, max_num_trials=MAX_TRIALS, random_seed=0)
    found = pycolmap.estimate_homography_matrix(first, second, options)
    if found is None:
        return None, np.zeros(len(first), np.bool_)
    return np.asarray(found["H"]), np.asarray(found["inlier_mask"], dtype=np.bool_)


def _is_watermark(first: Array, second: Array, sizes: tuple[tuple[int, int], tuple[int, int]], pixel: float) -> bool:
    """Whether most matches are at the border in both frames, and most of these have one shift in common."""
    at_border = np.logical_and(*(_at_border(side, size) for side, size in zip((first, second), sizes, strict=True)))
    if at_border.sum() < WATERMARK_SHARE * len(first):
        return False
    shifts = (second - first)[at_border]
    alike = np.linalg.norm(shifts - np.median(shifts, axis=0), axis=1) < MAX_ERROR * pixel
    return bool(alike.sum() >= WATERMARK_SHARE * len(first))


def _at_border(pixels: Array, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether each pixel (n, 2) is at the border."""
    width = BORDER * float(np.hypot(*size))
    return np.asarray(((pixels < width) | (pixels > np.array(size) - width)).any(axis=1))
