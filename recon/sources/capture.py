"""Cameras, streams and videos at their own speed, through FFmpeg."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av import VideoFrame, VideoStream
from av.container import InputContainer

from recon.core.errors import SourceError
from recon.core.events import Notice
from recon.core.types import Frame, SkippedFrame
from recon.sources.base import Candidate, Selection, SourceOptions, picture_name, working_image
from recon.sources.cameras import why_unusable
from recon.sources.film import Pictures, film_of, next_time, opened_film
from recon.sources.live import Incident
from recon.sources.originals import nothing
from recon.sources.spherical import NOT_LIVE, is_mapped

OPEN_SECONDS, READ_SECONDS = 10.0, 5.0  # of silence after which a connection counts as lost
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0  # between attempts to connect again; doubled each time
CaptureKind = Literal["camera", "stream", "video"]
CONTAINER: dict[CaptureKind, dict[str, Any]] = {
    "camera": {"format": "v4l2"},
    # With UDP, a busy machine would lose parts of pictures; a stream that is UDP anyway must survive overruns.
    "stream": {"options": {"rtsp_transport": "tcp", "overrun_nonfatal": "1"}},
}


class _Lost(Exception):  # noqa: N818 - a condition that the feed recovers from, not an error of the run
    """The pictures stopped; the message is why."""


class CaptureFeed:
    """Pictures of a camera, of a stream, or of a video file that is played at its own speed.

    Pictures are shrunk to ``options.size`` on arrival. If a camera or stream is lost,
    the feed tries to reconnect, with pauses that double, for ``patience`` seconds; then it ends. Raises SourceError if
    the first connection fails or gives no picture.
    """

    patient = False

    def __init__(
        self,
        kind: CaptureKind,
        address: str,
        options: SourceOptions,
        patience: float = 120.0,
    ) -> None:
        self.kind: str = kind
        self._container = CONTAINER.get(kind, {})
        self._address, self._options, self._patience = address, options, patience
        self._selection = Selection(options)
        self._count = 0
        self._shown = -math.inf  # the time of the picture in its file [s]; a video's only
        self._film: Pictures  # of the present connection
        first, rest = self._connect()
        if is_mapped(first):
            raise SourceError(f"{address} {NOT_LIVE}")
        self._pictures = chain([first], rest)
        small = working_image(self._film.upright(first), options.size)
        self.sizes: tuple[tuple[int, int], ...] = ((small.shape[1], small.shape[0]),)

    def items(self, stop: threading.Event) -> Iterator[Candidate | Notice | Incident]:
        pictures: Iterator[VideoFrame | None] = self._pictures
        while True:
            why = yield from self._until_lost(pictures, stop)
            if stop.is_set() or self._selection.complete or self.kind == "video":
                return
            yield Incident("lost", f"{self._address} is lost: {why}. Connecting again for up to {self._patience:g} s.")
            since = time.monotonic()
            again = self._connect_again(stop)
            if again is None:
                yield Notice(f"{self._address} did not come back: ending with what was captured.")
                return
            yield Notice(f"{self._address} is back after {time.monotonic() - since:.0f} s.")
            pictures = again

    def file_of(self, index: int) -> Path | None:
        return None

    def again(self) -> Iterator[Candidate | SkippedFrame]:
        return iter(())

    def _until_lost(
        self, pictures: Iterator[VideoFrame | None], stop: threading.Event
    ) -> Generator[Candidate | Incident, None, str]:
        """Pass pictures on until they end, and return the reason."""
        pace = _Pace(stop) if self.kind == "video" else None
        try:
            for picture in pictures:
                if pace and picture:
                    self._shown = next_time(picture.time, self._shown, self._film.period)
                    pace.wait_until(self._shown)
                if stop.is_set():
                    break
                if picture is None:
                    yield Incident("damaged")
                elif self._selection.takes(self._count, self._shown if pace else time.monotonic()):
                    yield self._candidate(picture)
                self._count += 1
                if self._selection.complete:
                    break
        except _Lost as lost:
            return str(lost)
        return "it ended"

    def _candidate(self, picture: VideoFrame) -> Candidate:
        now = time.monotonic()
        image = working_image(self._film.upright(picture), self._options.size)
        height, width = image.shape[:2]
        name, lens = picture_name(self._count), f"{self._address} {width}x{height}"
        frame = Frame(self._count, now, image, name, (width, height), lens, 0.0, np.ones((height, width), np.bool_))
        shown = self._shown if self.kind == "video" else None
        return Candidate(frame, nothing, now, shown)

    def _connect_again(self, stop: threading.Event) -> Iterator[VideoFrame | None] | None:
        """The pictures of a new connection; None when patience or ``stop`` ended the attempts."""
        deadline, pause = time.monotonic() + self._patience, FIRST_PAUSE
        while not stop.wait(min(pause, max(0.0, deadline - time.monotonic()))):
            try:
                first, rest = self._connect()
            except SourceError:
                if time.monotonic() >= deadline:
                    return None
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                return chain([first], rest)
        return None

    def _connect(self) -> tuple[VideoFrame, Iterator[VideoFrame | None]]:
        """The first picture and an iterator of the others. Raises SourceError."""
        pictures = self._decoded()
        try:
            return next(picture for picture in pictures if picture), pictures
        except (StopIteration, _Lost) as error:
            raise SourceError(f"{self._address} sends no pictures. {error}".rstrip()) from error

    def _decoded(self) -> Iterator[VideoFrame | None]:
        """Whole frames of a new connection, None for damaged ones. Raises SourceError or _Lost."""
        with self._opened() as (container, stream):
            self._film = Pictures(stream)
            yield from self._film.all(_frames(container, stream))

    @contextmanager
    def _opened(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        if self.kind == "video":
            with opened_film(Path(self._address)) as opened:
                yield opened
            return
        with self._open() as container:
            yield container, film_of(container, self._address)

    def _open(self) -> InputContainer:
        try:
            container: InputContainer = av.open(self._address, timeout=(OPEN_SECONDS, READ_SECONDS), **self._container)
            return container
        except (av.error.FFmpegError, OSError) as error:
            if self.kind == "camera":
                raise SourceError(why_unusable(self._address, error)) from error
            raise SourceError(f"{self._address} cannot be opened: {_reason(error)}. Is it running?") from error


class _Pace:
    """Delays pictures until their time, counted from the first."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._start: float | None = None  # of the monotonic clock, when the video's time was 0

    def wait_until(self, shown: float) -> None:
        if self._start is None:
            self._start = time.monotonic() - shown
        self._stop.wait(max(0.0, self._start + shown - time.monotonic()))


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame | None]:
    """Decoded frames, None for damaged ones. Raises _Lost if the connection breaks."""
    try:
        for packet in container.demux(stream):
            with suppress(av.error.InvalidDataError):  # as after joining a stream between two key frames
                yield from (None if frame.is_corrupt else frame for frame in packet.decode())
    except (av.error.FFmpegError, OSError) as error:
        raise _Lost(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.ExitError):
        return "nothing came in time"
    return (getattr(error, "strerror", None) or str(error)).lower()
