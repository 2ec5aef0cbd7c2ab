"""A live source: a thread captures, and frames wait in a bounded queue for the reconstruction."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from recon.core.errors import SettingsError, SourceError
from recon.core.events import Notice, StreamStatus
from recon.core.files import make_folder
from recon.core.types import Frame, PassedFrame, SkippedFrame
from recon.sources.base import Candidate, KeyframeChoice, SourceDescription, SourceOptions, at_least_one_frame
from recon.sources.keyframes import NEAR, KeyframePicker
from recon.sources.originals import Packed
from recon.sources.waiting import Limits, Waiting

# A chunk waits in any case. Beyond that, frames are dropped, but not what the next ones need to be connected: wider
# gaps than between every second keyframe open only for want of time, and of memory (some 80 kB a frame).
LIMITS = Limits(few=24, most=600, gap=2 * NEAR, crowd=96)


@dataclass(frozen=True)
class Incident:
    """An incident of a feed: a damaged picture, or a lost connection, which is announced."""

    kind: Literal["damaged", "lost"]
    text: str = ""


class Feed(Protocol):
    """The origin of a live source's pictures. kind, sizes: as in SourceDescription. patient: whether pictures stay
    available until they are requested, as files do, so that none has to be dropped; others have no originals but their
    images.
    """

    kind: str
    sizes: tuple[tuple[int, int], ...]
    patient: bool

    def items(self, stop: threading.Event) -> Iterator[Candidate | SkippedFrame | Notice | Incident]:
        """Pictures as they arrive, until they end or ``stop`` is set.

        ``Frame.timestamp`` is the arrival time by ``time.monotonic``.
        """
        ...

    def file_of(self, index: int) -> Path | None:
        """See ``Source``."""
        ...

    def again(self) -> Iterator[Candidate | SkippedFrame]:
        """All pictures again, if they still exist; none for a camera or stream."""
        ...


class Watcher(Protocol):
    """Sees every captured frame, on the capturing thread, which it must not stop for long."""

    def see(self, frame: Frame, arrived: float) -> None:
        """A frame, and when it arrived, by ``time.monotonic``."""
        ...

    def close(self) -> None:
        """The capture has ended."""
        ...


class LiveSource:
    """Frames of a feed as they arrive, for one iteration; see ``recon.sources.base.Source``. watcher: set before that.

    Capture runs in a separate thread, and memory does not grow with the length of the stream: ``Waiting`` explains
    which frames are dropped if the reconstruction is slower. Originals are kept only for frames that are read:
    ``images_folder`` receives the images of a feed that is not patient.
    """

    def __init__(self, name: str, feed: Feed, options: SourceOptions, images_folder: Path | None = None) -> None:
        if options.masks is not None:
            raise SettingsError("--masks matches file names and cannot be used with a live source. Omit it.")
        self._name, self._feed, self._images_folder = name, feed, images_folder
        self.keyframes = KeyframeChoice.of(options)
        self.watcher: Watcher | None = None
        self._waiting = Waiting(LIMITS, patient=feed.patient)
        self._stop = threading.Event()
        self._is_ended = False  # by the user
        self._start = self._newest = time.monotonic()
        self._since_1970 = time.time() - self._start  # of the monotonic clock

    @property
    def description(self) -> SourceDescription:
        return SourceDescription(self._feed.kind, 0, self._feed.sizes, 0.0)

    @property
    def status(self) -> StreamStatus:
        status = self._waiting.status(time.monotonic() - self._newest)
        return replace(status, began=self._since_1970 + self._start)

    def file_of(self, index: int) -> Path | None:
        return self._feed.file_of(index)

    def candidates(self) -> Iterator[Candidate | SkippedFrame]:
        return (self._since_start(item) if isinstance(item, Candidate) else item for item in self._feed.again())

    def stop(self) -> None:
        """End the capture; what has been captured is still delivered. May be called from a signal handler."""
        self._is_ended = True
        self._stop.set()

    def __iter__(self) -> Iterator[Frame | SkippedFrame | PassedFrame | Notice]:
        if self._images_folder:
            make_folder(self._images_folder)
        self._start = time.monotonic()
        threading.Thread(target=self._capture, name="capture", daemon=True).start()
        return self._at_least_one_frame()

    def _at_least_one_frame(self) -> Iterator[Frame | SkippedFrame | PassedFrame | Notice]:
        try:
            yield from at_least_one_frame(self._hand_out(), self._name)
        except SourceError as error:
            if self._is_ended:
                raise SourceError(f"The capture of {self._name} ended before its first image.") from error
            raise

    def _hand_out(self) -> Iterator[Frame | SkippedFrame | PassedFrame | Notice]:
        try:
            while (item := self._waiting.get()) is not None:
                item = item.unpacked(self._images_folder) if isinstance(item, Packed) else item
                if isinstance(item, Candidate):
                    item.keep()
                    self._newest = item.frame.timestamp
                    yield self._since_start(item).frame
                else:
                    yield item
        finally:
            self._stop.set()
            self._waiting.close()  # nobody reads it any more

    def _since_start(self, candidate: Candidate) -> Candidate:
        seconds = max(0.0, candidate.frame.timestamp - self._start) if candidate.shown is None else candidate.shown
        return replace(candidate, frame=replace(candidate.frame, timestamp=seconds))

    def _capture(self) -> None:
        """Fill the queue, in a separate thread."""
        picker = KeyframePicker(self.keyframes.earlier) if self.keyframes.select else None
        first = True
        try:
            for item in self._feed.items(self._stop):
                if isinstance(item, Candidate):
                    self._waiting.count(captured=1)
                    if first and item.shown is not None:
                        self._start = item.frame.timestamp - item.shown
                    first = False
                    self._show(item)
                    self._enter(picker.take(item) if picker else [item])
                elif isinstance(item, Incident):
                    self._note(item)
                else:
                    self._waiting.tell(item)
            self._enter(picker.finish() if picker else [])
        except Exception as error:
            self._waiting.close(error)  # raised where the frames are read
        finally:
            self._waiting.close()
            if self.watcher:
                self.watcher.close()

    def _show(self, item: Candidate) -> None:
        if self.watcher:  # files may have waited before they are read
            arrived = time.monotonic() if self._feed.patient else item.frame.timestamp
            self.watcher.see(self._since_start(item).frame, arrived)

    def _enter(self, decided: Iterable[Candidate | PassedFrame]) -> None:
        for item in decided:
            if isinstance(item, Candidate):
                self._waiting.put(item if self._feed.patient else Packed.of(item))
            else:
                self._waiting.count(passed=1)
                if self._feed.patient:  # it can be read again, to be given a pose
                    self._waiting.put(item)

    def _note(self, incident: Incident) -> None:
        self._waiting.count(**{incident.kind: 1})
        if incident.text:
            self._waiting.tell(Notice(incident.text))
