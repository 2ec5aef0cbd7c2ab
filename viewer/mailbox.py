"""What waits for a viewer: bounded, and a newer event about the same thing replaces the one that waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np

from recon.core.events import ChunkReconstructed, Event, FrameRead, PosesCorrected, Progress

MOST_WAITING = {"submap": 4, "frame": 500}
MOST_WAITING_OF_OTHERS = 200


@dataclass(frozen=True, eq=False)
class Letter:
    """An event and when it came, by ``time.monotonic``."""

    event: Event
    came: float


class Mailbox:
    """Between the thread of the run, which never waits here, and that of a viewer, which does.

    Where too much of a kind waits, the oldest is lost. ``lost`` counts the submaps among it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, Hashable], Letter] = {}
        self._closed = False
        self.lost = 0

    def put(self, event: Event) -> None:
        """Leave an event, without the pixels that listeners must not keep. A closed mailbox takes none."""
        if isinstance(event, FrameRead):
            event = FrameRead(
                replace(event.frame, image=np.zeros((0, 0, 3), np.uint8), mask=np.zeros((0, 0), np.bool_))
            )
        with self._changed:
            if self._closed:
                return
            kind, name = topic(event)
            self._waiting.pop((kind, name), None)  # the newer one goes to the end: it knows what came in between
            self._waiting[kind, name] = Letter(event, time.monotonic())
            same = [key for key in self._waiting if key[0] == kind]
            if len(same) > MOST_WAITING.get(kind, MOST_WAITING_OF_OTHERS):
                del self._waiting[same[0]]
                self.lost += kind == "submap"
            self._changed.notify()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> Letter | None:
        """The oldest letter, waiting until there is one; None once the mailbox is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            return self._waiting.pop(next(iter(self._waiting)))

    def close(self) -> None:
        """Take nothing more; what waits can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify()


def topic(event: Event) -> tuple[str, Hashable]:
    """The kind of an event, and what it is about: of two events with the same topic only the newer one matters."""
    match event:
        case FrameRead(frame):
            return "frame", frame.index
        case Progress(stage):
            return "stage", stage
        case ChunkReconstructed(submap):
            return "submap", submap.index
        case PosesCorrected():
            return "correction", None
        case _:
            return "other", event
