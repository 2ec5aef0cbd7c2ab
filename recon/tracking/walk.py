"""From the map into the present: poses by followed corners, whose depths these poses improve."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from recon.core.similarity import Array, Sim3
from recon.core.types import Camera
from recon.tracking.corners import SIDE, Tracks, View
from recon.tracking.lens import rays
from recon.tracking.pose import Landmarks, Pose, locate, narrowed

NOISE = float(os.environ.get("NOISE", "1.0"))  # [px] of the small image, of a followed corner
MAP_DEPTH = float(os.environ.get("MAPD", "0.02"))  # relative standard deviation of depth from the map
GUESSED_DEPTH = 0.4  # of that of neighbours
NEIGHBOURS = 5


@dataclass(frozen=True, eq=False)
class Anchor:
    """A placed keyframe. tracks: (n,) its corners with depth; depth: (n,) in the unit of the stored depth."""

    index: int
    camera: Camera
    world_from_cam: Sim3
    tracks: Tracks
    depth: Array

    @property
    def cam_from_world(self) -> Array:
        """Rigid (4, 4)."""
        pose, rotation = np.eye(4), self.world_from_cam.rotation.T
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ self.world_from_cam.translation
        return pose


class Walk:
    """A way from a placed keyframe through later views. view, cam_from_world: the last one, and its pose (4, 4).
    landmarks: its corners, in the same order.
    """

    def __init__(self, view: View, anchor: Anchor) -> None:
        self._camera = anchor.camera
        self._noise = NOISE * max(self._camera.width, self._camera.height) / SIDE / self._camera.matrix()[0, 0]
        none = np.zeros((0, 3))
        self._tracks = np.zeros(0, dtype=np.int64)
        self.landmarks = Landmarks(none, none, none[:, 0], none[:, 0])
        self.anchor(view, anchor)

    def anchor(self, view: View, anchor: Anchor) -> None:
        """Go on to a placed keyframe, whose pose and depth are the map's."""
        _, rows, found = np.intersect1d(view.tracks, anchor.tracks, assume_unique=True, return_indices=True)
        inverse = np.full(len(view.tracks), np.nan)
        inverse[rows] = 1 / (anchor.depth[found] * anchor.world_from_cam.scale)
        seen = rays(self._camera, view.pixels)
        rows, earlier = self._shared(view)
        known = narrowed(self.landmarks.of(earlier), seen[rows], anchor.cam_from_world, self._noise)
        self._arrive(view, anchor.cam_from_world, seen, rows, known, inverse)

    def step(self, view: View) -> Pose | None:
        """The pose of a later view; None if it is not known, and the walk stays where it is."""
        rows, earlier = self._shared(view)
        seen, known = rays(self._camera, view.pixels), self.landmarks.of(earlier)
        pose = locate(known, seen[rows], self.cam_from_world, self._noise)
        if pose is not None:
            rows, known = rows[pose.inliers], known.of(pose.inliers)
            known = narrowed(known, seen[rows], pose.cam_from_world, self._noise)
            self._arrive(view, pose.cam_from_world, seen, rows, known, np.full(len(seen), np.nan))
        return pose

    def shares(self, view: View) -> float:
        """Share of the corners that another view has too."""
        return len(self._shared(view)[0]) / max(len(self._tracks), 1)

    def move(self, change: Sim3) -> None:
        """Follow a correction of the map; change: world after it from world before."""
        one = self.landmarks
        scale = change.scale
        self.landmarks = Landmarks(
            change.apply(one.eyes), one.directions @ change.rotation.T, one.inverse / scale, one.sigma / scale
        )
        centre = change.apply(-self.cam_from_world[:3, :3].T @ self.cam_from_world[:3, 3])
        rotation = self.cam_from_world[:3, :3] @ change.rotation.T
        self.cam_from_world = np.eye(4)
        self.cam_from_world[:3, :3], self.cam_from_world[:3, 3] = rotation, -rotation @ centre

    def _shared(self, view: View) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the corners that are in a view and in the last one, in either."""
        shared = np.intersect1d(view.tracks, self._tracks, assume_unique=True, return_indices=True)
        return shared[1], shared[2]

    def _arrive(
        self, view: View, pose: Array, seen: Array, rows: NDArray[np.int64], known: Landmarks, inverse: Array
    ) -> None:
        """Take over the known corners, in the given rows of the view; the others are seen first from here, with the
        given inverse depths (n,) or, where that is nan, those of their neighbours."""
        rotation = pose[:3, :3]
        eyes = np.tile(-rotation.T @ pose[:3, 3], (len(seen), 1))
        directions = np.column_stack([seen, np.ones(len(seen))]) @ rotation
        sigma = MAP_DEPTH * inverse
        there = np.isfinite(inverse)
        eyes[rows], directions[rows], inverse[rows], sigma[rows] = (
            known.eyes, known.directions, known.inverse, known.sigma,
        )  # fmt: skip
        here = inverse.copy()
        depth = known.points() @ rotation[2] + pose[2, 3]
        here[rows] = np.where(depth > 0, 1 / depth, np.nan)
        sure = np.zeros(len(seen), dtype=np.bool_)
        sure[there] = True
        sure[rows] = (known.sigma < 0.1 * known.inverse) & (depth > 0)
        unknown = np.isnan(inverse)
        if sure.sum() >= NEIGHBOURS:
            _, near = KDTree(seen[sure]).query(seen[unknown], k=NEIGHBOURS)
            inverse[unknown] = np.median(here[sure][near], axis=1)
            sigma[unknown] = GUESSED_DEPTH * inverse[unknown]
        kept = np.isfinite(inverse)
        self.view, self.cam_from_world, self._tracks = view, pose, view.tracks[kept]
        self.landmarks = Landmarks(eyes, directions, inverse, sigma).of(kept)
