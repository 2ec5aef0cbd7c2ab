"""Keeps the matches of two frames that fit one geometry, and searches for more if they are few."""

from __future__ import annotations

import numpy as np
import pycolmap
from numpy.typing import NDArray

from recon.sfm.guidance import allowed_matches
from recon.sfm.matching import Features, GuidedMatcher
from recon.sfm.stored_features import rows_of

FEWEST_MATCHES = 15
GUIDE_BELOW = 150  # matches; pairs with more have enough tracks
MAX_ERROR = 4.0  # px of the working image
MAX_TRIALS = 1500  # COLMAP's default is 10000, but pairs that need more are too weak to help
FAR_TRIALS = 300  # for pairs of which others can take the place

Rows = NDArray[np.uint32]


def verify(
    matches: Rows,
    features: tuple[Features, Features],
    lenses: tuple[pycolmap.Camera, pycolmap.Camera],
    pixel: float,
    matcher: GuidedMatcher | None,
    *,
    trials: int = MAX_TRIALS,
) -> pycolmap.TwoViewGeometry:
    """The geometry of two frames and the matches that fit it, if there are at least FEWEST_MATCHES.

    pixel: size of a working pixel in original pixels. matcher: finds more matches if there are few; a match must then
    be distinctive only among the features that the geometry allows.
    """
    first, second = (view.keypoints[:, :2].astype(np.float64) for view in features)
    geometry = pycolmap.estimate_two_view_geometry(
        lenses[0], first, lenses[1], second, matches, _options(pixel, trials)
    )
    if geometry.config == pycolmap.TwoViewGeometryConfiguration.WATERMARK:
        geometry.inlier_matches = matches[:0]  # matches on text or a logo in the image, not on the scene
    if matcher and FEWEST_MATCHES <= len(geometry.inlier_matches) < GUIDE_BELOW:
        _match_again(matcher, geometry, features, allowed_matches(geometry, first, second, MAX_ERROR * pixel))
    return geometry


def _options(pixel: float, trials: int) -> pycolmap.TwoViewGeometryOptions:
    options = pycolmap.TwoViewGeometryOptions(min_num_inliers=FEWEST_MATCHES)
    options.ransac.random_seed = 0
    options.ransac.max_num_trials = trials
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
