"""The bounded queue between the capturing thread and the pipeline."""

from __future__ import annotations

import math
import threading
from collections import deque

from recon.core.events import Notice, StreamStatus
from recon.core.types import PassedFrame, SkippedFrame
from recon.sources.base import Candidate

MOST_MESSAGES = 100


class Waiting:
    """At most ``capacity`` frames waiting for the reconstruction, and counts of all arrivals.

    A new frame always enters. If the queue is full, it drops the frame whose neighbours are closest to each other by
    ``Candidate.way``, never the newest, so the remaining frames cover the camera's path evenly. With ``patient`` the
    producer waits instead, and no frame is dropped; passed-over frames may then wait too.
    """

    def __init__(self, capacity: int, *, patient: bool) -> None:
        self._capacity, self._patient = capacity, patient
        self._changed = threading.Condition()
        self._frames: list[Candidate | PassedFrame] = []
        self._messages: deque[Notice | SkippedFrame] = deque(maxlen=MOST_MESSAGES)
        self._way = -math.inf  # of the frame delivered last
        self._closed = False
        self._error: BaseException | None = None
        self._captured = self._passed = self._left_out = self._damaged = self._lost = 0

    def put(self, frame: Candidate | PassedFrame) -> None:
        """Add a frame; it is dropped if the queue is closed."""
        with self._changed:
            if self._patient:
                self._changed.wait_for(lambda: self._closed or len(self._frames) < self._capacity)
            if self._closed:
                return
            self._frames.append(frame)
            if len(self._frames) > self._capacity:
                del self._frames[self._least_missed()]
                self._left_out += 1
            self._changed.notify_all()

    def _least_missed(self) -> int:
        ways = [self._way, *(frame.way for frame in self._frames if isinstance(frame, Candidate))]
        return min(range(len(self._frames) - 1), key=lambda row: ways[row + 2] - ways[row])

    def tell(self, message: Notice | SkippedFrame) -> None:
        """Deliver a message, ahead of the waiting frames."""
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    def get(self) -> Candidate | PassedFrame | Notice | SkippedFrame | None:
        """Wait for the next message or frame, None after the last. Raises the error passed to ``close``."""
        with self._changed:
            self._changed.wait_for(lambda: self._messages or self._frames or self._closed)
            if self._messages:
                return self._messages.popleft()
            if self._frames:
                frame = self._frames.pop(0)
                self._way = frame.way if isinstance(frame, Candidate) else self._way
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
            return StreamStatus(*counts, lag, sum(isinstance(frame, Candidate) for frame in self._frames))
