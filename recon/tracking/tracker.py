"""A pose for every frame, although the map arrives late.

Corners are followed from frame to frame, and those of the last minutes are remembered. When a keyframe gets a pose and
depth, its corners get depth. From there, a walk goes through the remembered frames into the present: the corners give
the next frame's pose, and the poses improve the depths of further corners. Remembered frames have no pixels, and the
walk takes the longest steps that share enough corners, so it catches up with a minute in seconds.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from recon.core.events import TrackingState
from recon.core.similarity import Array
from recon.core.types import Camera, Frame, FrameGeometry, PlacedFrame
from recon.tracking.corners import Corners, View
from recon.tracking.depths import depth_at
from recon.tracking.lens import rays
from recon.tracking.places import Places
from recon.tracking.pose import Pose
from recon.tracking.walk import Anchor, Walk

REMEMBERED = 3000  # frames
STEPS = 4  # of the walk that catches up, for each captured frame
STEP_LENGTHS = (16, 8, 4, 2, 1)  # frames
SHARED = 0.75  # of the corners, in a longer step
ANCHORS = 4  # at which a walk begins
SMALL_DRIFT, LARGEST_DRIFT = 0.05, 0.1  # up to which poses are sure, and are said at all
LOOK_EVERY = 5  # frames, if the drift is not small


@dataclass(frozen=True, eq=False)
class Tracked:
    """The outcome for a frame; see ``FrameTracked``. cam_from_world: (4, 4) rigid."""

    state: TrackingState
    cam_from_world: Array | None = None
    inliers: int = 0
    camera: Camera | None = None
    piece: int = 0
    drift: float = 0.0


class Tracker:
    """Follows the camera through a map that grows elsewhere. All methods are for one thread."""

    def __init__(self) -> None:
        self._corners = Corners()
        self._views: list[View] = []
        self._placed: dict[int, PlacedFrame] = {}
        self._pieces: dict[int, int] = {}  # number of the piece of the map, by placed frame
        self._places = Places()
        self._now: Walk | None = None
        self._next: Walk | None = None  # catches up

    def track(self, frame: Frame) -> Tracked:
        """The pose of the next frame; its index is that in the map."""
        view = self._corners.follow(frame)
        self._views.append(view)
        del self._views[:-REMEMBERED]
        pose = self._now.step(view) if self._now else None
        if pose is None or self._drift > LARGEST_DRIFT or (self._drift > SMALL_DRIFT and not frame.index % LOOK_EVERY):
            pose = self._look_up(frame) or pose
        said = self._said(pose)
        self._catch_up()
        self._places.describe_one()
        return said

    def place(self, frames: Sequence[PlacedFrame], geometry: Mapping[int, FrameGeometry], piece: int) -> None:
        """Take over new keyframes of the map, with their geometry by index; a walk begins near the last of them."""
        for placed in frames:
            self._placed[placed.index], self._pieces[placed.index] = placed, piece
            self._places.add(geometry[placed.index])
        anchors = [self._anchor(placed, view, geometry[placed.index]) for placed, view in self._seen(frames)[-ANCHORS:]]
        if anchors:
            self._next = Walk(anchors[0])
            for anchor in anchors[1:]:
                self._next.go_to(anchor)

    def correct(self, frames: Sequence[PlacedFrame]) -> None:
        """Move with the map; the frames are now one piece of it."""
        before, self._placed = self._placed, self._placed | {frame.index: frame for frame in frames}
        piece = min((self._pieces.get(frame.index, 0) for frame in frames), default=0)
        self._pieces.update({frame.index: piece for frame in frames})
        for walk in filter(None, (self._now, self._next)):
            index = walk.anchor.keyframe
            walk.move(self._placed[index].world_from_cam @ before[index].world_from_cam.inverse())

    @property
    def _drift(self) -> float:
        return self._now.drift if self._now else 0.0

    def _said(self, pose: Pose | None) -> Tracked:
        if pose is None or self._now is None or self._drift > LARGEST_DRIFT:
            return Tracked("lost" if self._placed else "waiting")
        state: TrackingState = "tracking" if pose.is_sure and self._drift <= SMALL_DRIFT else "weak"
        anchor, inliers = self._now.anchor, int(pose.inliers.sum())
        piece = self._pieces[anchor.keyframe]
        return Tracked(state, pose.cam_from_world, inliers, anchor.camera, piece, max(self._drift, pose.spread))

    def _look_up(self, frame: Frame) -> Pose | None:
        """The pose by a placed keyframe that shows the same place; a new walk begins there."""
        found = self._places.find(self._corners.grey, frame.original_size, self._placed)
        if found is None:
            return None
        view, keyframe = self._views[-1], found.keyframe
        depth = found.depth_at(rays(keyframe.camera, view.pixels))
        pose, has = found.pose.cam_from_world, depth > 0
        self._now = Walk(Anchor(keyframe.index, view, keyframe.camera, pose, view.tracks[has], depth[has]))
        return found.pose

    def _catch_up(self) -> None:
        """Let the next walk take a few steps; once it is in the present, it replaces an older one."""
        for _ in range(STEPS):
            if self._next is None:
                return
            ahead = self._ahead(self._next)
            if not ahead:
                if self._now is None or self._now.anchor.view.index <= self._next.anchor.view.index:
                    self._now = self._next
                self._next = None
            elif not any(self._next.step(view) for view in ahead) or self._next.drift > LARGEST_DRIFT:
                self._next = None

    def _ahead(self, walk: Walk) -> list[View]:
        """Views that the next step may reach, the furthest first; the last one is the next view."""
        start = bisect.bisect_right(self._views, walk.view.index, key=attrgetter("index"))
        views = [self._views[start + length - 1] for length in STEP_LENGTHS if start + length <= len(self._views)]
        return [view for view in views[:-1] if walk.shares(view) >= SHARED] + views[-1:]

    def _seen(self, frames: Sequence[PlacedFrame]) -> list[tuple[PlacedFrame, View]]:
        """The placed frames whose views are remembered, in order."""
        views = {view.index: view for view in self._views}
        return [(frame, views[frame.index]) for frame in frames if frame.index in views]

    def _anchor(self, placed: PlacedFrame, view: View, geometry: FrameGeometry) -> Anchor:
        seen = np.column_stack([rays(placed.camera, view.pixels), np.ones(len(view.pixels))])
        depth = depth_at(geometry, (seen @ geometry.intrinsics.T)[:, :2]) * placed.world_from_cam.scale
        has = depth > 0
        return Anchor(placed.index, view, placed.camera, placed.cam_from_world, view.tracks[has], depth[has])
