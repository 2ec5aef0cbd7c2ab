"""Draws what the tracker says: the camera now, its trail, and the local map with its dense depth."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import rerun as rr

from recon.core.events import CameraView, FrameTracked, LocalDepth, LocalMapGrown
from recon.core.similarity import Sim3
from recon.core.types import Camera
from viewer import shapes
from viewer.drawing import FRUSTA, FRUSTUM_SHARE, JPEG_QUALITY, Instant, Log, transform

Said = FrameTracked | CameraView | LocalMapGrown | LocalDepth
POINTS = 2_000  # of the corners, the newest
COLOUR = (120, 190, 255)
SAME_LENS = 0.02  # relative difference of focal lengths, up to which dense points stay
VISIBLE = 0.002  # a motion, as a share of the scene's depth, that is shown
STATE_COLOURS = {"waiting": (160, 160, 160), "tracking": (90, 230, 130), "weak": (240, 200, 60), "lost": (240, 80, 70)}
TRAIL = 100  # frames


@dataclass(frozen=True, eq=False)
class _Dense:
    """Dense points on screen. camera, unit: with which they were computed. place: in the world."""

    camera: Camera
    unit: float
    place: Sim3 | None = None

    def is_of_another_lens(self, camera: Camera) -> bool:
        before, now = self.camera.matrix()[0, 0], camera.matrix()[0, 0]
        return bool(abs(now / before - 1) > SAME_LENS)

    def moves(self, place: Sim3, scene_depth: float) -> bool:
        """Whether another place would be seen to differ."""
        if self.place is None:
            return True
        before, now = (one.matrix()[:3] / [1, 1, 1, scene_depth] for one in (self.place, place))
        return not np.allclose(before, now, rtol=0, atol=VISIBLE)


class TrackedCamera:
    """Draws beside the finished map. scene_depth: of that map, in world units; None as long as there is none.

    The tracker's own map has a depth of 1.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self.scene_depth: float | None = None
        self.state = "waiting"
        self._shown_state = ""
        self._trail: deque[FrameTracked] = deque(maxlen=TRAIL)
        self._grown: LocalMapGrown | None = None
        self._dense: dict[int, _Dense] = {}
        self._early: list[LocalDepth] = []  # of keyframes that the mailbox holds back

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

    def is_in_view(self, piece: int) -> bool:
        """Whether a piece has the coordinates of what is shown: those of the tracker's own have others."""
        return (piece >= 0) == (self.scene_depth is not None)

    @property
    def _depth(self) -> float:
        return self.scene_depth or 1.0

    def _draw_camera(self, said: FrameTracked) -> None:
        """Where the camera is now, the way that it came, and the state of the tracker if it changes."""
        at, colour = Instant(said.index, said.timestamp), STATE_COLOURS[said.state]
        self.state = said.state
        text = f"# {said.state}" + ("\n\nnot yet in the map" if said.piece < 0 else "")
        if text != self._shown_state:
            self._shown_state = text
            self._log("tracking", rr.TextDocument(text, media_type="text/markdown"), at=at)
        self._log("plots/tracked", rr.Scalars(said.inliers), at=at)
        if said.world_from_cam is None or said.camera is None or not self.is_in_view(said.piece):
            self._log("world/now", rr.Clear(recursive=True), at=at)
            return
        self._trail.append(said)
        if self._trail[0].piece != said.piece:
            self._trail = deque((one for one in self._trail if one.piece == said.piece), maxlen=TRAIL)
        pose, length = Sim3.from_matrix(said.world_from_cam), 2 * FRUSTUM_SHARE * self._depth
        frustum = shapes.frustum(said.camera, pose, length)
        self._log("world/now", rr.LineStrips3D([frustum], colors=colour, radii=rr.Radius.ui_points(2.5)), at=at)
        way = [one.world_from_cam[:3, 3] for one in self._trail if one.world_from_cam is not None]
        self._log("world/now/trail", rr.LineStrips3D([way], colors=colour, radii=rr.Radius.ui_points(1.5)), at=at)

    def _draw_view(self, view: CameraView) -> None:
        """What the camera sees, with the corners that are followed."""
        at = Instant(view.index, view.timestamp)
        self._log("now", rr.Image(view.image).compress(jpeg_quality=JPEG_QUALITY), at=at)
        corners = rr.Points2D(view.corners, colors=STATE_COLOURS[self.state], radii=rr.Radius.ui_points(2.0))
        self._log("now/corners", corners, at=at)

    def _draw_local_map(self, grown: LocalMapGrown) -> None:
        """What the finished map does not have yet, in place of what it had not before."""
        at = Instant(grown.index, grown.timestamp)
        if not self.is_in_view(grown.piece):
            self._grown, self._dense, self._early = None, {}, []
            self._log("world/local", rr.Clear(recursive=True), at=at)
            return
        self._grown = grown
        positions, colours = grown.positions[-POINTS:], grown.colours[-POINTS:]
        points = rr.Points3D(positions, colors=colours, radii=rr.Radius.ui_points(2.0))
        self._log("world/local/points", points, at=at)
        length = FRUSTUM_SHARE * self._depth
        poses = [Sim3.from_matrix(pose) for pose in grown.world_from_cam[-FRUSTA:]]
        frusta = [shapes.frustum(grown.camera, pose, length) for pose in poses]
        cameras = rr.LineStrips3D(frusta, colors=COLOUR, radii=rr.Radius.ui_points(0.5))
        self._log("world/local/cameras", cameras, at=at)
        for index in list(self._dense):
            self._place_depth(index, grown)
        early, self._early = self._early, []
        for found in early:
            self._draw_depth(found)

    def _draw_depth(self, found: LocalDepth) -> None:
        """Dense points of a keyframe of the local map, unless that has moved on."""
        if self._grown is None or found.index > self._grown.index:
            self._early.append(found)
            return
        if found.index not in self._grown.keyframes:
            return
        self._dense[found.index] = _Dense(found.camera, found.unit)
        points = rr.Points3D(found.positions, colors=found.colours, radii=rr.Radius.ui_points(1.5))
        self._log(_entity(found.index), points, at=Instant(self._grown.index, self._grown.timestamp))
        self._place_depth(found.index, self._grown)

    def _place_depth(self, index: int, grown: LocalMapGrown) -> None:
        """Let dense points follow their keyframe, or vanish with it, or because the lens has become another."""
        at, shown = Instant(grown.index, grown.timestamp), self._dense[index]
        rows = np.flatnonzero(grown.keyframes == index)
        if not len(rows) or shown.is_of_another_lens(grown.camera):
            self._log(_entity(index), rr.Clear(recursive=False), at=at)
            del self._dense[index]
            return
        pose = grown.world_from_cam[rows[0]]
        place = Sim3(grown.unit / shown.unit, pose[:3, :3], pose[:3, 3])
        if shown.moves(place, self._depth):
            self._dense[index] = replace(shown, place=place)
            self._log(_entity(index), transform(place), at=at)


def _entity(keyframe: int) -> str:
    return f"world/local/depth/{keyframe}"
