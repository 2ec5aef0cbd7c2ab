"""The events that the pipeline sends to listeners; the viewer, the progress bar and the map store see nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from recon.core.places import LoopRecord
from recon.core.similarity import Array
from recon.core.types import Camera, Frame, Image, PlacedFrame, SkippedFrame, SparsePoints, Submap

TrackingState = Literal["waiting", "tracking", "weak", "lost"]


@dataclass(frozen=True, eq=False)
class FrameRead:
    """A frame was read from the source; listeners must not keep its pixels."""

    frame: Frame


@dataclass(frozen=True)
class FrameSkipped:
    """A file or frame was left out, with the reason."""

    frame: SkippedFrame


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` steps of a stage; total is 0 while it is unknown."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True, eq=False)
class FrameTracked:
    """What is known of a captured frame at once, in the map as it is then; sent from the thread that captures, as soon
    as there is a map.

    state: ``waiting`` for the map, ``tracking``, ``weak`` if few corners of the image agree on the pose,
    if they determine it badly, or if it has drifted, ``lost`` if there is no pose. world_from_cam: (4, 4) rigid, or
    None. camera: the lens of the map near it. inliers: corners that agree. piece: of the map, negative for one that is
    the tracker's own; poses in different pieces cannot be compared. drift: the error to be expected, as a share of the
    scene's depth. milliseconds: from the arrival of the frame. jump: how far the camera has jumped since the frame
    before, as a share of the scene's depth, because the map has changed.
    """

    index: int
    timestamp: float
    state: TrackingState
    world_from_cam: Array | None
    camera: Camera | None
    inliers: int
    piece: int
    drift: float
    milliseconds: float
    jump: float = 0.0


@dataclass(frozen=True, eq=False)
class CameraView:
    """What the camera sees now; sent like ``FrameTracked``, if anybody watches.

    image: (h, w, 3) uint8 RGB, small. corners: (n, 2) pixels of it, at which the tracker follows corners.
    """

    index: int
    timestamp: float
    image: Image
    corners: Array


@dataclass(frozen=True, eq=False)
class LocalMapGrown:
    """The tracker's map of what the finished one does not have yet; it replaces the one before. Sent from the thread
    that captures.

    index, timestamp: of its newest keyframe. piece: as in ``FrameTracked``. keyframes: (k,) their frame indices.
    world_from_cam: (k, 4, 4) rigid, of them. positions, colours: (n, 3) float and uint8, of its corners. unit: how long
    is now what was 1 when it began.
    """

    index: int
    timestamp: float
    piece: int
    camera: Camera
    keyframes: NDArray[np.int64]
    world_from_cam: Array
    positions: Array
    colours: Image
    unit: float = 1.0


@dataclass(frozen=True, eq=False)
class LocalDepth:
    """Dense depth of a keyframe of the tracker's map; sent from a thread of its own, if anybody watches.

    camera, unit: of that map then, as in ``LocalMapGrown``. positions: (n, 3) in the camera. colours: (n, 3) uint8.
    milliseconds: from the arrival of the frame.
    """

    index: int
    timestamp: float
    camera: Camera
    unit: float
    positions: Array
    colours: Image
    milliseconds: float


@dataclass(frozen=True, eq=False)
class ChunkReconstructed:
    """A submap was placed; frames are its newly placed ones (the overlap belongs to the previous chunk). piece: of the
    map, to which it is connected, by the index of its first submap.
    """

    submap: Submap
    frames: tuple[PlacedFrame, ...]
    piece: int = 0


@dataclass(frozen=True, eq=False)
class PosesCorrected:
    """Every placed frame with its new pose, and the matching sparse points."""

    frames: tuple[PlacedFrame, ...]
    points: SparsePoints


@dataclass(frozen=True)
class LoopClosed:
    """A place was recognised and confirmed by geometry; ``PosesCorrected`` follows."""

    loop: LoopRecord


@dataclass(frozen=True)
class Notice:
    """A sentence the user should read: a setting lowered, a fallback taken, an ambiguity found.

    doubtful: the sentence says why the whole map may be wrong, and the result shows it first.
    """

    text: str
    doubtful: bool = False


@dataclass(frozen=True)
class StreamStatus:
    """Status of a live source; sent with every frame read and after every chunk.

    captured: pictures so far. passed_over: those that showed nothing new. skipped: those dropped because the
    reconstruction was slower. damaged: those that arrived damaged. lost: how often the connection was lost.
    lag: age of the newest frame read [s]. waiting: pictures that wait for the reconstruction. began: when the frames'
    timestamps were 0, in seconds since 1970; 0 if unknown.
    """

    captured: int
    passed_over: int
    skipped: int
    damaged: int
    lost: int
    lag: float
    waiting: int = 0
    began: float = 0.0


@dataclass(frozen=True)
class Finished:
    """The run is over; ``placed`` of ``read`` frames are in the map in ``folder``."""

    folder: Path
    placed: int
    read: int


Event = (
    FrameRead
    | FrameTracked
    | CameraView
    | LocalMapGrown
    | LocalDepth
    | FrameSkipped
    | Progress
    | ChunkReconstructed
    | PosesCorrected
    | LoopClosed
    | Notice
    | StreamStatus
    | Finished
)


class Listener(Protocol):
    """Receives events in order, one at a time, on the pipeline's thread; ``FrameTracked``, ``CameraView`` and
    ``LocalMapGrown`` on that of the capture, ``LocalDepth`` on one of its own.

    A listener must return quickly and must not keep a frame's pixels: memory is bounded by the chunk.
    """

    def __call__(self, event: Event, /) -> None: ...
