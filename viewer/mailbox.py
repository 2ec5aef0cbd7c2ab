"""A bounded queue of events for a viewer; a newer event replaces a waiting one on the same topic."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass

from recon.core.events import (
    CameraView,
    ChunkReconstructed,
    Event,
    FrameRead,
    FrameTracked,
    LocalDepth,
    LocalMapGrown,
    PosesCorrected,
    Progress,
)

MOST_WAITING = {"submap": 4, "frame": 500, "tracked": 500}
MOST_WAITING_OF_OTHERS = 200


@dataclass(frozen=True, eq=False)
class Letter:
    """An event and the time of its arrival, by ``time.monotonic``."""

    event: Event
    came: float


class Mailbox:
    """Passes events from the run's thread, which never waits here, to the viewer's thread, which does.

    If too many of a kind wait, the oldest is dropped. ``lost`` counts the dropped submaps.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, Hashable], Letter] = {}
        self._closed = False
        self.lost = 0

    def put(self, event: Event) -> None:
        """Add an event, without the pixels that listeners must not keep. A closed mailbox ignores it."""
        if isinstance(event, FrameRead):
            event = FrameRead(event.frame.without_pixels())
        with self._changed:
            if self._closed:
                return
            kind, name = topic(event)
            self._waiting.pop((kind, name), None)  # the newer one goes to the end: it includes what came in between
            self._waiting[kind, name] = Letter(event, time.monotonic())
            same = [key for key in self._waiting if key[0] == kind]
            if len(same) > MOST_WAITING.get(kind, MOST_WAITING_OF_OTHERS):
                del self._waiting[same[0]]
                self.lost += kind == "submap"
            self._changed.notify()

    def __len__(self) -> int:
        return len(self._waiting)

    def starts_with(self, kind: type) -> bool:
        """Whether the oldest letter has an event of this type."""
        with self._changed:
            return bool(self._waiting) and isinstance(next(iter(self._waiting.values())).event, kind)

    def take(self) -> Letter | None:
        """Wait for the oldest letter; None once the mailbox is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            return self._waiting.pop(next(iter(self._waiting)))

    def close(self) -> None:
        """Accept no more events; waiting ones can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify()


def topic(event: Event) -> tuple[str, Hashable]:
    """The kind and the topic of an event: of two events with the same topic, only the newer one matters."""
    found: tuple[str, Hashable] = ("other", event)
    match event:
        case FrameRead(frame):
            found = "frame", frame.index
        case FrameTracked():
            found = "tracked", event.index
        case CameraView():
            found = "camera view", None
        case LocalMapGrown():
            found = "local map", None
        case LocalDepth():
            found = "local depth", event.index
        case Progress(stage):
            found = "stage", stage
        case ChunkReconstructed(submap):
            found = "submap", submap.index
        case PosesCorrected():
            found = "correction", None
    return found
