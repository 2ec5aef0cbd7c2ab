"""The first map of a stream, from the corners of a few views; it is refused if they do not determine it.

Two views give the relative pose (Nister 2004) and points, the views between find their poses by these, and all are
adjusted. A camera that only turns, or a flat scene, moves the picture by a homography: then depth is unknown, or
ambiguous, and there is no map yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.similarity import Array
from recon.core.types import Camera
from recon.tracking.adjustment import Adjusted, Bundle, adjust
from recon.tracking.corners import SIDE, View, shared_rows
from recon.tracking.landmarks import SURE_DEPTH, Landmarks
from recon.tracking.lens import rays, stretched
from recon.tracking.pose import locate

SPANS = (60, 40, 28, 20, 14, 10, 7, 5)  # frames from the first view to the last
FEWEST = 100  # corners in both
FEWEST_SHARE = 0.5  # of those of the last view
LEAST_MOTION = 0.03  # of the corners, median, as a share of the longest side
BETWEEN = 4  # views
OFF_HOMOGRAPHY = 4.0  # [px] of the small image
PARALLAX_SHARE = 0.25  # of the corners must be that far from where the best homography has them
EPIPOLAR_SHARE = 0.75  # must agree with the relative pose
GOOD_ERROR, GOOD_SHARE = 3.0, 0.85  # standard deviations, and share of the observations that are no further off
SURE_SHARE = 0.6  # of the points
LENS_PRIOR = 0.25  # relative standard deviation of a guessed focal length
UNSURE_LENS = 0.1  # of one that is too unsure for a beginning
GUESSED_DEPTH = 0.2
ANY_DEPTH = 0.5  # relative standard deviation of a distance before the adjustment
ITERATIONS = 15


@dataclass(frozen=True, eq=False)
class Beginning:
    """views: in order. poses: (v, 4, 4) cam_from_world, the first one the identity. tracks: (n,) corners, ascending.
    positions: (n, 3), so that the median depth in the last view is 1. sigma: (n,) relative, of their distances. camera:
    the lens, with the focal length of these views unless it is known.
    """

    views: tuple[View, ...]
    camera: Camera
    lens_is_known: bool
    poses: Array
    tracks: NDArray[np.int64]
    positions: Array
    sigma: Array


def begin(views: Sequence[View], camera: Camera, *, lens_is_known: bool, noise_px: float) -> Beginning | None:
    """The first map from the views up to the last one; None if it is not determined.

    camera: the lens, or a guess. noise_px: standard deviation of a corner in a picture whose longest side is SIDE.
    """
    for span in SPANS:
        if span < len(views):
            chosen = [views[-1 - span + round(part)] for part in np.linspace(0, span, BETWEEN + 2)]
            first, last = shared_rows(chosen[0].tracks, chosen[-1].tracks)
            if len(first) >= max(FEWEST, FEWEST_SHARE * len(chosen[-1].tracks)):
                before, after = chosen[0].pixels[first], chosen[-1].pixels[last]
                if not _has_parallax(before, after, max(camera.width, camera.height)):
                    return None
                return _Few(chosen, camera, lens_is_known, noise_px).solve(chosen[0].tracks[first])
    return None


def _has_parallax(before: Array, after: Array, side: int) -> bool:
    """Whether corners (n, 2) [px] have moved, and not as a turn, or a flat scene, would move them."""
    if np.median(np.linalg.norm(after - before, axis=1)) < LEAST_MOTION * side:
        return False
    largest = OFF_HOMOGRAPHY * side / SIDE
    homography, _ = cv2.findHomography(before, after, cv2.RANSAC, largest, maxIters=300)
    if homography is None:
        return False
    moved = cv2.perspectiveTransform(before[:, None], homography)[:, 0]
    return bool((np.linalg.norm(moved - after, axis=1) > largest).mean() >= PARALLAX_SHARE)


class _Few:
    """A few views of the same corners, in order."""

    def __init__(self, views: Sequence[View], camera: Camera, lens_is_known: bool, noise_px: float) -> None:
        self.views, self.camera, self.prior = views, camera, 0.0 if lens_is_known else LENS_PRIOR
        self.noise = noise_px * max(camera.width, camera.height) / SIDE / camera.matrix()[0, 0]

    def solve(self, tracks: NDArray[np.int64]) -> Beginning | None:
        """Start from the corners (n,) that the first and the last view share."""
        first, last = (self._seen(view, tracks) for view in (self.views[0], self.views[-1]))
        found = _relative_pose(first, last, self.noise)
        if found is None:
            return None
        pose, points, agrees = found
        landmarks = Landmarks.first_seen(first[agrees], np.eye(4), 1 / points[agrees, 2], GUESSED_DEPTH)
        tracks = tracks[agrees]
        poses = self._poses(landmarks, tracks, pose)
        return None if poses is None else self._adjusted(poses, tracks, landmarks.points())

    def _seen(self, view: View, tracks: NDArray[np.int64]) -> Array:
        """Where a view sees corners (n, 2) that it has, on the plane z = 1."""
        return rays(self.camera, view.pixels[np.searchsorted(view.tracks, tracks)])

    def _poses(self, landmarks: Landmarks, tracks: NDArray[np.int64], last: Array) -> Array | None:
        """The poses (v, 4, 4) of all views, from the first one to the last."""
        poses = [np.eye(4)]
        for view in self.views[1:-1]:
            rows, known = shared_rows(view.tracks, tracks)
            pose = locate(landmarks.of(known), rays(self.camera, view.pixels[rows]), poses[-1], self.noise)
            if pose is None:
                return None
            poses.append(pose.cam_from_world)
        return np.array([*poses, last])

    def _adjusted(self, poses: Array, tracks: NDArray[np.int64], points: Array) -> Beginning | None:
        """The adjusted beginning, without corners that disagree; None if the views do not determine the lens."""
        sigma = np.full(len(points), ANY_DEPTH)
        bundle = observed(self.views, self.camera, poses, tracks=tracks, points=points, sigma=sigma)
        try:
            adjusted = self._adjust(bundle)
            good = adjusted.errors < GOOD_ERROR
            adjusted = self._adjust(_of_good_points(adjusted.bundle, good))
        except np.linalg.LinAlgError:
            return None
        return self._accepted(adjusted, tracks[_good_points(bundle, good)], float(good.mean()))

    def _adjust(self, bundle: Bundle) -> Adjusted:
        return adjust(bundle, self.noise, iterations=ITERATIONS, stretch_prior=self.prior)

    def _accepted(self, adjusted: Adjusted, tracks: NDArray[np.int64], good: float) -> Beginning | None:
        bundle = adjusted.bundle
        depth = bundle.points @ bundle.poses[-1, 2, :3] + bundle.poses[-1, 2, 3]
        sure = (adjusted.sigma < SURE_DEPTH) & (depth > 0)
        if good < GOOD_SHARE or adjusted.stretch_sigma > UNSURE_LENS:
            return None
        if sure.sum() < FEWEST / 2 or sure.mean() < SURE_SHARE:
            return None
        unit = float(np.median(depth[sure]))
        poses = bundle.poses.copy()
        poses[:, :3, 3] /= unit
        return Beginning(
            tuple(self.views),
            stretched(self.camera, bundle.stretch),
            not self.prior,
            poses,
            tracks[sure],
            bundle.points[sure] / unit,
            adjusted.sigma[sure],
        )


def observed(
    views: Sequence[View], camera: Camera, poses: Array, *, tracks: NDArray[np.int64], points: Array, sigma: Array
) -> Bundle:
    """The bundle of corners (n,), ascending and each seen by some view, at (n, 3), in views with poses (v, 4, 4).
    sigma: (n,) as in ``Bundle``."""
    pairs = [shared_rows(view.tracks, tracks) for view in views]
    seen = [rays(camera, view.pixels[rows]) for view, (rows, _) in zip(views, pairs, strict=True)]
    rows = np.concatenate([found for _, found in pairs])
    cameras = np.repeat(np.arange(len(views)), [len(found) for _, found in pairs])
    order = np.lexsort((cameras, rows))
    return Bundle(poses, points, sigma, cameras[order], rows[order], np.concatenate(seen)[order])


def _good_points(bundle: Bundle, good: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which points (p,) at least three good observations show."""
    return np.bincount(bundle.rows[good], minlength=len(bundle.points)) >= 3


def _of_good_points(bundle: Bundle, good: NDArray[np.bool_]) -> Bundle:
    """Without the observations that are not good, and the points that too few others show."""
    points = _good_points(bundle, good)
    kept = good & points[bundle.rows]
    rows = (np.cumsum(points) - 1)[bundle.rows[kept]]
    return replace(
        bundle,
        points=bundle.points[points],
        sigma=bundle.sigma[points],
        cameras=bundle.cameras[kept],
        rows=rows,
        seen=bundle.seen[kept],
    )


def _relative_pose(first: Array, last: Array, noise: float) -> tuple[Array, Array, NDArray[np.bool_]] | None:
    """The pose (4, 4) of the last view in the first, points (n, 3) and whether they agree (n,); the distance of the
    views is 1. None if too few agree."""
    essential, agrees = cv2.findEssentialMat(first, last, np.eye(3), cv2.RANSAC, 0.999, 2 * noise)
    if essential is None or essential.shape != (3, 3):
        return None
    _, rotation, shift, agrees, points = cv2.recoverPose(
        essential, first, last, np.eye(3), distanceThresh=1000.0, mask=agrees
    )
    good = np.asarray(agrees).ravel() > 0
    if good.mean() < EPIPOLAR_SHARE or good.sum() < FEWEST / 2:
        return None
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, shift.ravel()
    with np.errstate(all="ignore"):  # points that do not agree may lie at infinity
        return pose, np.asarray((points[:3] / points[3]).T, dtype=np.float64), good
