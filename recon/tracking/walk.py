"""From the map into the present: poses by followed corners, whose depths these poses improve."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import KDTree

from recon.core.projection import centre_of
from recon.core.similarity import Array, Sim3
from recon.core.types import Camera
from recon.tracking.corners import SIDE, Tracks, View, shared_rows
from recon.tracking.landmarks import Landmarks
from recon.tracking.lens import rays
from recon.tracking.pose import Pose, locate

NOISE = 1.0  # [px] of the small image, of a followed corner
MAP_DEPTH = 0.02  # relative standard deviation of the inverse depth from the map
GUESSED_DEPTH = 0.4  # of that of neighbours
NEIGHBOURS = 5


@dataclass(frozen=True, eq=False)
class Anchor:
    """A view with a pose and depths from the map. keyframe: the placed one that they come from. cam_from_world: (4, 4)
    rigid. tracks: (n,) corners with depth. depth: (n,) along z, in world units. deviation: relative standard deviation
    of the depths, (n,) or of all.
    """

    keyframe: int
    view: View
    camera: Camera
    cam_from_world: Array
    tracks: Tracks
    depth: Array
    deviation: Array | float = MAP_DEPTH


class Walk:
    """A way from an anchor through later views. anchor: the last one. view, cam_from_world: the last view and its pose
    (4, 4). Its corners have inverse depths: those of the map, or narrowed from view to view; at first a guess, that of
    their neighbours. drift: the error to be expected, as a share of the scene's depth: the sum of the spreads of all
    poses since the anchor, since poses share their corners, and with them their errors.
    """

    def __init__(self, anchor: Anchor, drift: float = 0.0) -> None:
        self.anchor, self.view, self.cam_from_world = anchor, anchor.view, anchor.cam_from_world
        camera = anchor.camera
        self._noise = NOISE * max(camera.width, camera.height) / SIDE / camera.matrix()[0, 0]
        self._tracks = np.zeros(0, dtype=np.int64)
        self._landmarks = Landmarks.none()
        self.go_to(anchor)
        self.drift, self.spread = drift, 0.0

    def go_to(self, anchor: Anchor) -> None:
        """Go on to another anchor."""
        self.anchor, view, pose = anchor, anchor.view, anchor.cam_from_world
        seen = rays(self.anchor.camera, view.pixels)
        rows, earlier = shared_rows(view.tracks, self._tracks)
        known = self._landmarks.of(earlier).narrowed(seen[rows], pose, self._noise)
        mapped, found = shared_rows(view.tracks, anchor.tracks)
        inverse, deviation = np.full(len(seen), np.nan), np.full(len(seen), GUESSED_DEPTH)
        inverse[mapped] = 1 / anchor.depth[found]
        deviation[mapped] = np.broadcast_to(anchor.deviation, len(anchor.depth))[found]
        new = Landmarks.first_seen(seen, pose, inverse, deviation)
        self._arrive(view, pose, new.replaced(rows, known), seen)
        self.drift = 0.0

    def step(self, view: View) -> Pose | None:
        """The pose of a later view; None if it is not known, and the walk stays where it is."""
        rows, earlier = shared_rows(view.tracks, self._tracks)
        seen, known = rays(self.anchor.camera, view.pixels), self._landmarks.of(earlier)
        pose = locate(known, seen[rows], self.cam_from_world, self._noise)
        if pose is not None:
            rows, known = rows[pose.inliers], known.of(pose.inliers)
            known = known.narrowed(seen[rows], pose.cam_from_world, self._noise)
            new = Landmarks.first_seen(seen, pose.cam_from_world, np.full(len(seen), np.nan), GUESSED_DEPTH)
            self._arrive(view, pose.cam_from_world, new.replaced(rows, known), seen)
            self.drift += pose.spread
            self.spread = pose.spread
        return pose

    def shares(self, view: View) -> float:
        """Share of the corners that another view has too."""
        return len(shared_rows(view.tracks, self._tracks)[0]) / max(len(self._tracks), 1)

    @property
    def centre(self) -> Array:
        """Of the camera (3,), in the world."""
        return centre_of(self.cam_from_world)

    @property
    def median_depth(self) -> float:
        """Of the corners of the last view; infinite if there are none."""
        return float(np.median(self._landmarks.depth_in(self.cam_from_world))) if len(self._landmarks) else math.inf

    def corners(self) -> tuple[Tracks, Landmarks]:
        """The corners of the last view whose depth is known or guessed, by ascending number."""
        return self._tracks, self._landmarks

    def leave(self, piece: int) -> None:
        """Go on in a piece of the tracker's own, without drift."""
        self.anchor, self.drift = replace(self.anchor, keyframe=piece), 0.0

    def move(self, change: Sim3) -> None:
        """Follow a correction of the map; change: world after it from world before."""
        self._landmarks = self._landmarks.moved(change)
        self.cam_from_world = moved_pose(self.cam_from_world, change)

    def _arrive(self, view: View, pose: Array, landmarks: Landmarks, seen: Array) -> None:
        """Take over the landmarks of a view; those of unknown depth get that of their neighbours, if there are any.
        seen: (n, 2) on the plane z = 1."""
        depth = landmarks.depth_in(pose)
        sure = landmarks.is_sure & (depth > 0)
        unknown = np.flatnonzero(np.isnan(landmarks.inverse))
        if sure.sum() >= NEIGHBOURS:
            _, near = KDTree(seen[sure]).query(seen[unknown], k=NEIGHBOURS)
            guess = np.median(1 / depth[sure][near], axis=1)
            landmarks = landmarks.replaced(unknown, Landmarks.first_seen(seen[unknown], pose, guess, GUESSED_DEPTH))
        known = np.isfinite(landmarks.inverse)
        self.view, self.cam_from_world = view, pose
        self._tracks, self._landmarks = view.tracks[known], landmarks.of(known)


def moved_pose(cam_from_world: Array, change: Sim3) -> Array:
    """The pose (4, 4) after the world has moved."""
    centre = change.apply(centre_of(cam_from_world))
    pose = np.eye(4)
    pose[:3, :3] = cam_from_world[:3, :3] @ change.rotation.T
    pose[:3, 3] = -pose[:3, :3] @ centre
    return pose
