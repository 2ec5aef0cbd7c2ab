"""AprilTags and ArUco markers in the images of a map, whose sides are known lengths.

A tag is detected by OpenCV in any of the usual dictionaries. Its corners are triangulated from the poses of all frames
that see it; only a square on which the frames agree is believed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.cameras import colmap_camera, points_at_depth_one
from recon.core.errors import SettingsError
from recon.core.similarity import Array
from recon.core.types import PlacedFrame
from recon.metric.observations import Length
from recon.sources.decoding import UnreadableImage, read_photo
from recon.store.map import ReconstructedMap

# The smaller dictionaries of each kind are the beginnings of these.
DICTIONARIES = {
    "AprilTag 36h11": cv2.aruco.DICT_APRILTAG_36h11,
    "AprilTag 25h9": cv2.aruco.DICT_APRILTAG_25h9,
    "AprilTag 16h5": cv2.aruco.DICT_APRILTAG_16h5,
    "ArUco 4x4": cv2.aruco.DICT_4X4_1000,
    "ArUco 5x5": cv2.aruco.DICT_5X5_1000,
    "ArUco 6x6": cv2.aruco.DICT_6X6_1000,
    "ArUco 7x7": cv2.aruco.DICT_7X7_1000,
    "ArUco original": cv2.aruco.DICT_ARUCO_ORIGINAL,
}
FEWEST_FRAMES = 3
LEAST_ANGLE = np.radians(2.0)  # between rays of two frames
MAX_ERROR = 0.003  # reprojection error over the focal length
MAX_UNEQUAL = 1.05  # ratio of the sides of a square
TRIALS, SEED = 100, 0  # pairs of frames
ROUNDS = 3  # of reweighted least squares


@dataclass(frozen=True, eq=False)
class Sighting:
    """A tag in one frame. cam_from_world: (3, 4). corners: (4, 2) at depth 1, undistorted."""

    cam_from_world: Array
    corners: Array


def find_tags(reconstruction: ReconstructedMap, size: float) -> list[Length]:
    """The sides of all tags in the map, of ``size`` metres: the edge of the black square.

    Raises SettingsError if no tag is seen well enough, or ``size`` is not positive.
    """
    if not (np.isfinite(size) and size > 0):
        raise SettingsError(f"--tag-size needs a positive number of metres, got {size:g}.")
    sightings = _sightings(reconstruction)
    lengths = []
    for name, seen in sorted(sightings.items()):
        corners = triangulate(seen)
        if corners is not None:
            sides = zip(corners, np.roll(corners, -1, axis=0), strict=True)
            lengths += [Length(f"{name}, side {n}", np.array(side), size) for n, side in enumerate(sides, start=1)]
    if not lengths:
        seen_at_all = f", although {len(sightings)} are seen in some" if sightings else ""
        raise SettingsError(
            f"No AprilTag or ArUco marker is seen by {FEWEST_FRAMES} or more frames of {reconstruction.folder} from "
            f"different places{seen_at_all}. Give a known --length instead."
        )
    return lengths


def _sightings(reconstruction: ReconstructedMap) -> dict[str, list[Sighting]]:
    """The frames that see each tag, by the tag's name."""
    parameters = cv2.aruco.DetectorParameters()
    # It fits lines to the sides. The other methods shrink tags of 40 pixels by 0.7% and more.
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_APRILTAG
    dictionaries = [cv2.aruco.getPredefinedDictionary(number) for number in DICTIONARIES.values()]
    detector, names = cv2.aruco.ArucoDetector(dictionaries, parameters), list(DICTIONARIES)
    found = defaultdict[str, list[Sighting]](list)
    for frame in reconstruction.frames:
        try:
            grey = cv2.cvtColor(read_photo(reconstruction.images / frame.name).pixels, cv2.COLOR_RGB2GRAY)
        except (UnreadableImage, OSError):  # recon check names it
            continue
        corners, ids, _, kinds = detector.detectMarkersMultiDict(grey)
        if ids is not None:
            for corner, number, kind in zip(corners, ids.ravel(), kinds.ravel(), strict=True):
                pixels = corner.reshape(4, 2).astype(np.float64) + 0.5  # OpenCV's pixel centres are integers
                found[f"{names[int(kind)]} {number}"].append(_sighting(frame, pixels))
    return found


def _sighting(frame: PlacedFrame, pixels: Array) -> Sighting:
    return Sighting(frame.cam_from_world[:3], points_at_depth_one(colmap_camera(frame.camera), pixels))


def triangulate(seen: Sequence[Sighting]) -> Array | None:
    """The corners (4, 3) of a tag in the world; None unless frames from different places agree on a square.

    RANSAC over pairs of frames, then linear least squares over those that agree, weighted so as to minimise the
    reprojection error (Hartley and Sturm 1997).
    """
    if len(seen) < FEWEST_FRAMES:
        return None
    poses, corners = np.array([one.cam_from_world for one in seen]), np.array([one.corners for one in seen])
    trials = list(combinations(range(len(seen)), 2))
    trials = [trials[row] for row in np.random.default_rng(SEED).permutation(len(trials))[:TRIALS]]
    agreeing = [_agreeing(_points(poses[list(rows)], corners[list(rows)]), poses, corners) for rows in trials]
    used = max(agreeing, key=np.count_nonzero)
    if used.sum() < max(FEWEST_FRAMES, len(seen) / 2):
        return None
    points = _points(poses[used], corners[used])
    if not _agreeing(points, poses[used], corners[used]).all():
        return None
    sides = np.linalg.norm(points - np.roll(points, -1, axis=0), axis=1)
    wide = _widest_angle(poses[used], points) >= LEAST_ANGLE
    return points if wide and sides.max() <= MAX_UNEQUAL * sides.min() else None


def _points(poses: Array, corners: Array) -> Array:
    """The points (4, 3) that cameras (n, 3, 4) see at corners (n, 4, 2) at depth 1."""
    equations = corners[..., None] * poses[:, None, 2:] - poses[:, None, :2]  # (n, 4, 2, 4)
    depths = np.ones(corners.shape[:2])
    for _ in range(ROUNDS):
        weighted = np.swapaxes(equations / depths[..., None, None], 0, 1).reshape(4, -1, 4)
        points = np.array([np.linalg.lstsq(rows[:, :3], -rows[:, 3], rcond=None)[0] for rows in weighted])
        depths = np.maximum(_in_cameras(points, poses)[..., 2], 1e-9)
    return points


def _in_cameras(points: Array, poses: Array) -> Array:
    """Points (m, 3) of the world in cameras (n, 3, 4): (n, m, 3)."""
    return np.asarray(points @ np.swapaxes(poses[:, :, :3], 1, 2) + poses[:, None, :, 3])


def _agreeing(points: Array, poses: Array, corners: Array) -> NDArray[np.bool_]:
    """Which cameras (n,) see all points in front of them and at their corners."""
    points_cam = _in_cameras(points, poses)
    with np.errstate(all="ignore"):
        errors = np.linalg.norm(points_cam[..., :2] / points_cam[..., 2:] - corners, axis=2)
    return np.asarray(((points_cam[..., 2] > 0) & (errors <= MAX_ERROR)).all(axis=1))


def _widest_angle(poses: Array, points: Array) -> float:
    """The largest angle [rad] between the rays of two cameras to the middle of a tag."""
    centres = -np.einsum("nji,nj->ni", poses[:, :, :3], poses[:, :, 3])
    rays = points.mean(axis=0) - centres
    rays /= np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-12)
    return float(np.arccos(np.clip((rays @ rays.T).min(initial=1.0), -1, 1)))
