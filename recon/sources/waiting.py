"""The bounded queue between the capturing thread and the pipeline."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass

from recon.core.events import Notice, StreamStatus
from recon.core.types import PassedFrame, SkippedFrame
from recon.sources.base import Candidate
from recon.sources.originals import Packed

MOST_MESSAGES = 100


@dataclass(frozen=True)
class Limits:
    """How many frames may wait: ``few`` at least, and up to ``most`` if dropping one would open a gap of more than
    ``gap`` by ``Candidate.way``. If more than ``crowd`` wait, the gap may be as many times wider.
    """

    few: int
    most: int
    gap: float
    crowd: int


class Waiting:
    """The frames that wait for the reconstruction, and counts of all arrivals.

    A new frame always enters. If too many wait, the one whose neighbours are closest to each other by ``Candidate.way``
    is dropped, never the newest, so the remaining frames cover the camera's path evenly. With ``patient`` the producer
    waits instead as soon as a few frames wait, and none is dropped; passed-over frames may then wait too.
    """

    def __init__(self, limits: Limits, *, patient: bool) -> None:
        self._limits, self._patient = limits, patient
        self._changed = threading.Condition()
        self._frames: list[Candidate | Packed | PassedFrame] = []
        self._messages: deque[Notice | SkippedFrame] = deque(maxlen=MOST_MESSAGES)
        self._way = -math.inf  # of the frame delivered last
        self._closed = False
        self._error: BaseException | None = None
        self._captured = self._passed = self._left_out = self._damaged = self._lost = 0

    def put(self, frame: Candidate | Packed | PassedFrame) -> None:
        """Add a frame; it is dropped if the queue is closed."""
        with self._changed:
            if self._patient:
                self._changed.wait_for(lambda: self._closed or len(self._frames) < self._limits.few)
            if self._closed:
                return
            self._frames.append(frame)
            if len(self._frames) > self._limits.few:
                self._drop_one()
            self._changed.notify_all()

    def _drop_one(self) -> None:
        """Drop the frame that is missed least, if there are too many."""
        ways = [self._way, *(frame.way for frame in self._frames if not isinstance(frame, PassedFrame))]
        gaps = [after - before for before, after in zip(ways, ways[2:], strict=False)]
        least = min(range(len(gaps)), key=gaps.__getitem__)
        allowed = self._limits.gap * max(1.0, len(self._frames) / self._limits.crowd)
        if gaps[least] <= allowed or len(self._frames) > self._limits.most:
            del self._frames[least]
            self._left_out += 1

    def tell(self, message: Notice | SkippedFrame) -> None:
        """Deliver a message, ahead of the waiting frames."""
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    def get(self) -> Candidate | Packed | PassedFrame | Notice | SkippedFrame | None:
        """Wait for the next message or frame, None after the last. Raises the error passed to ``close``."""
        with self._changed:
            self._changed.wait_for(lambda: self._messages or self._frames or self._closed)
            if self._messages:
                return self._messages.popleft()
            if self._frames:
                frame = self._frames.pop(0)
                self._way = self._way if isinstance(frame, PassedFrame) else frame.way
                self._changed.notify_all()
                return frame
            if self._error is not None:
                raise self._error
            return None

    def close(self, error: BaseException | None = None) -> None:
        """Accept no more frames; waiting ones are still delivered."""
        with self._changed:
            self._closed, self._error = True, self._error or error
            self._changed.notify_all()

    def count(self, *, captured: int = 0, passed: int = 0, damaged: int = 0, lost: int = 0) -> None:
        """Add to the counts of arrivals."""
        with self._changed:
            self._captured += captured
            self._passed += passed
            self._damaged += damaged
            self._lost += lost

    def status(self, lag: float) -> StreamStatus:
        """The counts so far."""
        with self._changed:
            counts = self._captured, self._passed, self._left_out, self._damaged, self._lost
            return StreamStatus(*counts, lag, sum(not isinstance(frame, PassedFrame) for frame in self._frames))
