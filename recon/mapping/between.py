"""Poses for frames that were passed over, from map points tracked from the neighbouring keyframes.

The points observed by a keyframe are projected into the frame with the previous frame's pose. From there they are
tracked by optical flow (Bouguet 2000) from the keyframe's own image, so that errors do not accumulate, and PnP with
RANSAC gives the pose. This takes a fraction of the time of features and matching. A map without points, because its
poses were not adjusted jointly, gives the depth at corners of its keyframes instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap

from recon.core.cameras import colmap_camera, rigid_matrix
from recon.core.projection import points_in_camera
from recon.core.similarity import Array, Sim3
from recon.core.types import Camera, Frame, FrameGeometry, Image, PlacedFrame, SkippedFrame
from recon.sources.decoding import read_photo
from recon.sources.keyframes import small_grey
from recon.store.map import ReconstructedMap, open_map

SIDE = 640  # longest side of the images used for tracking [px]
MOST_POINTS = 400  # of one keyframe
FEWEST_INLIERS = 12
MAX_ERROR = 2.0  # [px] of the small image
NOTHING = np.zeros((0, 3)), np.zeros((0, 2))
FLOW: dict[str, Any] = {"winSize": (17, 17), "maxLevel": 2, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}
PASSED = "was passed over as it shows little new, and "
TOO_LITTLE = PASSED + "too little of the map was found in it"
NO_POINTS = PASSED + "the map has neither points nor depth to place it by"


@dataclass(frozen=True, eq=False)
class _Keyframe:
    """A placed frame with its small image, and the world points (n, 3) that it observes at pixels (n, 2) there."""

    placed: PlacedFrame
    grey: Image
    points: Array
    pixels: Array


class FrameLocaliser:
    """Places frames between the keyframes of a finished map, in source order."""

    def __init__(self, reconstruction: ReconstructedMap) -> None:
        self._map = reconstruction
        self._observed = _observed(reconstruction)
        self._frames = {frame.index: frame for frame in reconstruction.frames}
        self._indices = np.array(sorted(self._frames))
        self._keyframe = lru_cache(maxsize=3)(self._load)
        self._cam_from_world: dict[int, Array | None] = {}  # of the previous frame of each camera

    def place(self, frame: Frame) -> PlacedFrame | SkippedFrame:
        """The frame's pose, or why it has none."""
        if not self._observed:
            return SkippedFrame(frame.index, frame.name, NO_POINTS, "passed")
        grey = small_grey(frame.image, SIDE)
        size = (grey.shape[1], grey.shape[0])
        around = [self._keyframe(index, size) for index in self._neighbours(frame)]
        if not around:
            return SkippedFrame(frame.index, frame.name, TOO_LITTLE, "passed")
        number = frame.mount.number if frame.mount else 0
        cameras = dict.fromkeys(keyframe.placed.camera for keyframe in around)
        suiting = [camera for camera in cameras if (camera.width, camera.height) == frame.original_size]
        beginnings = self._cam_from_world.get(number), around[0].placed.cam_from_world
        starts = [start for start in beginnings if start is not None]
        located = None
        for start in starts:  # in a zoom, either neighbour's lens may be wrong
            found = (locate(grey, around, camera, start) for camera in suiting)
            located = max(filter(None, found), key=lambda located: located.agreement, default=None)
            if located:
                break
        self._cam_from_world[number] = located.cam_from_world if located else None
        if located is None:
            return SkippedFrame(frame.index, frame.name, TOO_LITTLE, "passed")
        world_from_cam = Sim3.from_matrix(located.cam_from_world).inverse()
        return PlacedFrame(frame.index, frame.timestamp, frame.name, located.camera, world_from_cam)

    def _neighbours(self, frame: Frame) -> list[int]:
        """The keyframes before and after, of the same camera if it is one of a rig; the nearer one first."""
        views = frame.mount.count if frame.mount else 1
        own = self._indices[(self._indices - frame.index) % views == 0]
        after = int(np.searchsorted(own, frame.index))
        found = [int(row) for row in own[max(0, after - 1) : after + 1]]
        return sorted(found, key=lambda other: abs(other - frame.index))

    def _load(self, index: int, size: tuple[int, int]) -> _Keyframe:
        placed = self._frames[index]
        original = cv2.cvtColor(read_photo(self._map.images / placed.name).pixels, cv2.COLOR_RGB2GRAY)
        grey = np.asarray(cv2.resize(original, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        points, pixels = self._observed.get(index, NOTHING)
        return _Keyframe(placed, grey, points, to_small(pixels, placed.camera, grey))


def _observed(reconstruction: ReconstructedMap) -> dict[int, tuple[Array, Array]]:
    """By frame: the world points (n, 3) that it observes, and their pixels (n, 2) in the original."""
    points = reconstruction.points
    if not len(points.positions):
        found = {placed.index: at_corners(placed, geometry) for placed, geometry in reconstruction.geometry()}
        return {index: observed for index, observed in found.items() if len(observed[0])}
    thinned = {index: rows[:: 1 + len(rows) // MOST_POINTS] for index, rows in points.rows_by_frame().items()}
    return {index: (points.positions[points.point_ids[rows]], points.pixels[rows]) for index, rows in thinned.items()}


def at_corners(placed: PlacedFrame, geometry: FrameGeometry) -> tuple[Array, Array]:
    """World points (n, 3) at the corners of a frame whose depth is sure, and their pixels (n, 2) in the original."""
    sure = geometry.sure()
    grey = cv2.cvtColor(sure.colour, cv2.COLOR_RGB2GRAY)
    has_depth = (sure.depth > 0).astype(np.uint8)
    corners = cv2.goodFeaturesToTrack(grey, MOST_POINTS, qualityLevel=0.005, minDistance=3, mask=has_depth)
    if corners is None:
        return NOTHING
    columns, rows = np.asarray(corners[:, 0], dtype=np.int64).T
    points_cam = points_in_camera(sure, rows, columns)
    pixels = np.asarray(colmap_camera(placed.camera).img_from_cam(points_cam)).reshape(-1, 2)
    return placed.world_from_cam.apply(points_cam), pixels


def open_localiser(folder: Path) -> FrameLocaliser:
    """A localiser for the map in ``folder``. Raises MapError."""
    return FrameLocaliser(open_map(folder))


@dataclass(frozen=True, eq=False)
class _Located:
    """The pose (4, 4) of an image, the assumed lens, and the support: each point adds 0 to 1."""

    cam_from_world: Array
    camera: Camera
    agreement: float


def locate(grey: Image, around: list[_Keyframe], camera: Camera, start: Array) -> _Located | None:
    """The pose of a small image, from the points of the keyframes around it; ``start`` is a nearby pose."""
    followed = [follow(keyframe, grey, camera, start) for keyframe in around]
    pixels, points = (np.concatenate(parts) for parts in zip(*followed, strict=True))
    if len(pixels) < FEWEST_INLIERS:
        return None
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.random_seed, options.ransac.max_num_trials = 0, 1000
    options.ransac.max_error = MAX_ERROR * camera.width / grey.shape[1]
    originals, lens = to_original(pixels, camera, grey), colmap_camera(camera)
    found = pycolmap.estimate_and_refine_absolute_pose(originals, points, lens, options)
    if found is None or found["num_inliers"] < max(FEWEST_INLIERS, len(pixels) // 4):
        return None
    errors = np.linalg.norm(np.asarray(lens.img_from_cam(found["cam_from_world"] * points)) - originals, axis=1)
    agreement = np.maximum(1 - np.nan_to_num(errors / options.ransac.max_error, nan=1.0) ** 2, 0).sum()
    return _Located(rigid_matrix(found["cam_from_world"]), camera, float(agreement))


def follow(keyframe: _Keyframe, grey: Image, camera: Camera, start: Array) -> tuple[Array, Array]:
    """Pixels (n, 2) in the small image ``grey`` of a keyframe's points (n, 3) that were tracked."""
    points_cam = keyframe.points @ start[:3, :3].T + start[:3, 3]
    front = points_cam[:, 2] > 1e-6
    expected = to_small(np.asarray(colmap_camera(camera).img_from_cam(points_cam[front])).reshape(-1, 2), camera, grey)
    inside = ((expected >= 0) & (expected < grey.shape[::-1])).all(axis=1)
    if not inside.any():
        return np.zeros((0, 2)), np.zeros((0, 3))
    before = keyframe.pixels[front][inside].astype(np.float32)
    guess = expected[inside].astype(np.float32)
    found, status, _ = cv2.calcOpticalFlowPyrLK(keyframe.grey, grey, before, guess, **FLOW)
    kept = (status.ravel() == 1) & ((found >= 0) & (found < grey.shape[::-1])).all(axis=1)
    return found[kept].astype(np.float64), keyframe.points[front][inside][kept]


def to_small(pixels: Array, camera: Camera, grey: Image) -> Array:
    """Pixels (n, 2) from the original, centres at .5, to the small image, centres at integers as in OpenCV."""
    return np.asarray(pixels * [grey.shape[1] / camera.width, grey.shape[0] / camera.height] - 0.5)


def to_original(pixels: Array, camera: Camera, grey: Image) -> Array:
    """The inverse of ``to_small``."""
    return np.asarray((pixels + 0.5) * [camera.width / grey.shape[1], camera.height / grey.shape[0]])
