"""Finds the place of a picture among the placed keyframes, by ORB features (Rublee et al. 2011) with depth."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from recon.core.projection import points_in_camera
from recon.core.similarity import Array
from recon.core.types import FrameGeometry, Image, PlacedFrame
from recon.tracking.depths import depth_at
from recon.tracking.landmarks import Landmarks
from recon.tracking.lens import rays
from recon.tracking.pose import Pose, locate

FEATURES = 500
POINTS = 5000  # of a keyframe's depth
CLOSE = 4  # points around a pixel
MOST_KEYFRAMES = 400
TRIED = 4  # keyframes for each picture
RATIO = 0.8  # of the distances of the best and the second best match
FEWEST_MATCHES = 30
NOISE = 2.0  # [px] of a feature
DEPTH_NOISE = 0.02  # relative
Descriptors = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Found:
    """keyframe: the one that shows the place. pose: of the picture. points: (n, 3) of the keyframe, in the world."""

    keyframe: PlacedFrame
    pose: Pose
    points: Array

    def depth_at(self, seen: Array) -> Array:
        """Depth (n,) in world units where the picture sees (n, 2) on the plane z = 1: that of the nearest of the points
        close by; 0 where there are none."""
        pose = self.pose.cam_from_world
        cam = self.points @ pose[:3, :3].T + pose[:3, 3]
        cam = cam[cam[:, 2] > 0]
        if len(cam) < CLOSE:
            return np.zeros(len(seen))
        apart, near = (np.asarray(found) for found in KDTree(cam[:, :2] / cam[:, 2:]).query(seen, k=CLOSE))
        depth = np.where(apart < 2 * np.median(apart[:, -1]), cam[near, 2], np.inf).min(axis=1)
        return np.where(np.isfinite(depth), depth, 0.0)


@dataclass(frozen=True, eq=False)
class _Features:
    """descriptors: (n, 32). seen: (n, 2) on the plane z = 1. depth: (n,), and points: (m, 3) in the camera, both in the
    unit of the stored depth.
    """

    descriptors: Descriptors
    seen: Array
    depth: Array
    points: NDArray[np.float32]


class Places:
    """Features of the placed keyframes, described one by one, so that none of the frames between has to wait. If there
    are too many keyframes, every second one is forgotten.
    """

    def __init__(self) -> None:
        self._orb = cv2.ORB.create(FEATURES)
        self._matcher = cv2.BFMatcher(cv2.NORM_HAMMING)
        self._features: dict[int, _Features] = {}
        self._added: deque[FrameGeometry] = deque()
        self._turn = 0  # how many keyframes were tried since the last success

    def add(self, geometry: FrameGeometry) -> None:
        """Remember a placed keyframe, to be described."""
        self._added.append(geometry)

    def describe_one(self) -> None:
        """Describe the newest of the keyframes that are not described yet."""
        if self._added:
            self._describe(self._added.pop())

    def _describe(self, geometry: FrameGeometry) -> None:
        keypoints, descriptors = self._orb.detectAndCompute(cv2.cvtColor(geometry.colour, cv2.COLOR_RGB2GRAY), None)
        if descriptors is None:
            return
        pixels = np.array([keypoint.pt for keypoint in keypoints]) + 0.5
        depth = depth_at(geometry, pixels)
        has = depth > 0
        rays_cam = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(geometry.intrinsics).T
        self._features[geometry.index] = _Features(descriptors[has], rays_cam[has, :2], depth[has], _thinned(geometry))
        if len(self._features) > MOST_KEYFRAMES:
            self._features = dict(sorted(self._features.items())[::2])

    def find(self, grey: Image, size: tuple[int, int], placed: Mapping[int, PlacedFrame]) -> Found | None:
        """The place of a small picture whose original has a (width, height); tries a few keyframes, the next few the
        next time, from the newest to the oldest. placed: all keyframes, by index."""
        self.describe_one()
        candidates = sorted(self._features, reverse=True)
        keypoints, descriptors = self._orb.detectAndCompute(grey, None)
        if descriptors is None or not candidates:
            return None
        pixels = (np.array([keypoint.pt for keypoint in keypoints]) + 0.5) * np.divide(size, grey.shape[::-1])
        for _ in range(min(TRIED, len(candidates))):
            keyframe = placed[candidates[self._turn % len(candidates)]]
            found = self._compare(keyframe, pixels, descriptors, grey.shape[1])
            if found is not None:
                self._turn = 0
                return found
            self._turn += 1
        return None

    def _compare(self, keyframe: PlacedFrame, pixels: Array, descriptors: Descriptors, width: int) -> Found | None:
        stored, camera = self._features[keyframe.index], keyframe.camera
        pairs = self._matcher.knnMatch(descriptors, stored.descriptors, k=2)
        best = [pair[0] for pair in pairs if len(pair) == 2 and pair[0].distance < RATIO * pair[1].distance]
        if len(best) < FEWEST_MATCHES:
            return None
        here, there = np.array([(match.queryIdx, match.trainIdx) for match in best]).T
        inverse = 1 / (stored.depth[there] * keyframe.world_from_cam.scale)
        landmarks = Landmarks.first_seen(stored.seen[there], keyframe.cam_from_world, inverse, DEPTH_NOISE)
        noise = NOISE * camera.width / width / camera.matrix()[0, 0]
        found = locate(landmarks, rays(camera, pixels[here]), keyframe.cam_from_world, noise)
        if found is None or not found.is_sure:
            return None
        return Found(keyframe, found, keyframe.world_from_cam.apply(stored.points.astype(np.float64)))


def _thinned(geometry: FrameGeometry) -> NDArray[np.float32]:
    """About POINTS points (n, 3) in the camera, evenly over the image."""
    step = max(1, round((geometry.depth.size / POINTS) ** 0.5))
    rows, columns = (
        axis.ravel() for axis in np.mgrid[: geometry.depth.shape[0] : step, : geometry.depth.shape[1] : step]
    )
    has = geometry.sure().depth[rows, columns] > 0
    return points_in_camera(geometry, rows[has], columns[has]).astype(np.float32)
