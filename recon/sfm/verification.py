"""Keeps the matches of two frames that fit one geometry, and searches for more if they are few."""

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
GUIDE_BELOW = 150  # matches; pairs with more have enough tracks
MAX_ERROR = 4.0  # px of the working image
SEARCH_TRIALS = 5000
LOOSE = 1.5  # times MAX_ERROR, for the search
MIN_TRIALS, MAX_TRIALS = 30, 300  # for the matches that are left, nearly all of them right

Rows = NDArray[np.uint32]


def verify(
    matches: Rows,
    features: tuple[Features, Features],
    lenses: tuple[pycolmap.Camera, pycolmap.Camera],
    pixel: float,
    matcher: GuidedMatcher | None,
) -> pycolmap.TwoViewGeometry:
    """The geometry of two frames and the matches that fit it, if there are at least FEWEST_MATCHES.

    COLMAP's estimators judge what is left of the matches after a quick search for an epipolar geometry, which is three
    times as fast as giving them all matches.

    pixel: size of a working pixel in original pixels. matcher: finds more matches if there are few; a match must then
    be distinctive only among the features that the geometry allows.
    """
    first, second = (view.keypoints[:, :2].astype(np.float64) for view in features)
    left = matches[_fit_epipolar(first[matches[:, 0]], second[matches[:, 1]], LOOSE * MAX_ERROR * pixel)]
    geometry = pycolmap.estimate_two_view_geometry(lenses[0], first, lenses[1], second, left, _options(pixel))
    if geometry.config == pycolmap.TwoViewGeometryConfiguration.WATERMARK:
        geometry.inlier_matches = matches[:0]  # matches on text or a logo in the image, not on the scene
    if matcher and FEWEST_MATCHES <= len(geometry.inlier_matches) < GUIDE_BELOW:
        _match_again(matcher, geometry, features, allowed_matches(geometry, first, second, MAX_ERROR * pixel))
    return geometry


def _fit_epipolar(first: Array, second: Array, max_error: float) -> NDArray[np.bool_]:
    """Which matched pixels (n, 2) fit the epipolar geometry that most of them fit, by USAC (Raguram et al. 2013)."""
    try:
        _, fit = cv2.findFundamentalMat(first, second, cv2.USAC_FAST, max_error, 0.999, SEARCH_TRIALS)
    except cv2.error:  # no geometry, as of an image that stands still
        fit = None
    return np.ones(len(first), dtype=np.bool_) if fit is None else fit.ravel() > 0


def _options(pixel: float) -> pycolmap.TwoViewGeometryOptions:
    options = pycolmap.TwoViewGeometryOptions(min_num_inliers=FEWEST_MATCHES)
    options.ransac.random_seed = 0
    options.ransac.min_num_trials, options.ransac.max_num_trials = MIN_TRIALS, MAX_TRIALS
    options.ransac.max_error = MAX_ERROR * pixel
    return options


def _match_again(
    matcher: GuidedMatcher,
    geometry: pycolmap.TwoViewGeometry,
    features: tuple[Features, Features],
    allowed: NDArray[np.bool_] | None,
) -> None:
    """Match among the ``allowed`` pairs of features, and keep the result if it has more matches."""
    if allowed is None:
        return
    more = rows_of(matcher.match_guided(*features, allowed), *features)
    if len(more) > len(geometry.inlier_matches):
        geometry.inlier_matches = more
