"""Draws what the tracker says: the camera now, its trail, and the local map with its dense depth."""

from __future__ import annotations

from collections import deque

import numpy as np
import rerun as rr

from recon.core.events import CameraView, FrameTracked, LocalDepth, LocalMapGrown
from recon.core.similarity import Sim3
from viewer import shapes
from viewer.drawing import FRUSTA, FRUSTUM_SHARE, JPEG_QUALITY, Instant, Log, strips, transform
from viewer.local_depth import LocalDepths

Said = FrameTracked | CameraView | LocalMapGrown | LocalDepth
POINTS = 2_000  # of the corners, the newest
COLOUR = (120, 190, 255)
VISIBLE = 0.002  # a motion, as a share of the scene's depth, that is shown
STATE_COLOURS = {"waiting": (160, 160, 160), "tracking": (90, 230, 130), "weak": (240, 200, 60), "lost": (240, 80, 70)}
TRAIL = 100  # frames


class TrackedCamera:
    """Draws beside the finished map. scene_depth: of that map, in world units; None as long as there is none.

    The tracker's own map has a depth of 1.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self.scene_depth: float | None = None
        self._state = "waiting"
        self._shown_state = ""
        self._trail: deque[FrameTracked] = deque(maxlen=TRAIL)
        self._grown: LocalMapGrown | None = None
        self._depths = LocalDepths()
        self._places: dict[int, Sim3] = {}  # of dense points on screen

    def draw(self, said: Said) -> None:
        """Draw one event in place of what it replaces."""
        match said:
            case FrameTracked():
                self._draw_camera(said)
            case CameraView():
                self._draw_view(said)
            case LocalMapGrown():
                self._draw_local_map(said)
            case LocalDepth():
                self._draw_depth(said)

    def _is_in_view(self, piece: int) -> bool:
        """Whether a piece has the coordinates of what is shown: those of the tracker's own have others."""
        return (piece >= 0) == (self.scene_depth is not None)

    @property
    def _depth(self) -> float:
        return self.scene_depth or 1.0

    def _draw_camera(self, said: FrameTracked) -> None:
        """Where the camera is now, the way that it came, and the state of the tracker if it changes."""
        at, colour = Instant(said.index, said.timestamp), STATE_COLOURS[said.state]
        self._state = said.state
        text = f"# {said.state}" + ("\n\nnot yet in the map" if said.piece < 0 else "")
        if text != self._shown_state:
            self._shown_state = text
            self._log("tracking", rr.TextDocument(text, media_type="text/markdown"), at=at)
        self._log("plots/tracked", rr.Scalars(said.inliers), at=at)
        if said.world_from_cam is None or said.camera is None or not self._is_in_view(said.piece):
            self._log("world/now", rr.Clear(recursive=True), at=at)
            return
        self._trail.append(said)
        if self._trail[0].piece != said.piece:
            self._trail = deque((one for one in self._trail if one.piece == said.piece), maxlen=TRAIL)
        pose, length = Sim3.from_matrix(said.world_from_cam), 2 * FRUSTUM_SHARE * self._depth
        frustum = shapes.frustum(said.camera, pose, length)
        self._log("world/now", strips([frustum], colour, 2.5), at=at)
        way = [one.world_from_cam[:3, 3] for one in self._trail if one.world_from_cam is not None]
        self._log("world/now/trail", strips([way], colour, 1.5), at=at)

    def _draw_view(self, view: CameraView) -> None:
        """What the camera sees, with the corners that are followed."""
        at = Instant(view.index, view.timestamp)
        self._log("now", rr.Image(view.image).compress(jpeg_quality=JPEG_QUALITY), at=at)
        corners = rr.Points2D(view.corners, colors=STATE_COLOURS[self._state], radii=rr.Radius.ui_points(2.0))
        self._log("now/corners", corners, at=at)

    def _draw_local_map(self, grown: LocalMapGrown) -> None:
        """What the finished map does not have yet, in place of what it had not before."""
        at = Instant(grown.index, grown.timestamp)
        if not self._is_in_view(grown.piece):
            self._grown, self._places = None, {}
            self._depths.follow(None)
            self._log("world/local", rr.Clear(recursive=True), at=at)
            return
        self._grown = grown
        positions, colours = grown.positions[-POINTS:], grown.colours[-POINTS:]
        points = rr.Points3D(positions, colors=colours, radii=rr.Radius.ui_points(2.0))
        self._log("world/local/points", points, at=at)
        length = FRUSTUM_SHARE * self._depth
        poses = [Sim3.from_matrix(pose) for pose in grown.world_from_cam[-FRUSTA:]]
        frusta = [shapes.frustum(grown.camera, pose, length) for pose in poses]
        cameras = strips(frusta, COLOUR, 0.5)
        self._log("world/local/cameras", cameras, at=at)
        self._depths.follow(grown)
        self._draw_depths(at)

    def _draw_depth(self, found: LocalDepth) -> None:
        self._depths.add(found)
        if self._grown:
            self._draw_depths(Instant(self._grown.index, self._grown.timestamp))

    def _draw_depths(self, at: Instant) -> None:
        """Draw dense points that are new, let others follow their keyframes, and clear those that have lost them."""
        placed = {found.index: (found, place) for found, place in self._depths.placed()}
        for index in [index for index in self._places if index not in placed]:
            self._log(_entity(index), rr.Clear(recursive=False), at=at)
            del self._places[index]
        for index, (found, place) in placed.items():
            if index not in self._places:
                points = rr.Points3D(found.positions, colors=found.colours, radii=rr.Radius.ui_points(1.5))
                self._log(_entity(index), points, at=at)
            if index not in self._places or self._differs(self._places[index], place):
                self._log(_entity(index), transform(place), at=at)
                self._places[index] = place

    def _differs(self, before: Sim3, now: Sim3) -> bool:
        """Whether another place would be seen to differ."""
        first, second = (place.matrix()[:3] / [1, 1, 1, self._depth] for place in (before, now))
        return not np.allclose(first, second, rtol=0, atol=VISIBLE)


def _entity(keyframe: int) -> str:
    return f"world/local/depth/{keyframe}"
