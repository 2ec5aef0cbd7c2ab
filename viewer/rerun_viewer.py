"""A listener that turns the pipeline's events into Rerun entities; docs/viewer.md lists them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import psutil
import rerun as rr
from rerun.error_utils import catch_and_log_exceptions

from recon.core.errors import OutputError
from recon.core.events import (
    CameraView,
    ChunkReconstructed,
    Event,
    Finished,
    FrameRead,
    FrameSkipped,
    FrameTracked,
    LocalDepth,
    LocalMapGrown,
    LoopClosed,
    Notice,
    PosesCorrected,
    Progress,
    StreamStatus,
)
from recon.core.files import make_folder
from recon.core.places import LoopRecord
from recon.core.quantities import counted
from recon.core.similarity import Sim3
from recon.core.types import Frame, FrameGeometry, PlacedFrame, SparsePoints
from recon.mapping.world import median_depth
from recon.store.map import images_folder
from viewer import shapes
from viewer.blueprint import Eye, layout
from viewer.drawing import FRUSTA, FRUSTUM_SHARE, JPEG_QUALITY, Instant, strips, transform
from viewer.launch import LOOPBACK, open_window, serve
from viewer.level import Level
from viewer.mailbox import Letter, Mailbox
from viewer.tracked import Said, TrackedCamera

logger = logging.getLogger(__name__)

POINT_BUDGET = 5_000_000  # of all submaps together
SUBMAP_SHARE = 0.012  # share of the remaining budget: 60,000 points for the first submap, 17,000 for the hundredth
SPARSE_POINTS = 60_000
CLOUD_POINTS = 1_000_000  # of the finished cloud
IMAGE_SIDE = 480
DEPTH_STEPS = 500  # of the median depth; a step of 0.2% is finer than any colour map shows
SPEED_WINDOW = 30  # frames
WARNING = rr.TextLogLevel.WARN
LOOP_COLOUR = (80, 220, 120)
FILE_PATIENCE = 120.0  # seconds that a run waits at its end for the recording to be written
SCREEN_PATIENCE = 10.0  # the same for a viewer on screen


@dataclass(frozen=True, eq=False)
class LoggedSubmap:
    """What a later correction needs to know about a submap whose points are already logged. start: when it appears.
    cam_from_chunk: by frame index, of the frames it added. depth: median, in its own unit.
    """

    start: Instant
    cam_from_chunk: dict[int, Sim3]
    world_from_chunk: Sim3
    depth: float


def record(path: Path, *, strict: bool = False) -> RerunViewer:
    """A viewer that writes the recording ``path``, without a server. Raises OutputError if it cannot be written."""
    make_folder(path.parent)
    try:
        return RerunViewer(rr.FileSink(path), images_folder(path.parent), FILE_PATIENCE, strict=strict)
    except RuntimeError as error:
        raise OutputError(f"Cannot write {path}: {error}. Choose another --out.") from error


def live(folder: Path, *, strict: bool = False) -> RerunViewer:
    """A viewer that shows the run in ``folder`` in a window. Raises DependencyError if none can be opened."""
    return RerunViewer(rr.GrpcSink(open_window()), images_folder(folder), SCREEN_PATIENCE, strict=strict)


def web(folder: Path, host: str = LOOPBACK, *, strict: bool = False) -> tuple[RerunViewer, str]:
    """A viewer that shows the run in ``folder`` in a browser, and the address of its page.

    host: address of this machine to serve on; anyone who can reach it sees the run. The page lives until this process
    ends. Raises SettingsError if ``host`` is not such an address, DependencyError if no server starts.
    """
    _, data, page = serve(None, host)
    return RerunViewer(rr.GrpcSink(data), images_folder(folder), SCREEN_PATIENCE, strict=strict), page


class RerunViewer:
    """Logs every event to its own recording stream, on its own thread, so that the run never waits for it.

    images: folder of the originals, to show recognised places side by side. patience: seconds that ``close`` waits for
    the mailbox. The event Finished closes the viewer, and so does leaving the ``with`` block.
    A fault in the viewer never stops a run: it is logged once and the viewer turns itself off; with ``strict`` it is
    raised when the viewer is closed.
    """

    def __init__(
        self, sink: rr.FileSink | rr.GrpcSink, images: Path, patience: float = FILE_PATIENCE, *, strict: bool = False
    ) -> None:
        self._strict = strict
        self._patience = patience
        self._images = images
        self._fault: Exception | None = None
        self._frames: dict[int, PlacedFrame] = {}
        self._submaps: dict[int, LoggedSubmap] = {}
        self._loops: list[LoopRecord] = []
        self._new_loops: list[LoopRecord] = []  # a chunk often closes many at once
        self._points_left = POINT_BUDGET
        self._now = Instant(0, 0.0)
        self._stage = ""
        self._read_at: deque[float] = deque(maxlen=SPEED_WINDOW)
        self._last_chunk: float | None = None
        self._live = self._is_open = False
        self._process = psutil.Process()
        self._stream = rr.RecordingStream("recon")
        self._stream.set_sinks(sink)
        self._log("world", rr.ViewCoordinates.RDF)
        self._tracked = TrackedCamera(self._log)
        self._mailbox = Mailbox()
        self._thread = threading.Thread(target=self._work, name="viewer", daemon=True)
        self._thread.start()

    def __call__(self, event: Event, /) -> None:
        self._mailbox.put(event)
        if isinstance(event, Finished):
            self.close()

    def __enter__(self) -> RerunViewer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def waiting(self) -> bool:
        """Whether events are still waiting."""
        return len(self._mailbox) > 0

    def close(self) -> None:
        """Log the waiting events, for at most ``patience`` seconds, and end the recording; later events are ignored."""
        self._mailbox.close()
        self._thread.join(self._patience)
        if self._thread.is_alive():
            logger.warning("The viewer is too slow; the run ends without showing the rest.")
        if self._fault is not None and self._strict:
            fault, self._fault = self._fault, None
            raise fault

    def _work(self) -> None:
        try:
            with catch_and_log_exceptions(strict=True):
                while (letter := self._mailbox.take()) is not None:
                    self._handle(letter)
                    if self._new_loops and not self._mailbox.starts_with(LoopClosed):
                        self._show_new_loops()
                if self._mailbox.lost:
                    self._write(f"{counted(self._mailbox.lost, 'submap')} not shown: the viewer was too slow", WARNING)
        except Exception as error:
            self._mailbox.close()
            self._fault = error
            if not self._strict:
                reason = f"{type(error).__name__}: {error}"
                logger.error("The viewer failed (%s) and is now off; the run continues without it.", reason)
                logger.debug("", exc_info=error)
        finally:
            self._stream.disconnect()

    def _handle(self, letter: Letter) -> None:
        match letter.event:
            case FrameRead(frame):
                self._log_speed(frame, letter.came)
            case StreamStatus():
                self._live = True
            case FrameTracked() | CameraView() | LocalMapGrown() | LocalDepth():
                self._log_tracked(letter.event)
            case FrameSkipped(frame):
                self._write(f"{frame.name} left out: {frame.reason}", WARNING)
            case Progress(stage) if stage != self._stage:
                self._stage = stage
                self._write(f"Stage: {stage}")
            case ChunkReconstructed() as chunk:
                self._log_chunk(chunk)
                self._log_pace(chunk, letter.came)
            case LoopClosed(loop):
                self._note_loop(loop)
            case PosesCorrected(frames, points):
                self._correct(frames, points)
            case Notice(text):
                self._write(text)
            case Finished(folder, placed, read):
                self._write(f"Finished: {placed} of {read} frames placed")
                self._log_cloud(folder)

    def _log(self, entity: str, *parts: rr.AsComponents, at: Instant | None = None) -> None:
        """Log at an instant or for all time. In the latter case the newest value holds at every position of the time
        cursor.
        """
        if at is not None:
            self._stream.set_time("frame", sequence=at.frame)
            self._stream.set_time("time", duration=at.seconds)
        self._stream.log(entity, *parts, static=at is None, strict=True)

    def _write(self, text: str, level: rr.TextLogLevel = rr.TextLogLevel.INFO) -> None:
        self._log("log", rr.TextLog(text, level=level), at=self._now)

    def _log_speed(self, frame: Frame, came: float) -> None:
        self._now = Instant(frame.index, frame.timestamp)
        self._read_at.append(came)
        elapsed = self._read_at[-1] - self._read_at[0]
        if elapsed > 0:
            self._log("plots/speed", rr.Scalars((len(self._read_at) - 1) / elapsed), at=self._now)
        self._log("plots/memory", rr.Scalars(self._process.memory_info().rss / 1e6), at=self._now)

    def _log_pace(self, chunk: ChunkReconstructed, came: float) -> None:
        """Seconds per new frame since the previous chunk, and how long this one waited to be shown."""
        if self._last_chunk is not None and chunk.frames:
            self._log("plots/pace", rr.Scalars((came - self._last_chunk) / len(chunk.frames)), at=self._now)
        self._last_chunk = came
        self._log("plots/lag", rr.Scalars(time.monotonic() - came), at=self._now)

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
            depth=median_depth(added),
        )
        self._submaps[number] = submap
        if len(self._submaps) == 1:
            self._stream.send_blueprint(layout(Eye.behind_first_camera(self._scene_depth()), live=self._live))
        self._log_points(number, added, submap)
        for frame in added:
            self._log_camera(frame, submap)
        self._place_cameras([(placed[frame.index], submap) for frame in added])
        self._log("plots/residual", rr.Scalars(event.submap.residual), at=submap.start)
        self._log_path()

    def _log_tracked(self, said: Said) -> None:
        if isinstance(said, CameraView | LocalMapGrown) and not self._submaps and not self._is_open:
            self._is_open = True
            self._stream.send_blueprint(layout(Eye.behind_first_camera(self._scene_depth()), live=True))
        self._tracked.scene_depth = self._scene_depth() if self._submaps else None
        self._tracked.draw(said)

    def _log_points(self, number: int, added: list[FrameGeometry], submap: LoggedSubmap) -> None:
        positions, colours = shapes.thin_points(added, int(SUBMAP_SHARE * self._points_left), seed=number)
        self._points_left -= len(positions)
        points = rr.Points3D(positions, colors=colours, radii=rr.Radius.ui_points(1.25))
        self._log(f"world/submaps/{number}/points", points, at=submap.start)
        self._log(f"world/submaps/{number}", transform(submap.world_from_chunk), at=submap.start)

    def _log_camera(self, geometry: FrameGeometry, submap: LoggedSubmap) -> None:
        frame = self._frames[geometry.index]
        at = Instant(frame.index, frame.timestamp)
        colour, depth, confidence, intrinsics = shapes.shrink(geometry, IMAGE_SIDE)
        height, width = depth.shape
        pinhole = rr.Pinhole(
            image_from_camera=intrinsics,
            resolution=(width, height),
            camera_xyz=rr.ViewCoordinates.RDF,
            image_plane_distance=2 * FRUSTUM_SHARE * self._scene_depth(),
        )
        self._log("world/camera", pinhole, at=at)
        self._log("world/camera/image", rr.Image(colour).compress(jpeg_quality=JPEG_QUALITY), at=at)
        doubt = rr.Image(np.round(confidence * 255).astype(np.uint8)).compress(jpeg_quality=JPEG_QUALITY)
        self._log("world/camera/confidence", doubt, at=at)
        steps = np.clip(np.round(depth * (DEPTH_STEPS / submap.depth)), 0, np.iinfo(np.uint16).max)
        image = rr.EncodedDepthImage(
            cv2.imencode(".png", steps.astype(np.uint16))[1].tobytes(),
            media_type="image/png",
            depth_range=(0, 3 * DEPTH_STEPS),
            colormap=rr.components.Colormap.Turbo,
        )
        self._log("world/camera/depth", image, at=at)

    def _place_cameras(self, placed: Sequence[tuple[PlacedFrame, LoggedSubmap]]) -> None:
        """Rerun draws cameras only under rigid transforms, so the scale of a pose goes into the depth's unit."""
        if not placed:
            return
        frames, poses = [frame for frame, _ in placed], [frame.world_from_cam for frame, _ in placed]
        when = (
            rr.TimeColumn("frame", sequence=[frame.index for frame in frames]),
            rr.TimeColumn("time", duration=[frame.timestamp for frame in frames]),
        )
        translations, rotations = [pose.translation for pose in poses], [pose.rotation for pose in poses]
        cameras = rr.Transform3D.columns(translation=translations, mat3x3=rotations)
        units = [DEPTH_STEPS / (submap.depth * frame.world_from_cam.scale) for frame, submap in placed]
        self._stream.send_columns("world/camera", when, cameras, strict=True)
        self._stream.send_columns("world/camera/depth", when, rr.EncodedDepthImage.columns(meter=units), strict=True)

    def _correct(self, frames: tuple[PlacedFrame, ...], points: SparsePoints) -> None:
        """Rewrite the past: show the corrected map at every instant of the timelines."""
        self._frames = {frame.index: frame for frame in frames}
        cameras: list[tuple[PlacedFrame, LoggedSubmap]] = []
        for number, submap in self._submaps.items():
            placed = [self._frames[index] for index in submap.cam_from_chunk if index in self._frames]
            cameras += [(frame, submap) for frame in placed]
            if placed:
                middle = placed[len(placed) // 2]
                world_from_chunk = middle.world_from_cam @ submap.cam_from_chunk[middle.index]
                self._log(f"world/submaps/{number}", transform(world_from_chunk), at=submap.start)
        self._place_cameras(cameras)
        self._log_path()
        if self._loops:
            self._log_loops()
        kept = slice(None, None, len(points.positions) // SPARSE_POINTS + 1)
        sparse = rr.Points3D(points.positions[kept], colors=points.colours[kept], radii=rr.Radius.ui_points(2.0))
        self._log("world/points", sparse)

    def _log_cloud(self, folder: Path) -> None:
        """The cleaned cloud in place of the submaps' points, at the end of the timelines, and a view of all of it."""
        cloud = shapes.read_cloud(folder / "cloud.ply", CLOUD_POINTS)
        if cloud is None or not self._submaps:
            return
        points = rr.Points3D(cloud.positions, colors=cloud.colours, radii=rr.Radius.ui_points(1.5))
        self._log("world/cloud", points, at=self._now)
        self._log("world/local", rr.Clear(recursive=True), at=self._now)
        for number in self._submaps:
            self._log(f"world/submaps/{number}/points", rr.Clear(recursive=False), at=self._now)
        self._log("world/points", rr.Clear(recursive=False))
        frames = list(self._frames.values())
        level = Level.of(frames)
        position, target = level.first_view(cloud.positions, frames)
        eye = Eye(position.tolist(), target.tolist(), level.level_from_world[1].tolist())
        self._stream.send_blueprint(layout(eye, places=bool(self._loops)))

    def _note_loop(self, loop: LoopRecord) -> None:
        now, before = self._frames.get(loop.frame), self._frames.get(loop.earlier)
        if now is None or before is None:
            return
        self._new_loops.append(loop)
        evidence = f"similarity {loop.similarity:.2f}, {loop.inliers} features agree"
        self._write(f"{now.name} shows the place of {before.name}: {evidence}")

    def _show_new_loops(self) -> None:
        """Their edges in the map, and both images of the surest side by side."""
        surest = max(self._new_loops, key=lambda loop: loop.inliers)
        self._loops += self._new_loops
        self._new_loops.clear()
        self._log_loops()
        now, before = self._frames[surest.frame], self._frames[surest.earlier]
        at = Instant(now.index, now.timestamp)
        for entity, frame in (("places/now", now), ("places/before", before)):
            image = shapes.read_small(self._images / frame.name, IMAGE_SIDE)
            if image is not None:
                self._log(entity, rr.Image(image).compress(jpeg_quality=JPEG_QUALITY), at=at)

    def _log_loops(self) -> None:
        ends = [(self._frames.get(loop.earlier), self._frames.get(loop.frame)) for loop in self._loops]
        edges = [
            [first.world_from_cam.translation, second.world_from_cam.translation]
            for first, second in ends
            if first is not None and second is not None
        ]
        self._log("world/loops", strips(edges, LOOP_COLOUR, 2.0))

    def _log_path(self) -> None:
        """The camera centres as coloured segments, and at most FRUSTA of the cameras, evenly spaced."""
        frames = [self._frames[index] for index in sorted(self._frames)]
        colours = shapes.colours_along(len(frames))
        centres = np.array([frame.world_from_cam.translation for frame in frames])
        segments = np.stack([centres[:-1], centres[1:]], axis=1)
        self._log("world/trajectory", strips(segments, colours[1:], 1.5))
        kept = slice(None, None, len(frames) // FRUSTA + 1)
        length = FRUSTUM_SHARE * self._scene_depth()
        frusta = [shapes.frustum(frame.camera, frame.world_from_cam, length) for frame in frames[kept]]
        self._log("world/cameras", strips(frusta, colours[kept], 0.5))

    def _scene_depth(self) -> float:
        """Median depth of the first submap in world units, which sets the size of everything drawn; it is 1 in the
        tracker's own map."""
        if not self._submaps:
            return 1.0
        first = next(iter(self._submaps.values()))
        return first.depth * first.world_from_chunk.scale
