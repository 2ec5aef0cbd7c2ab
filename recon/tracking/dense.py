"""Dense depth of the local map's keyframes, for viewers, until the finished map has them.

A process of its own computes it. A thread beside the capture waits for that, one keyframe at a time, the newest first.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from recon.core.events import LocalDepth
from recon.core.similarity import Array
from recon.core.types import Camera, Frame
from recon.core.workers import Kept, Workers
from recon.tracking.corners import shared_rows
from recon.tracking.lens import rays
from recon.tracking.local import LocalMap

VIEWS = 5  # keyframes whose images are remembered: the newest, and those that it is compared with
FEWEST_VIEWS = 3
DENSIFIER = "recon.tracking.densifier:Densifier"


@dataclass(frozen=True, eq=False)
class LocalView:
    """A keyframe of the local map, as the other process needs it. cam_from_world: (4, 4) rigid. seen: (n, 3), for
    corners of known place: where the camera sees them on the plane z = 1, and their depth along z. tracks: (n,) their
    numbers.
    """

    frame: Frame
    camera: Camera
    cam_from_world: Array
    seen: Array
    tracks: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Task:
    """views: the newest last. unit: of the local map. arrived: when the newest came, by ``time.monotonic``."""

    views: list[LocalView]
    unit: float
    arrived: float


class DenseLocalMap:
    """Tells the depth of keyframes on a thread of its own. Keyframes that come while it computes replace each other.

    attempt: runs what may fail, and reports that. tell: gets every ``LocalDepth``.
    """

    def __init__(self, attempt: Callable[[str, Callable[[], None]], None], tell: Callable[[LocalDepth], None]) -> None:
        self._attempt, self._tell = attempt, tell
        self._frames: deque[Frame] = deque(maxlen=VIEWS)
        self._changed = threading.Condition()
        self._waiting: _Task | None = None
        self._closed = False
        threading.Thread(target=self._work, name="dense local map", daemon=True).start()

    def add(self, frame: Frame, local: LocalMap, arrived: float) -> None:
        """A frame, which arrived at a time by ``time.monotonic``, is the newest keyframe of the local map."""
        self._frames.append(frame)
        views = _local_views(self._frames, local)
        if len(views) < FEWEST_VIEWS:
            return
        with self._changed:
            self._waiting = _Task(views, local.unit, arrived)
            self._changed.notify()

    def close(self) -> None:
        """Compute no more, and end the process."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _work(self) -> None:
        # Linux ends a process with the thread that has started it, so that this one starts and ends it.
        with Workers(1, background=True) as workers:
            self._attempt("dense depth of the newest images", partial(self._compute, workers))

    def _compute(self, workers: Workers) -> None:
        """Raises what the other process raises; too little memory for it, as RuntimeError, is no fault of the run."""
        try:
            densifier = workers.keep("local depth", DENSIFIER)
            while (task := self._next()) is not None:
                self._tell_depth(densifier, task)
        except MemoryError as error:
            raise RuntimeError("too little memory") from error

    def _next(self) -> _Task | None:
        """Wait for the newest task; None once this is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            task, self._waiting = self._waiting, None
            return None if self._closed else task

    def _tell_depth(self, densifier: Kept, task: _Task) -> None:
        newest, found = task.views[-1], densifier.call("points", task.views)
        positions, colours = found
        if self._closed or not len(positions):
            return
        index, timestamp = newest.frame.index, newest.frame.timestamp
        milliseconds = 1000 * (time.monotonic() - task.arrived)
        self._tell(LocalDepth(index, timestamp, newest.camera, task.unit, positions, colours, milliseconds))


def _local_views(frames: deque[Frame], local: LocalMap) -> list[LocalView]:
    """The keyframes of a local map whose images are known."""
    keyframes = {one.view.index: one for one in local.keyframes[-VIEWS:]}
    cloud, views = local.cloud, []
    for frame in frames:
        if keyframe := keyframes.get(frame.index):
            pose, view = keyframe.cam_from_world, keyframe.view
            rows, known = shared_rows(view.tracks, cloud.tracks)
            depth = cloud.positions[known] @ pose[2, :3] + pose[2, 3]
            seen = np.column_stack([rays(local.camera, view.pixels[rows]), depth])
            views.append(LocalView(frame, local.camera, pose, seen, view.tracks[rows]))
    return views
