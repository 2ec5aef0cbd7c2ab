"""The tracker of a run: on the thread that captures, beside the mapping."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np

from recon.core.announcer import Announcer
from recon.core.events import CameraView, ChunkReconstructed, Event, FrameTracked, LocalDepth, PosesCorrected
from recon.core.tracked import TrackingCounts, TrackingReport
from recon.core.types import Camera, Frame
from recon.sources.base import working_image
from recon.store.tracked import TrackedFile
from recon.tracking.corners import View
from recon.tracking.dense import DenseLocalMap
from recon.tracking.tracker import Tracker

VIEW_SIDE = 320  # longest side of the images for viewers [px]


class LiveTracking:
    """Tracks every captured frame, and hears how the map grows. What it says goes into the folder and, as soon as there
    is a map, to ``tell``.

    lens: of the source, None if it is not known. first, start: index of the source's first frame in the map, and the
    offset of its timestamps [s]. dense: somebody watches, so show what the camera sees, and compute the depth of
    keyframes in another process. If the tracker fails, the failure is reported and the run continues without it.
    """

    def __init__(
        self,
        folder: Path,
        tell: Announcer,
        lens: Camera | None = None,
        first: int = 0,
        start: float = 0.0,
        *,
        dense: bool = False,
    ) -> None:
        self._folder, self._tell, self._first, self._start = folder, tell, first, start
        self._tracker, self._counts = Tracker(lens), TrackingCounts()
        self._changes: SimpleQueue[ChunkReconstructed | PosesCorrected] = SimpleQueue()
        self._file: TrackedFile | None = None
        self._closed = False
        self._dense = DenseLocalMap(tell.helpers.attempt, self._tell_depth) if dense else None

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, ChunkReconstructed | PosesCorrected) and not self._closed:
            self._changes.put(event)

    def see(self, frame: Frame, arrived: float) -> None:
        """Track a frame of the source, which arrived at a time by ``time.monotonic``."""
        self._tell.helpers.attempt("the tracker", lambda: self._see(frame, arrived))

    def close(self) -> None:
        """The capture has ended."""
        self._closed, self._changes = True, SimpleQueue()
        if self._file:
            self._file.close()
        if self._dense:
            self._dense.close()

    def report(self) -> TrackingReport:
        """The figures so far."""
        return self._counts.report()

    def _see(self, frame: Frame, arrived: float) -> None:
        began = time.thread_time()
        frame = replace(frame, index=self._first + frame.index, timestamp=self._start + frame.timestamp)
        self._follow_the_map()
        found = self._tracker.track(frame)
        pose = None if found.cam_from_world is None else np.asarray(np.linalg.inv(found.cam_from_world), np.float64)
        said = FrameTracked(
            frame.index,
            frame.timestamp,
            found.state,
            pose,
            found.camera,
            found.inliers,
            found.piece,
            found.drift,
            _milliseconds_since(arrived),
            found.jump,
        )
        if said.state != "waiting":
            self._tell(said)
        if self._dense:
            self._tell(_camera_view(frame, self._tracker.corners))
        grown = self._tracker.extend(frame)
        shown = None
        if grown:
            self._tell(grown)
            shown = _milliseconds_since(arrived)
            if self._dense and self._tracker.local:
                self._dense.add(frame, self._tracker.local, arrived)
        self._file = self._file or TrackedFile(self._folder)
        self._file.add(said, shown)
        self._counts.add(said, shown)
        self._counts.processor_seconds += time.thread_time() - began

    def _tell_depth(self, depth: LocalDepth) -> None:
        self._tell(depth)
        self._counts.add_depth(depth)

    def _follow_the_map(self) -> None:
        while True:
            try:
                event = self._changes.get_nowait()
            except Empty:
                return
            if isinstance(event, PosesCorrected):
                self._tracker.correct(event.frames)
            else:
                geometry = {frame.index: frame for frame in event.submap.geometry.frames}
                self._tracker.place(event.frames, geometry, event.piece)


def _camera_view(frame: Frame, view: View) -> CameraView:
    image = working_image(frame.image, VIEW_SIDE)
    corners = view.pixels * np.divide(image.shape[1::-1], frame.original_size)
    return CameraView(frame.index, frame.timestamp, image, corners)


def _milliseconds_since(moment: float) -> float:
    """moment: by ``time.monotonic``."""
    return 1000 * (time.monotonic() - moment)
