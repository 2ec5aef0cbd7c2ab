"""A phone whose browser sends the images of its camera."""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, Queue

import cv2
import numpy as np
import PIL.Image

from recon.core.errors import SourceError
from recon.core.events import Notice
from recon.core.types import Frame, Image, SkippedFrame
from recon.sources.base import Candidate, Selection, SourceOptions, picture_name
from recon.sources.live import Incident
from recon.sources.originals import nothing

MOST_WAITING = 2  # images; the page sends no more before it has an answer
SILENCE = 5.0  # seconds without an image after which the phone counts as lost
LOOK = 0.2  # seconds between looks at the end of the capture
CLOCK_JUMP = 10.0  # seconds; more than an image can be under way
ASPECT_TOLERANCE = 0.02  # for sizes that are rounded to whole pixels


@dataclass(frozen=True, eq=False)
class Shot:
    """A JPEG, and when it was exposed and when it arrived: seconds by the phone's clock and by ``time.monotonic``.
    done: called when the capture has seen the image, or has dropped it.
    """

    jpeg: bytes
    exposed: float
    arrived: float
    done: Callable[[], None]


class PhoneFeed:
    """Images that a phone sends, at most ``options.size`` pixels a side; see ``recon.sources.live.Feed``.

    All have the size of the first, to which smaller ones are enlarged. An image of another shape, a larger one and one
    that is no JPEG count as damaged; one that was exposed before its predecessor is left out. If no image comes for
    SILENCE, the phone is lost; ``patience`` seconds later, the feed ends. Timestamps are seconds since the first
    image's exposure, by the phone's clock. begun: whether the capture has begun. ``offer`` and ``finish`` may be called
    from any thread.
    """

    kind: str = "phone"
    patient = False

    def __init__(self, options: SourceOptions, patience: float = 120.0) -> None:
        self._options, self._patience = options, patience
        self._selection, self._clock = Selection(options), ExposureClock()
        self._waiting: Queue[Shot] = Queue(MOST_WAITING)
        self._finished = threading.Event()
        self._count = 0
        self.begun = False
        self.sizes: tuple[tuple[int, int], ...] = ()

    @property
    def over(self) -> bool:
        """Whether the capture has ended."""
        return self._finished.is_set()

    def offer(self, shot: Shot) -> bool:
        """Add an image; False if too many wait, or the capture has ended, and it was not taken."""
        if self.over:
            return False
        try:
            self._waiting.put_nowait(shot)
        except Full:
            return False
        return True

    def finish(self) -> None:
        """End the capture."""
        self._finished.set()

    def wait(self) -> None:
        """Wait for the first image, which gives the size. Raises SourceError if the phone ends the capture before."""
        while not self.sizes:
            if self.over:
                raise SourceError("The capture was ended on the phone before its first image.")
            shot = self._next()
            if shot:
                image = decoded(shot.jpeg, self._options.size)
                self.sizes = () if image is None else ((image.shape[1], image.shape[0]),)
                shot.done()

    def items(self, stop: threading.Event) -> Iterator[Candidate | Notice | Incident]:
        self._drop_waiting()  # they are from before the run
        self.begun = True
        try:
            yield from self._items(stop)
        finally:
            self.finish()
            self._drop_waiting()

    def file_of(self, index: int) -> Path | None:
        return None

    def again(self) -> Iterator[Candidate | SkippedFrame]:
        return iter(())

    def _items(self, stop: threading.Event) -> Iterator[Candidate | Notice | Incident]:
        newest, lost = time.monotonic(), False
        while not (stop.is_set() or self.over or self._selection.complete):
            shot = self._next()
            silent = time.monotonic() - newest
            if shot:
                if lost:
                    yield Notice(f"The phone is back after {silent:.0f} s.")
                newest, lost = shot.arrived, False
                yield from self._taken(shot)
                shot.done()
            elif not lost and silent > SILENCE:
                lost = True
                yield Incident("lost", f"The phone sends no images. Waiting for up to {self._patience:g} s.")
            elif silent > SILENCE + self._patience:
                yield Notice("The phone did not come back: ending with what was captured.")
                return

    def _taken(self, shot: Shot) -> Iterator[Candidate | Incident]:
        image = self._fitted(decoded(shot.jpeg, self._options.size))
        if image is None:
            yield Incident("damaged")
            return
        shown = self._clock.seconds(shot.exposed, shot.arrived)
        if shown is None:
            return
        if self._selection.takes(self._count, shown):
            yield self._candidate(image, shown, shot.arrived)
        self._count += 1

    def _candidate(self, image: Image, shown: float, arrived: float) -> Candidate:
        height, width = image.shape[:2]
        name, mask = picture_name(self._count), np.ones((height, width), np.bool_)
        frame = Frame(self._count, arrived, image, name, (width, height), f"phone {width}x{height}", 0.0, mask)
        return Candidate(frame, nothing, shown, shown)

    def _fitted(self, image: Image | None) -> Image | None:
        """The image in the size of the first; None if it has another shape."""
        if image is None:
            return None
        (width, height), (rows, columns) = self.sizes[0], image.shape[:2]
        if (width, height) == (columns, rows):
            return image
        if abs(columns / rows * height / width - 1) > ASPECT_TOLERANCE:
            return None
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)

    def _next(self) -> Shot | None:
        try:
            return self._waiting.get(timeout=LOOK)
        except Empty:
            return None

    def _drop_waiting(self) -> None:
        while True:
            try:
                self._waiting.get_nowait().done()
            except Empty:
                return


class ExposureClock:
    """Turns times of exposure by the phone's clock into seconds since the first image.

    Where that clock jumps by more than CLOCK_JUMP against the arrival of the images, as with another phone, the time of
    arrival says how much time has passed.
    """

    def __init__(self) -> None:
        self._start = self._ahead = math.nan  # of the monotonic clock: of the first image, and before the phone's clock
        self._last = -math.inf

    def seconds(self, exposed: float, arrived: float) -> float | None:
        """Seconds of an image that was exposed and has arrived; None if it is not later than the one before."""
        if not abs(arrived - exposed - self._ahead) <= CLOCK_JUMP:
            self._ahead = arrived - exposed
        if math.isnan(self._start):
            self._start = arrived
        seconds = exposed + self._ahead - self._start
        if seconds <= self._last:
            return None
        self._last = seconds
        return seconds


def decoded(jpeg: bytes, most: int) -> Image | None:
    """A JPEG as (height, width, 3) RGB; None if it is none, is damaged, or has more than ``most`` pixels a side."""
    try:
        with PIL.Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            return np.array(image.convert("RGB")) if max(image.size) <= most else None
    except Exception:  # Pillow's readers raise almost any type on damaged files
        return None
