"""A pose for every frame, although the map arrives late.

Corners are followed from frame to frame, and those of the last minutes are remembered. The first few views that
determine it give a local map of keyframes and corners, which grows from then on and is provisional: in its own piece,
with its own unit, until the finished map has one of its views; then it moves there. From its last keyframe, a walk
gives every frame a pose.

Where there is no local map, a walk goes from the keyframes of the finished map through the remembered frames into the
present: the corners give the next frame's pose, and the poses improve the depths of further corners. Remembered frames
have no pixels, and the walk takes the longest steps that share enough corners, so it catches up with a minute in
seconds.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from recon.core.events import LocalMapGrown, TrackingState
from recon.core.similarity import Array
from recon.core.types import Camera, Frame, FrameGeometry, PlacedFrame
from recon.tracking.beginning import begin
from recon.tracking.corners import Corners, View
from recon.tracking.depths import depth_at
from recon.tracking.lens import guessed, rays
from recon.tracking.local import LocalMap
from recon.tracking.places import Places
from recon.tracking.pose import Pose
from recon.tracking.walk import NOISE, Anchor, Walk

REMEMBERED = 3000  # frames
STEPS = 4  # of the walk that catches up, for each captured frame
STEP_LENGTHS = (16, 8, 4, 2, 1)  # frames
SHARED = 0.75  # of the corners, in a longer step
ANCHORS = 4  # at which a walk begins
SMALL_DRIFT = 0.05  # up to which poses are sure
JOINING_DRIFT, LARGEST_DRIFT = 0.1, 0.2  # up to which a local map joins the finished one, and belongs to it
LOOK_EVERY = 5  # frames, if the drift is not small
LOST_FOR = 10  # frames, after which a new local map may begin


@dataclass(frozen=True, eq=False)
class Tracked:
    """The outcome for a frame; see ``FrameTracked``. cam_from_world: (4, 4) rigid."""

    state: TrackingState
    cam_from_world: Array | None = None
    inliers: int = 0
    camera: Camera | None = None
    piece: int = 0
    drift: float = 0.0
    jump: float = 0.0


class Tracker:
    """Follows the camera through a map that grows elsewhere. All methods are for one thread.

    lens: of the camera, None if it is not known.
    """

    def __init__(self, lens: Camera | None = None) -> None:
        self._lens = lens
        self._corners = Corners()
        self._views: list[View] = []
        self._placed: dict[int, PlacedFrame] = {}
        self._pieces: dict[int, int] = {}  # number of the piece of the map, by placed frame, or by local map
        self._places = Places()
        self._now: Walk | None = None
        self._next: Walk | None = None  # catches up
        self._local: LocalMap | None = None  # that _now belongs to
        self._arrived: dict[int, FrameGeometry] = {}  # of placed frames, at which the local map has not joined yet
        self._begun = 0  # local maps so far
        self._lost_for = 0  # frames
        self._jump = 0.0

    def track(self, frame: Frame) -> Tracked:
        """The pose of the next frame; its index is that in the map."""
        view = self._corners.follow(frame)
        self._views.append(view)
        del self._views[:-REMEMBERED]
        pose = self._now.step(view) if self._now else None
        if pose is None or (self._is_unsure and not self._arrived and not frame.index % LOOK_EVERY):
            pose = self._look_up(frame) or pose
        if self._now and self._now.anchor.keyframe >= 0 and self._now.drift > LARGEST_DRIFT:
            self._leave_the_map(self._now)
        return self._said(pose)

    def extend(self, frame: Frame) -> LocalMapGrown | None:
        """Do what can wait until the pose of the last frame is said; returns the local map if it has grown."""
        local = self._extended(frame)
        if local is None:
            return None
        keyframes, cloud, piece = local.unmapped, local.cloud, self._pieces[local.anchor]
        return LocalMapGrown(
            frame.index,
            frame.timestamp,
            piece,
            local.camera,
            np.array([one.view.index for one in keyframes]),
            np.asarray(np.linalg.inv([one.cam_from_world for one in keyframes]), np.float64),
            cloud.positions,
            cloud.colours,
            local.unit,
        )

    @property
    def corners(self) -> View:
        """The corners in the last frame."""
        return self._views[-1]

    @property
    def local(self) -> LocalMap | None:
        """The local map that the camera is in."""
        return self._local

    def _extended(self, frame: Frame) -> LocalMap | None:
        """The local map, if it has begun, grown or joined the finished one."""
        self._catch_up()
        self._places.describe_one()
        anchors = self._new_anchors()
        if self._now is None or self._now.view is not self._views[-1]:
            self._walk_from(anchors)
            return self._begin(frame) if self._now is None or self._lost_for >= LOST_FOR else None
        if self._local is None:
            self._local = LocalMap(self._now.anchor.keyframe, self._now.anchor.camera)
        if not anchors and not self._local.wants(self._now.view):
            return None
        self._now = self._local.add(self._now, frame.image)
        if anchors and not self._join(anchors):
            self._walk_from(anchors)
        return self._local

    def place(self, frames: Sequence[PlacedFrame], geometry: Mapping[int, FrameGeometry], piece: int) -> None:
        """Take over new keyframes of the map, with their geometry by index."""
        for placed in frames:
            self._placed[placed.index], self._pieces[placed.index] = placed, piece
            self._places.add(geometry[placed.index])
        self._arrived.update({placed.index: geometry[placed.index] for placed in frames[-ANCHORS:]})

    def correct(self, frames: Sequence[PlacedFrame]) -> None:
        """Move with the map; the frames are now one piece of it."""
        before, self._placed = self._placed, self._placed | {frame.index: frame for frame in frames}
        piece = min((self._pieces.get(frame.index, 0) for frame in frames), default=0)
        self._pieces.update({frame.index: piece for frame in frames})
        changes = {
            frame.index: frame.world_from_cam @ before[frame.index].world_from_cam.inverse()
            for frame in frames
            if frame.index in before
        }
        if self._next and (change := changes.get(self._next.anchor.keyframe)):
            self._next.move(change)
        if self._now and (change := changes.get(self._now.anchor.keyframe)):
            centre, depth = self._now.centre, self._now.median_depth
            self._now.move(change)
            self._jump += float(np.linalg.norm(self._now.centre - centre)) / depth
            if self._local:
                self._local.move(change)

    @property
    def _is_unsure(self) -> bool:
        """Whether it is time to look for the place in the finished map."""
        return self._now is not None and (self._now.anchor.keyframe < 0 or self._now.drift > SMALL_DRIFT)

    def _said(self, pose: Pose | None) -> Tracked:
        jump, self._jump = self._jump, 0.0
        if pose is None or self._now is None:
            self._lost_for += 1
            return Tracked("lost" if self._placed or self._begun else "waiting")
        self._lost_for = 0
        state: TrackingState = "tracking" if pose.is_sure and self._now.drift <= SMALL_DRIFT else "weak"
        anchor, inliers, drift = self._now.anchor, int(pose.inliers.sum()), max(self._now.drift, pose.spread)
        return Tracked(state, pose.cam_from_world, inliers, anchor.camera, self._pieces[anchor.keyframe], drift, jump)

    def _look_up(self, frame: Frame) -> Pose | None:
        """The pose by a placed keyframe that shows the same place; a new walk begins there."""
        if not self._placed:
            return None
        found = self._places.find(self._corners.grey, frame.original_size, self._placed)
        if found is None:
            return None
        view, keyframe = self._views[-1], found.keyframe
        depth = found.depth_at(rays(keyframe.camera, view.pixels))
        pose, has = found.pose.cam_from_world, depth > 0
        self._go_on(Walk(Anchor(keyframe.index, view, keyframe.camera, pose, view.tracks[has], depth[has])))
        return found.pose

    def _go_on(self, walk: Walk, local: LocalMap | None = None) -> None:
        """Take over another walk, and note how far the camera jumps."""
        if self._now and self._now.view is walk.view and self._piece(self._now) == self._piece(walk):
            self._jump += float(np.linalg.norm(walk.centre - self._now.centre)) / walk.median_depth
        self._now, self._local, self._lost_for = walk, local, 0

    def _piece(self, walk: Walk) -> int:
        return self._pieces[walk.anchor.keyframe]

    def _begin(self, frame: Frame) -> LocalMap | None:
        """Begin a local map from the views since the camera was lost."""
        lens = self._lens or next((placed.camera for placed in reversed(self._placed.values())), None)
        views = self._views[-self._lost_for :]
        found = begin(views, lens or guessed(frame), lens_is_known=lens is not None, noise_px=NOISE)
        if found is None:
            return None
        local = LocalMap.begun(self._new_piece(), found, frame.image)
        self._go_on(local.walk(), local)
        return local

    def _new_piece(self) -> int:
        """The number of a piece of the tracker's own."""
        self._begun += 1
        self._pieces[-self._begun] = -self._begun
        return -self._begun

    def _leave_the_map(self, walk: Walk) -> None:
        """Where the camera is in the finished map is not known any more; go on in a piece of its own."""
        piece = self._new_piece()
        walk.leave(piece)
        if self._local:
            self._local.leave(piece)

    def _join(self, anchors: Sequence[Anchor]) -> bool:
        """Let the local map join the finished one at the last of the anchors, if it agrees about the first, too."""
        first, last = anchors[0], anchors[-1]
        if self._local is None or self._local.drift_since(last.view) > JOINING_DRIFT:
            return False
        if not self._local.join(last, first):
            return False
        self._go_on(self._local.walk(), self._local)
        return True

    def _walk_from(self, anchors: Sequence[Anchor]) -> None:
        """Let a walk begin at the anchors."""
        for anchor in anchors:
            if anchor is anchors[0]:
                self._next = Walk(anchor)
            elif self._next:
                self._next.go_to(anchor)

    def _catch_up(self) -> None:
        """Let the next walk take a few steps; once it is in the present, it replaces a worse one."""
        for _ in range(STEPS):
            if self._next is None:
                return
            ahead = self._ahead(self._next)
            if not ahead:
                if self._now is None or self._lost_for or self._is_unsure or self._next.drift < self._now.drift:
                    self._go_on(self._next)
                self._next = None
            elif not any(self._next.step(view) for view in ahead) or self._next.drift > LARGEST_DRIFT:
                self._next = None

    def _ahead(self, walk: Walk) -> list[View]:
        """Views that the next step may reach, the furthest first; the last one is the next view."""
        start = bisect.bisect_right(self._views, walk.view.index, key=attrgetter("index"))
        views = [self._views[start + length - 1] for length in STEP_LENGTHS if start + length <= len(self._views)]
        return [view for view in views[:-1] if walk.shares(view) >= SHARED] + views[-1:]

    def _new_anchors(self) -> list[Anchor]:
        """The placed frames that have arrived, if their views are remembered, in order."""
        arrived, self._arrived = self._arrived, {}
        views = {view.index: view for view in self._views if view.index in arrived}
        return [self._anchor(self._placed[index], view, arrived[index]) for index, view in views.items()]

    def _anchor(self, placed: PlacedFrame, view: View, geometry: FrameGeometry) -> Anchor:
        seen = np.column_stack([rays(placed.camera, view.pixels), np.ones(len(view.pixels))])
        depth = depth_at(geometry, (seen @ geometry.intrinsics.T)[:, :2]) * placed.world_from_cam.scale
        has = depth > 0
        return Anchor(placed.index, view, placed.camera, placed.cam_from_world, view.tracks[has], depth[has])
