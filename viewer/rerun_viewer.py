"""A listener that turns the pipeline's events into Rerun entities; docs/viewer.md lists them."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import psutil
import rerun as rr
from rerun.error_utils import catch_and_log_exceptions

from recon.errors import DependencyError, OutputError
from recon.events import (
    ChunkReconstructed,
    Event,
    Finished,
    FrameRead,
    FrameSkipped,
    Notice,
    PosesCorrected,
    Progress,
)
from recon.similarity import Sim3
from recon.types import Frame, FrameGeometry, PlacedFrame, SparsePoints
from viewer import shapes
from viewer.blueprint import layout
from viewer.launch import open_window

logger = logging.getLogger(__name__)

POINTS_PER_SUBMAP = 60_000
SPARSE_POINTS = 60_000
FRUSTA = 300
IMAGE_SIDE = 480
JPEG_QUALITY = 75
FRUSTUM_SHARE = 0.06  # of the scene's depth
DEPTH_STEPS = 500  # of the median depth; a step of 0.2% is finer than any colour map shows
SPEED_WINDOW = 30  # frames


@dataclass(frozen=True)
class Instant:
    """Position on both timelines: the frame's index and its timestamp in seconds."""

    frame: int
    seconds: float


@dataclass(frozen=True, eq=False)
class LoggedSubmap:
    """What a correction needs of a submap whose points are already logged.

    start: when it appears. cam_from_chunk: by frame index, of the frames it added. depth: median, in its own unit.
    """

    start: Instant
    cam_from_chunk: dict[int, Sim3]
    world_from_chunk: Sim3
    depth: float


def record(path: Path, *, strict: bool = False) -> RerunViewer:
    """A viewer that writes the recording ``path`` and starts no server. Raises OutputError if it cannot be written."""
    try:
        return RerunViewer(_file_sink(path), strict=strict)
    except RuntimeError as error:
        raise OutputError(f"Cannot write {path}: {error}. Choose another --out.") from error


def live(path: Path, *, strict: bool = False) -> tuple[RerunViewer, Notice | None]:
    """A viewer that shows the run in a window and writes the recording ``path`` too.

    Where no window opens it only records, and the notice says so. Raises OutputError if ``path`` cannot be written.
    """
    try:
        address = open_window()
    except DependencyError as error:
        notice = Notice(f"{error} The run is recorded instead; afterwards open {path} with: recon view {path.parent}")
        return record(path, strict=strict), notice
    try:
        return RerunViewer(rr.GrpcSink(address), _file_sink(path), strict=strict), None
    except RuntimeError as error:
        raise OutputError(f"Cannot write {path}: {error}. Choose another --out.") from error


def _file_sink(path: Path) -> rr.FileSink:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot create {path.parent}: {error.strerror}. Choose another --out.") from error
    return rr.FileSink(path)


class RerunViewer:
    """Logs every event to its own recording stream. Finished closes it, and so does leaving the ``with`` block.

    A fault in here never stops a run: it is logged once and the viewer turns itself off; with ``strict`` it is raised.
    """

    def __init__(self, *sinks: rr.FileSink | rr.GrpcSink, strict: bool = False) -> None:
        self._strict = strict
        self._open = True
        self._frames: dict[int, PlacedFrame] = {}
        self._submaps: dict[int, LoggedSubmap] = {}
        self._now = Instant(0, 0.0)
        self._stage = ""
        self._read_at: deque[float] = deque(maxlen=SPEED_WINDOW)
        self._process = psutil.Process()
        self._stream = rr.RecordingStream("recon")
        self._stream.set_sinks(*sinks)
        self._log("world", rr.ViewCoordinates.RDF)

    def __call__(self, event: Event, /) -> None:
        if not self._open:
            return
        try:
            with catch_and_log_exceptions(strict=True):
                self._handle(event)
        except Exception:
            self._open = False
            if self._strict:
                raise
            logger.exception("The viewer failed and is now off; the run goes on without it.")

    def __enter__(self) -> RerunViewer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is still buffered and end the recording; later events are ignored."""
        self._open = False
        self._stream.disconnect()

    def _handle(self, event: Event) -> None:
        match event:
            case FrameRead(frame):
                self._log_speed(frame)
            case FrameSkipped(frame):
                self._write(f"{frame.name} left out: {frame.reason}", rr.TextLogLevel.WARN)
            case Progress(stage) if stage != self._stage:
                self._stage = stage
                self._write(f"Stage: {stage}")
            case ChunkReconstructed():
                self._log_chunk(event)
            case PosesCorrected(frames, points):
                self._correct(frames, points)
            case Notice(text):
                self._write(text)
            case Finished(placed=placed, read=read):
                self._write(f"Finished: {placed} of {read} frames placed")
                self.close()

    def _log(self, entity: str, *parts: rr.AsComponents, at: Instant | None = None) -> None:
        """Log at an instant, or for all time: then the newest value holds wherever the time cursor is."""
        if at is not None:
            self._stream.set_time("frame", sequence=at.frame)
            self._stream.set_time("time", duration=at.seconds)
        self._stream.log(entity, *parts, static=at is None, strict=True)

    def _write(self, text: str, level: str = rr.TextLogLevel.INFO) -> None:
        self._log("log", rr.TextLog(text, level=level), at=self._now)

    def _log_speed(self, frame: Frame) -> None:
        self._now = Instant(frame.index, frame.timestamp)
        self._read_at.append(time.monotonic())
        elapsed = self._read_at[-1] - self._read_at[0]
        if elapsed > 0:
            self._log("plots/speed", rr.Scalars((len(self._read_at) - 1) / elapsed), at=self._now)
        self._log("plots/memory", rr.Scalars(self._process.memory_info().rss / 1e6), at=self._now)

    def _log_chunk(self, event: ChunkReconstructed) -> None:
        placed = {frame.index: frame for frame in event.frames}
        added = [frame for frame in event.submap.geometry.frames if frame.index in placed]
        if not added:
            return
        self._frames |= placed
        number = event.submap.index
        first = placed[added[0].index]
        submap = LoggedSubmap(
            start=Instant(first.index, first.timestamp),
            cam_from_chunk={frame.index: Sim3.from_matrix(frame.cam_from_chunk) for frame in added},
            world_from_chunk=event.submap.world_from_chunk,
            depth=shapes.median_depth(added),
        )
        self._submaps[number] = submap
        if len(self._submaps) == 1:
            self._stream.send_blueprint(layout(self._scene_depth()))
        self._log_points(number, added, submap)
        for frame in added:
            self._log_camera(frame, placed[frame.index], submap)
        self._log("plots/residual", rr.Scalars(event.submap.residual), at=submap.start)
        self._log_path()

    def _log_points(self, number: int, added: list[FrameGeometry], submap: LoggedSubmap) -> None:
        positions, colours = shapes.sample_points(added, POINTS_PER_SUBMAP, seed=number)
        points = rr.Points3D(positions, colors=colours, radii=rr.Radius.ui_points(1.25))
        self._log(f"world/submaps/{number}/points", points, at=submap.start)
        self._log(f"world/submaps/{number}", _transform(submap.world_from_chunk), at=submap.start)

    def _log_camera(self, geometry: FrameGeometry, frame: PlacedFrame, submap: LoggedSubmap) -> None:
        at = Instant(frame.index, frame.timestamp)
        colour, depth, intrinsics = shapes.shrink(geometry, IMAGE_SIDE)
        height, width = depth.shape
        pinhole = rr.Pinhole(
            image_from_camera=intrinsics,
            resolution=(width, height),
            camera_xyz=rr.ViewCoordinates.RDF,
            image_plane_distance=2 * FRUSTUM_SHARE * self._scene_depth(),
        )
        self._log("world/camera", pinhole, at=at)
        self._log("world/camera/image", rr.Image(colour).compress(jpeg_quality=JPEG_QUALITY), at=at)
        steps = np.clip(np.round(depth * (DEPTH_STEPS / submap.depth)), 0, np.iinfo(np.uint16).max)
        image = rr.EncodedDepthImage(
            cv2.imencode(".png", steps.astype(np.uint16))[1].tobytes(),
            media_type="image/png",
            depth_range=(0, 3 * DEPTH_STEPS),
            colormap=rr.components.Colormap.Turbo,
        )
        self._log("world/camera/depth", image, at=at)
        self._place_camera(frame, submap)

    def _place_camera(self, frame: PlacedFrame, submap: LoggedSubmap) -> None:
        """Rerun draws a camera only under a rigid transform, so the scale of its pose goes into the depth's unit."""
        at = Instant(frame.index, frame.timestamp)
        pose = frame.world_from_cam
        self._log("world/camera", rr.Transform3D(translation=pose.translation, mat3x3=pose.rotation), at=at)
        steps_per_unit = DEPTH_STEPS / (submap.depth * pose.scale)
        self._log("world/camera/depth", rr.EncodedDepthImage.from_fields(meter=steps_per_unit), at=at)

    def _correct(self, frames: tuple[PlacedFrame, ...], points: SparsePoints) -> None:
        """Rewrite the past: at every instant of the timelines the map is shown as it is known now."""
        self._frames = {frame.index: frame for frame in frames}
        for number, submap in self._submaps.items():
            placed = [self._frames[index] for index in submap.cam_from_chunk if index in self._frames]
            for frame in placed:
                self._place_camera(frame, submap)
            if placed:
                middle = placed[len(placed) // 2]
                world_from_chunk = middle.world_from_cam @ submap.cam_from_chunk[middle.index]
                self._log(f"world/submaps/{number}", _transform(world_from_chunk), at=submap.start)
        self._log_path()
        kept = slice(None, None, len(points.positions) // SPARSE_POINTS + 1)
        sparse = rr.Points3D(points.positions[kept], colors=points.colours[kept], radii=rr.Radius.ui_points(2.0))
        self._log("world/points", sparse)

    def _log_path(self) -> None:
        """The camera centres as coloured segments, and at most FRUSTA of the cameras, evenly spaced."""
        frames = [self._frames[index] for index in sorted(self._frames)]
        colours = shapes.colours_along(len(frames))
        centres = np.array([frame.world_from_cam.translation for frame in frames])
        segments = np.stack([centres[:-1], centres[1:]], axis=1)
        self._log("world/trajectory", rr.LineStrips3D(segments, colors=colours[1:], radii=rr.Radius.ui_points(1.5)))
        kept = slice(None, None, len(frames) // FRUSTA + 1)
        length = FRUSTUM_SHARE * self._scene_depth()
        frusta = [shapes.frustum(frame.camera, frame.world_from_cam, length) for frame in frames[kept]]
        self._log("world/cameras", rr.LineStrips3D(frusta, colors=colours[kept], radii=rr.Radius.ui_points(0.5)))

    def _scene_depth(self) -> float:
        """Median depth of the first submap in world units, which sizes everything that is drawn."""
        first = next(iter(self._submaps.values()))
        return first.depth * first.world_from_chunk.scale


def _transform(parent_from_child: Sim3) -> rr.Transform3D:
    return rr.Transform3D(
        translation=parent_from_child.translation,
        mat3x3=parent_from_child.rotation,
        scale=parent_from_child.scale,
    )
