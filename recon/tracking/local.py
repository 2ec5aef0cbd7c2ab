"""The map of the last seconds: keyframes and corners, adjusted while they are seen, until the finished map has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.core.projection import centre_of
from recon.core.similarity import Array, Sim3
from recon.core.types import Camera, Image
from recon.tracking.adjustment import adjust
from recon.tracking.beginning import ANY_DEPTH, GOOD_ERROR, Beginning, observed
from recon.tracking.corners import SIDE, Tracks, View, shared_rows
from recon.tracking.landmarks import LEAST_SIGMA, SURE_DEPTH, Landmarks
from recon.tracking.lens import rays, stretched
from recon.tracking.pose import FEWEST, Pose, locate
from recon.tracking.walk import MAP_DEPTH, NOISE, Anchor, Walk, moved_pose

WINDOW, ITERATIONS = 8, 4  # keyframes that are adjusted
FIXED = 2  # of them, the oldest
FEWEST_KEYFRAMES = 4  # that are adjusted at all
MOVED = 0.06  # median motion of the corners since the last keyframe, as a share of the longest side
SHARED = 0.6  # of the last keyframe's corners, below which there is a new one
SETTLED, LENS_CHANGE = 12, 0.1  # keyframes up to which a guessed lens is adjusted, and relative standard deviation
DRIFT = 2.0  # times the spread of each keyframe: they share corners, and with them their errors
GOOD_VIEWS = 0.7  # share of a corner's views that must agree
MOST_KEYFRAMES, MOST_CORNERS = 500, 20_000
CONSISTENT = 0.25  # relative difference of depths and motions, up to which two maps show the same
SAME_PLACE = 0.03  # difference of places, as a share of the depth, that does not matter


@dataclass(frozen=True, eq=False)
class Cloud:
    """Corners with a place. tracks: (n,) ascending. positions: (n, 3). sigma: (n,) relative deviations of their
    distances, infinite if their views disagree; prior: (n,) the same before any adjustment. colours: (n, 3) uint8.
    last: (n,) index of the last keyframe that saw them.
    """

    tracks: Tracks
    positions: Array
    sigma: Array
    prior: Array
    colours: Image
    last: NDArray[np.int64]

    @classmethod
    def none(cls) -> Cloud:
        none = np.zeros(0, dtype=np.int64)
        return cls(none, np.zeros((0, 3)), np.zeros(0), np.zeros(0), np.zeros((0, 3), np.uint8), none)

    def of(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Cloud:
        """Some of the corners."""
        return Cloud(*(column[rows] for column in self._columns()))

    def with_corners(self, other: Cloud) -> Cloud:
        """With other corners, which replace those of the same number; the newest of all."""
        kept = self.of(~np.isin(self.tracks, other.tracks))
        both = Cloud(*map(np.concatenate, zip(kept._columns(), other._columns(), strict=True)))
        return both.of(np.argsort(both.tracks)[-MOST_CORNERS:])

    def _columns(self) -> tuple[Any, ...]:
        return self.tracks, self.positions, self.sigma, self.prior, self.colours, self.last


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A view, its pose (4, 4), and the drift that is expected up to it."""

    view: View
    cam_from_world: Array
    drift: float


class LocalMap:
    """A map that grows with every few frames. anchor: number of the placed keyframe that it hangs on, or, if it hangs
    on none, a negative number. keyframes: those that the finished map does not have yet. unit: how long is now what
    was 1 when it began.
    """

    def __init__(self, anchor: int, camera: Camera, *, lens_is_known: bool = True) -> None:
        self.anchor, self.camera, self._lens_is_known = anchor, camera, lens_is_known
        self.keyframes: list[Keyframe] = []
        self.unit = 1.0
        self._cloud = Cloud.none()

    @classmethod
    def begun(cls, anchor: int, beginning: Beginning, image: Image) -> LocalMap:
        """From the first few views; image: that of the last one."""
        local = cls(anchor, beginning.camera, lens_is_known=beginning.lens_is_known)
        local.keyframes = [Keyframe(*both, 0.0) for both in zip(beginning.views, beginning.poses, strict=True)]
        local._learn(beginning.tracks, beginning.positions, beginning.sigma, image)
        return local

    @property
    def cloud(self) -> Cloud:
        """The corners whose places are sure."""
        return self._cloud.of(self._cloud.sigma < SURE_DEPTH)

    @property
    def unmapped(self) -> list[Keyframe]:
        """The keyframes after the finished map, or at least the last one."""
        return [one for one in self.keyframes if one.view.index > self.anchor] or self.keyframes[-1:]

    def wants(self, view: View) -> bool:
        """Whether a view shows enough that is new."""
        if not self.keyframes:
            return True
        last = self.keyframes[-1].view
        rows, before = shared_rows(view.tracks, last.tracks)
        if len(rows) < SHARED * len(last.tracks):
            return True
        motion = np.linalg.norm(view.pixels[rows] - last.pixels[before], axis=1)
        return bool(np.median(motion) > MOVED * max(self.camera.width, self.camera.height))

    def add(self, walk: Walk, image: Image) -> Walk:
        """Take the view that a walk has reached as a keyframe, and adjust the last ones; the walk from there."""
        drift = self.keyframes[-1].drift + DRIFT * walk.spread if self.keyframes else walk.drift
        self.keyframes = [*self.keyframes[-MOST_KEYFRAMES:], Keyframe(walk.view, walk.cam_from_world, drift)]
        tracks, landmarks = walk.corners()
        self._learn(tracks, landmarks.points(), landmarks.sigma / landmarks.inverse, image)
        if len(self.keyframes) >= FEWEST_KEYFRAMES:
            self._adjust(self.keyframes[-WINDOW:], fixed=FIXED if len(self.keyframes) > WINDOW else 1)
        return self.walk()

    def walk(self) -> Walk:
        """A walk from the last keyframe."""
        newest = self.keyframes[-1]
        pose, cloud = newest.cam_from_world, self._cloud.of(np.isin(self._cloud.tracks, newest.view.tracks))
        depth = cloud.positions @ pose[2, :3] + pose[2, 3]
        good = (depth > 0) & np.isfinite(cloud.sigma)
        sigma = np.maximum(cloud.sigma[good], LEAST_SIGMA)
        anchor = Anchor(self.anchor, newest.view, self.camera, pose, cloud.tracks[good], depth[good], sigma)
        return Walk(anchor, newest.drift)

    def move(self, change: Sim3) -> None:
        """Follow a correction of the map; change: world after it from world before."""
        self.keyframes = [replace(one, cam_from_world=moved_pose(one.cam_from_world, change)) for one in self.keyframes]
        self._cloud = replace(self._cloud, positions=change.apply(self._cloud.positions))
        self.unit *= change.scale

    def leave(self, piece: int) -> None:
        """Hang on no placed keyframe any more, but be a piece of the tracker's own, which has not drifted yet."""
        self.anchor, newest = piece, self.keyframes[-1].drift if self.keyframes else 0.0
        self.keyframes = [replace(one, drift=one.drift - newest) for one in self.keyframes]

    def drift_since(self, view: View) -> float:
        """The drift that is expected from a view to the newest keyframe."""
        return self.keyframes[-1].drift - self._drift_at(view)

    def _drift_at(self, view: View) -> float:
        before = [one.drift for one in self.keyframes if one.view.index <= view.index]
        return before[-1] if before else self.keyframes[0].drift

    def join(self, anchor: Anchor, other: Anchor) -> bool:
        """Move into the finished map, in which two views have the poses and depths of the anchors (or the same view
        twice), hang on the first, and adopt its lens; False if this map does not have the views, or disagrees."""
        pose, cloud = self._located(anchor.view), self.cloud
        _, mapped, mine = np.intersect1d(anchor.tracks, cloud.tracks, assume_unique=True, return_indices=True)
        if pose is None or len(mapped) < FEWEST:
            return False
        cam, lens = pose.cam_from_world, anchor.camera.matrix()[0, 0] / self.camera.matrix()[0, 0]
        depth = lens * (cloud.positions[mine] @ cam[2, :3] + cam[2, 3])
        ratios = np.log(anchor.depth[mapped] / np.maximum(depth, 1e-9))
        if np.median(np.abs(ratios - np.median(ratios))) > CONSISTENT:
            return False
        scale = float(np.exp(np.median(ratios)))
        world_from_cam = Sim3.from_matrix(np.asarray(np.linalg.inv(anchor.cam_from_world), np.float64))
        change = world_from_cam @ Sim3(scale, cam[:3, :3], scale * cam[:3, 3])
        there, true = self._located(other.view), centre_of(other.cam_from_world)
        moved = float(np.linalg.norm(true - world_from_cam.translation))
        allowed = CONSISTENT * moved + SAME_PLACE * float(np.median(anchor.depth))
        if there is None or np.linalg.norm(change.apply(centre_of(there.cam_from_world)) - true) > allowed:
            return False
        self.move(change)
        self._hang_on(anchor, lens)
        return True

    def _hang_on(self, anchor: Anchor, lens: float) -> None:
        """The finished map has everything up to the view of an anchor, and its lens, ``lens`` times as long."""
        index, newest = anchor.view.index, self.keyframes[-1]
        drift = self._drift_at(anchor.view)
        first = max(0, len(self.keyframes) - WINDOW)
        kept = [one for number, one in enumerate(self.keyframes) if one.view.index > index or number >= first]
        self.keyframes = [replace(one, drift=one.drift - drift) for one in kept]
        self._cloud = self._cloud.of((self._cloud.last > index) | np.isin(self._cloud.tracks, newest.view.tracks))
        self.anchor, changed = anchor.keyframe, self.camera != anchor.camera
        self.camera, self._lens_is_known = anchor.camera, True
        if changed and len(self.keyframes) >= FEWEST_KEYFRAMES:
            self._lengthen(newest.cam_from_world, lens)
            self._adjust(self.keyframes[: -WINDOW - 1 : -1], fixed=1)

    def _lengthen(self, cam_from_world: Array, factor: float) -> None:
        """Make up for a lens that is a factor longer: all depths in a camera, which sees the same as before, grow."""
        along = np.eye(4) + (factor - 1) * np.diag([0.0, 0, 1, 0])
        change = np.linalg.inv(cam_from_world) @ along @ cam_from_world

        def moved(points: Array) -> Array:
            return np.asarray(points @ change[:3, :3].T + change[:3, 3])

        self._cloud = replace(self._cloud, positions=moved(self._cloud.positions))
        poses = np.array([one.cam_from_world for one in self.keyframes])
        centres = moved(-np.einsum("kji,kj->ki", poses[:, :3, :3], poses[:, :3, 3]))
        poses[:, :3, 3] = -np.einsum("kij,kj->ki", poses[:, :3, :3], centres)
        self.keyframes = [replace(one, cam_from_world=pose) for one, pose in zip(self.keyframes, poses, strict=True)]

    def _located(self, view: View) -> Pose | None:
        """The pose of a view by the corners whose places are sure."""
        near = min(self.keyframes, key=lambda one: abs(one.view.index - view.index)).cam_from_world
        cloud = self.cloud
        cam = cloud.positions @ near[:3, :3].T + near[:3, 3]
        cloud, cam = cloud.of(cam[:, 2] > 0), cam[cam[:, 2] > 0]
        rows, known = shared_rows(view.tracks, cloud.tracks)
        landmarks = Landmarks.first_seen(cam[:, :2] / cam[:, 2:], near, 1 / cam[:, 2], cloud.sigma)
        return locate(landmarks.of(known), rays(self.camera, view.pixels[rows]), near, self._noise)

    @property
    def _noise(self) -> float:
        return float(NOISE * max(self.camera.width, self.camera.height) / SIDE / self.camera.matrix()[0, 0])

    def _adjust(self, window: Sequence[Keyframe], fixed: int) -> None:
        """Adjust some keyframes, but for the first ``fixed`` poses, and their corners."""
        seen, counts = np.unique(np.concatenate([one.view.tracks for one in window]), return_counts=True)
        tracks = seen[(counts >= 2) & np.isin(seen, self._cloud.tracks)]
        corners = self._cloud.of(np.searchsorted(self._cloud.tracks, tracks))
        poses = np.array([one.cam_from_world for one in window])
        prior = 0.0 if self._lens_is_known or len(self.keyframes) > SETTLED else LENS_CHANGE
        views = [one.view for one in window]
        bundle = observed(views, self.camera, poses, tracks=tracks, points=corners.positions, sigma=corners.prior)
        try:
            adjusted = adjust(bundle, self._noise, iterations=ITERATIONS, fixed=fixed, stretch_prior=prior)
        except np.linalg.LinAlgError:
            return
        after = adjusted.bundle
        counts = np.bincount(after.rows)
        good = np.bincount(after.rows, adjusted.errors < GOOD_ERROR) >= np.maximum(2, GOOD_VIEWS * counts)
        moved = {one.view.index: replace(one, cam_from_world=p) for one, p in zip(window, after.poses, strict=True)}
        self.keyframes = [moved.get(one.view.index, one) for one in self.keyframes]
        self.camera = stretched(self.camera, after.stretch)
        sigma = np.where(good, adjusted.sigma, np.inf)
        self._cloud = self._cloud.with_corners(replace(corners, positions=after.points, sigma=sigma))

    def _learn(self, tracks: Tracks, positions: Array, sigma: Array, image: Image) -> None:
        """Note which corners the newest keyframe sees, and the places and colours of those that are new."""
        view, cloud = self.keyframes[-1].view, self._cloud
        known = cloud.tracks[np.isfinite(cloud.sigma)]
        cloud = replace(cloud, last=np.where(np.isin(cloud.tracks, view.tracks), view.index, cloud.last))
        new = ~np.isin(tracks, known) & np.isin(tracks, view.tracks)
        colours = self._colours(image, view.pixels[np.searchsorted(view.tracks, tracks[new])])
        last, prior = np.full(int(new.sum()), view.index), np.full(int(new.sum()), ANY_DEPTH)
        if self.anchor >= 0 and len(self.keyframes) == 1:  # as the finished map says
            prior = np.clip(sigma[new], MAP_DEPTH, ANY_DEPTH)
        self._cloud = cloud.with_corners(Cloud(tracks[new], positions[new], sigma[new], prior, colours, last))

    def _colours(self, image: Image, pixels: Array) -> Image:
        """Of an image (h, w, 3) at (n, 2) pixels of its original."""
        size = np.array(image.shape[1::-1])
        columns, rows = np.clip(pixels * size / (self.camera.width, self.camera.height), 0, size - 1).astype(int).T
        return np.asarray(image[rows, columns])
