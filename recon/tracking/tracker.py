"""A pose for every frame, although the map arrives late.

Corners are followed from frame to frame, and those of the last minutes are remembered. When a keyframe gets a pose and
depth, its corners get points. From there, a walk goes through the remembered frames into the present: the points give
the next frame's pose, and the poses give further corners their points. Remembered frames have no pixels, and the walk
takes the longest steps that share enough corners, so it catches up with a minute in about a second.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

import numpy as np

from recon.core.similarity import Array, Sim3
from recon.core.types import Frame, FrameGeometry, PlacedFrame
from recon.tracking.corners import Corners, View
from recon.tracking.lens import rays
from recon.tracking.pose import Pose
from recon.tracking.walk import Anchor, Walk

State = Literal["waiting", "tracking", "weak", "lost"]
REMEMBERED = 3000  # frames
STEPS = 6  # of a walk that catches up, for each captured frame
STEP_LENGTHS = (16, 8, 4, 2, 1)  # frames
import os
SHARED = float(os.environ.get("SHARED","0.75"))  # of the known corners, in a step
ENOUGH, ENOUGH_SHARE, SURE_SPREAD, LARGEST_SPREAD = 30, 0.6, 0.01, 0.05
STEEP = 1.1  # ratio of depths around a corner that lies on an edge


@dataclass(frozen=True, eq=False)
class Tracked:
    """state: see ``FrameTracked``. cam_from_world: (4, 4) rigid, or None. inliers: points that agree with it."""

    state: State
    cam_from_world: Array | None = None
    inliers: int = 0


class Tracker:
    """Follows the camera. Not thread-safe: ``track`` and the changes of the map come from one thread."""

    def __init__(self) -> None:
        self._corners = Corners()
        self._views: list[View] = []
        self._anchors: dict[int, Anchor] = {}
        self._walk: Walk | None = None
        self._next: Walk | None = None  # catches up

    def track(self, frame: Frame) -> Tracked:
        """The pose of the next frame."""
        view, _ = self._corners.follow(frame)
        self._views.append(view)
        del self._views[:-REMEMBERED]
        now = self._step(view)
        self._catch_up()
        return now

    def place(self, placed: Mapping[int, PlacedFrame], geometry: Sequence[FrameGeometry]) -> None:
        """Take over newly placed keyframes; a walk starts from the last of them."""
        anchors = [self._anchor(placed[one.index], one) for one in geometry if one.index in placed]
        found = [anchor for anchor in anchors if anchor is not None]
        if not found:
            return
        self._anchors.update({anchor.index: anchor for anchor in found})
        views = [self._views[self._row(anchor.index)] for anchor in found[-4:]]
        self._next = Walk(views[0], found[-4:][0])
        for view, anchor in list(zip(views, found[-4:], strict=True))[1:]:
            self._next.anchor(view, anchor)

    def correct(self, placed: Sequence[PlacedFrame]) -> None:
        """Move with the map."""
        changes = {}
        for frame in placed:
            anchor = self._anchors.get(frame.index)
            if anchor is not None:
                changes[frame.index] = frame.world_from_cam @ anchor.world_from_cam.inverse()
        raise NotImplementedError(changes)

    def _step(self, view: View) -> Tracked:
        if self._walk is None:
            return Tracked("lost" if self._anchors else "waiting")
        pose = self._walk.step(view)
        if pose is None or pose.spread > LARGEST_SPREAD:
            return Tracked("lost")
        return Tracked(_judged(pose), pose.cam_from_world, int(pose.inliers.sum()))

    def _catch_up(self) -> None:
        for _ in range(STEPS):
            if self._next is None:
                return
            ahead = self._ahead(self._next)
            if not ahead:
                self._walk, self._next = self._next, None
                return
            if not any(self._next.step(view) for view in ahead):
                self._next = None

    def _ahead(self, walk: Walk) -> list[View]:
        """Views that the next step may reach, the furthest first."""
        start = bisect.bisect_right(self._views, walk.view.index, key=attrgetter("index"))
        reachable = [self._views[start + step - 1] for step in STEP_LENGTHS if start + step <= len(self._views)]
        return [view for view in reachable[:-1] if walk.shares(view) >= SHARED] + reachable[-1:]

    def _row(self, index: int) -> int:
        return bisect.bisect_left(self._views, index, key=attrgetter("index"))

    def _view(self, index: int) -> View | None:
        row = bisect.bisect_left(self._views, index, key=attrgetter("index"))
        return self._views[row] if row < len(self._views) and self._views[row].index == index else None

    def _anchor(self, placed: PlacedFrame, geometry: FrameGeometry) -> Anchor | None:
        view = self._view(placed.index)
        if view is None:
            return None
        seen = np.column_stack([rays(placed.camera, view.pixels), np.ones(len(view.pixels))])
        depth = _depth_at(geometry, seen @ geometry.intrinsics.T)
        has = depth > 0
        return Anchor(placed.index, placed.camera, placed.world_from_cam, view.tracks[has], depth[has])


def _depth_at(geometry: FrameGeometry, pixels: Array) -> Array:
    """Sure depth (n,) at pixels (n, 2+) of the depth map; 0 outside, where it is unsure, and at its steps."""
    sure = geometry.sure().depth
    columns, rows = np.floor(pixels[:, :2]).astype(np.int64).T
    height, width = sure.shape
    inside = (rows >= 1) & (columns >= 1) & (rows < height - 1) & (columns < width - 1)
    found = np.zeros(len(pixels))
    offsets = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]
    around = np.stack([sure[rows[inside] + row, columns[inside] + column] for row, column in offsets])
    flat = (around.min(axis=0) > 0) & (around.max(axis=0) < STEEP * around.min(axis=0))
    found[inside] = np.where(flat, around[4], 0)
    return found


def _judged(pose: Pose) -> State:
    sure = pose.inliers.sum() >= ENOUGH and pose.share >= ENOUGH_SHARE and pose.spread < SURE_SPREAD
    return "tracking" if sure else "weak"
