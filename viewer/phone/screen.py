"""A listener that knows what a phone's page shows: the state of the run, and its map."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recon.core.events import (
    ChunkReconstructed,
    Event,
    Finished,
    FrameTracked,
    LocalDepth,
    LocalMapGrown,
    PosesCorrected,
    Progress,
)
from recon.core.similarity import Array, Sim3
from recon.core.types import Image, PlacedFrame
from recon.mapping.world import median_depth
from viewer.cloud import Drawing
from viewer.local_depth import LocalDepths
from viewer.mailbox import Mailbox
from viewer.phone.advice import BEGIN, GO_ON, Adviser
from viewer.shapes import central, frustum, thin_points

logger = logging.getLogger(__name__)

MAP_POINTS = 30_000  # of the finished map, shown at most
LOCAL_POINTS = 20_000  # of dense depth that it does not have yet
SUBMAP_POINTS = 10_000  # kept of a submap at first
TRAIL = 60  # frames
UPRIGHT = 4  # the first frames, which decide how the map is seen, so that it does not turn while it grows
FRUSTUM_SHARE = 0.1  # of the scene's depth
DIGITS = 4


@dataclass(frozen=True, eq=False)
class ShownSubmap:
    """positions (n, 3) in chunk coordinates, in random order, and colours; cam_from_chunk of the frames it added, by
    index. depth: median, in the unit of the chunk.
    """

    positions: Array
    colours: Image
    cam_from_chunk: dict[int, Sim3]
    world_from_chunk: Sim3
    depth: float


class PhoneScreen:
    """What the page shows. Events may come from any thread, which never waits here.

    Points are thinned on a thread of its own, so that the answer to an image is ready at once.
    """

    def __init__(self) -> None:
        self._mailbox, self._lock = Mailbox(), threading.Lock()
        self._submaps: dict[int, ShownSubmap] = {}
        self._frames: dict[int, PlacedFrame] = {}
        self._local: LocalMapGrown | None = None
        self._depths = LocalDepths()
        self._drawing: Drawing | None = None
        self._version = 0
        self._said: FrameTracked | None = None
        self._trail: deque[FrameTracked] = deque(maxlen=TRAIL)
        self._adviser, self._advice = Adviser(), BEGIN
        self._stage: Progress | None = None
        self._finished: Finished | None = None
        threading.Thread(target=self._work, name="phone map", daemon=True).start()

    def __call__(self, event: Event, /) -> None:
        match event:
            case FrameTracked():
                self._track(event)
            case Progress():
                self._stage = event
            case ChunkReconstructed() | PosesCorrected() | LocalMapGrown() | LocalDepth():
                self._mailbox.put(event)
            case Finished():
                self._finished = event

    def close(self) -> None:
        """End the thread; what is shown stays."""
        self._mailbox.close()

    def state(self) -> dict[str, Any]:
        """The state as JSON. tracking: ``mapping`` if there is a map but no tracker. map: a number that changes with
        it. trail, camera: polylines in its coordinates.
        """
        said, stage = self._said, self._stage
        return {
            "tracking": said.state if said else "mapping" if self._frames else "waiting",
            "advice": self._advice if said or not self._frames else GO_ON,
            "placed": len(self._frames),
            "behind": self._behind(),
            "stage": stage.stage if stage else "",
            "share": round(stage.done / stage.total, 3) if stage and stage.total else None,
            "finished": f"{self._finished.placed} of {self._finished.read} images" if self._finished else "",
            "map": self._version,
            **self._now(),
        }

    def map(self) -> dict[str, Any] | None:
        """The map as ``cloud.js`` draws it, None if there is none yet. Takes some 50 ms."""
        with self._lock:
            drawing = self._drawing = self._draw()
        return drawing.data() if drawing else None

    def _behind(self) -> float | None:
        """Seconds from the newest frame in the map to the newest captured one; None if one of them is unknown."""
        frames, said = self._frames, self._said
        if not frames or said is None:
            return None
        return round(max(0.0, said.timestamp - max(frame.timestamp for frame in frames.values())), 1)

    def _track(self, said: FrameTracked) -> None:
        self._said = said
        self._advice = self._adviser.advise(said, self._scene_depth())
        if self._trail and self._trail[-1].piece != said.piece:
            self._trail.clear()
        if said.world_from_cam is not None:
            self._trail.append(said)

    def _now(self) -> dict[str, Any]:
        """The trail and the camera, where they have the coordinates of the map."""
        drawing, said = self._drawing, self._said
        if drawing is None or said is None or not self._is_in_view(said.piece):
            return {"trail": [], "camera": []}
        way = [one.world_from_cam[:3, 3] for one in list(self._trail) if one.world_from_cam is not None]
        camera: list[list[float]] = []
        if said.world_from_cam is not None and said.camera is not None:
            length = FRUSTUM_SHARE * self._scene_depth()
            camera = _listed(drawing, frustum(said.camera, Sim3.from_matrix(said.world_from_cam), length))
        return {"trail": _listed(drawing, np.array(way)) if way else [], "camera": camera}

    def _is_in_view(self, piece: int) -> bool:
        """Whether a piece has the coordinates of what is shown: those of the tracker's own have others."""
        return (piece >= 0) == bool(self._submaps)

    def _scene_depth(self) -> float:
        """Median depth of the first submap in world units; it is 1 in the tracker's own map."""
        first = next(iter(self._submaps.values()), None)
        return first.depth * first.world_from_chunk.scale if first else 1.0

    def _work(self) -> None:
        try:
            while (letter := self._mailbox.take()) is not None:
                self._change(letter.event)
                self._version += 1
        except Exception as error:
            self._mailbox.close()
            logger.error("The map on the phone is off (%s: %s); the run continues.", type(error).__name__, error)
            logger.debug("", exc_info=error)

    def _change(self, event: Event) -> None:
        match event:
            case ChunkReconstructed() as chunk:
                self._add(chunk)
            case PosesCorrected(frames):
                self._correct(frames)
            case LocalMapGrown() as grown:
                with self._lock:
                    self._local = grown
                    self._depths.follow(grown)
            case LocalDepth() as found:
                with self._lock:
                    self._depths.add(found)

    def _add(self, event: ChunkReconstructed) -> None:
        placed = {frame.index: frame for frame in event.frames}
        added = [frame for frame in event.submap.geometry.frames if frame.index in placed]
        if not added:
            return
        number = event.submap.index
        positions, colours = thin_points(added, SUBMAP_POINTS, seed=number)
        order = np.random.default_rng(number).permutation(len(positions))
        cams = {frame.index: Sim3.from_matrix(frame.cam_from_chunk) for frame in added}
        shown = ShownSubmap(
            positions[order], colours[order], cams, event.submap.world_from_chunk, depth=median_depth(added)
        )
        with self._lock:
            self._frames = self._frames | placed
            self._submaps = self._submaps | {number: shown}
            self._thin()

    def _thin(self) -> None:
        """Keep at most twice the points that are shown."""
        total = sum(len(submap.positions) for submap in self._submaps.values())
        if total > 2 * MAP_POINTS:
            self._submaps = {
                number: replace(
                    submap,
                    positions=submap.positions[: len(submap.positions) // 2],
                    colours=submap.colours[: len(submap.colours) // 2],
                )
                for number, submap in self._submaps.items()
            }

    def _correct(self, frames: tuple[PlacedFrame, ...]) -> None:
        """A submap moves as one, with its middle frame."""
        with self._lock:
            self._frames = {frame.index: frame for frame in frames}
            moved = dict(self._submaps)
            for number, submap in moved.items():
                placed = [self._frames[index] for index in submap.cam_from_chunk if index in self._frames]
                if placed:
                    middle = placed[len(placed) // 2]
                    world_from_chunk = middle.world_from_cam @ submap.cam_from_chunk[middle.index]
                    moved[number] = replace(submap, world_from_chunk=world_from_chunk)
            self._submaps = moved

    def _draw(self) -> Drawing | None:
        submaps, local = list(self._submaps.values()), self._local
        total = sum(len(submap.positions) for submap in submaps)
        share = min(1.0, MAP_POINTS / max(total, 1))
        kept = [int(np.ceil(share * len(submap.positions))) for submap in submaps]
        points = [one.world_from_chunk.apply(one.positions[:count]) for one, count in zip(submaps, kept, strict=True)]
        colours = [submap.colours[:count] for submap, count in zip(submaps, kept, strict=True)]
        frames = list(self._frames.values())
        upright = frames[:UPRIGHT]
        if local and self._is_in_view(local.piece):
            dense = list(self._depths.placed())
            step = 1 + sum(len(found.positions) for found, _ in dense) // LOCAL_POINTS
            points += [local.positions, *(place.apply(found.positions[::step]) for found, place in dense)]
            colours += [local.colours, *(found.colours[::step] for found, _ in dense)]
            poses = [Sim3.from_matrix(pose) for pose in local.world_from_cam]
            frames += [PlacedFrame(local.index, local.timestamp, "", local.camera, pose) for pose in poses]
        if not frames or not sum(map(len, points)):
            return None
        positions = np.concatenate(points)
        near = central(positions)
        return Drawing(positions[near], np.concatenate(colours)[near], frames, upright or frames[:UPRIGHT])


def _listed(drawing: Drawing, points_world: Array) -> list[list[float]]:
    placed: list[list[float]] = np.round(drawing.placed(points_world), DIGITS).tolist()
    return placed
