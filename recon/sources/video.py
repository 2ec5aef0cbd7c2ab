"""Frames from a video file, through FFmpeg."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import av
from av import VideoFrame, VideoStream
from av.container import InputContainer

from recon.core.errors import SourceError
from recon.core.events import Notice
from recon.core.files import make_folder
from recon.core.names import printable
from recon.core.types import Frame, PassedFrame, SkippedFrame
from recon.sources.base import (
    Candidate,
    KeyframeChoice,
    Selection,
    SourceDescription,
    SourceOptions,
    at_least_one_frame,
)
from recon.sources.film import Pictures, next_time, opened_film
from recon.sources.identity import content_hash
from recon.sources.keyframes import chosen
from recon.sources.numbered import NumberedFrames
from recon.sources.spherical import is_mapped

# If a video ends this long before its stated end, it was cut short; sound often outlasts the picture by less.
MISSING_SECONDS = 0.5
MISSING_SHARE = 0.02
MANY_COMBED = 0.2  # of the frames


class VideoSource:
    """The frames of a video; see ``recon.sources.open_source``.

    ``Frame.index`` counts the frames that could be decoded, ``Frame.timestamp`` is the presentation time in seconds.
    Damaged frames are skipped and reported at the end.
    Raises SourceError if the file is not a video.
    """

    def __init__(self, path: Path, options: SourceOptions, images_folder: Path | None = None) -> None:
        self._path = path
        self._options = options
        self.keyframes = KeyframeChoice.of(options)
        self._images_folder = images_folder
        self._frames = NumberedFrames(path.name, options, images_folder)
        self._pictures: Pictures | None = None  # of the last iteration
        with opened_film(path):
            pass

    @cached_property
    def _first(self) -> tuple[tuple[int, int], bool] | None:
        """The size (width, height) of the first picture, and whether it is marked as equirectangular; None without a
        picture."""
        with opened_film(self._path) as (container, stream):
            first = next((frame for frame in _decoded(container, stream) if frame), None)
            return (Pictures(stream).size(first), is_mapped(first)) if first else None

    @cached_property
    def is_spherical(self) -> bool:
        """Whether the file says that it is a 360-degree video."""
        return self._first is not None and self._first[1]

    @cached_property
    def description(self) -> SourceDescription:
        if self._first is None:
            raise SourceError(f"No frame of {self._path} can be read.")
        size, _ = self._first
        with opened_film(self._path) as (container, stream):
            seconds, rate = _stated_seconds(container, stream), float(stream.average_rate or 0)
            total = stream.frames or math.ceil(seconds * rate)
        if self._options.fps is not None and self._options.fps < rate:
            rate = self._options.fps
            frames = math.ceil(seconds * rate)
        else:
            rate /= self._options.every
            frames = math.ceil(total / self._options.every)
        frames = min(frames, self._options.max_frames or frames)
        return SourceDescription("video", frames, (size,), rate)

    status = None

    def __iter__(self) -> Iterator[Frame | SkippedFrame | PassedFrame | Notice]:
        if self._images_folder:
            make_folder(self._images_folder)
        yield from at_least_one_frame(chosen(self.candidates(), self.keyframes), str(self._path))
        if self._pictures and self._pictures.combed > MANY_COMBED * self._pictures.count:
            yield Notice(
                f"{self._path} has the comb lines of interlaced video, but is not marked as such. This costs accuracy. "
                f"Deinterlace it first, for example with ffmpeg -i {self._path.name} -vf bwdif OUT.mp4."
            )

    @cached_property
    def _content(self) -> str:
        return content_hash(self._path)

    def file_of(self, index: int) -> Path | None:
        return self._path

    def candidates(self) -> Iterator[Candidate | SkippedFrame]:
        selection = Selection(self._options)
        with opened_film(self._path) as (container, stream):
            self._pictures = Pictures(stream)
            seconds, period = _stated_seconds(container, stream), self._pictures.period
            count, damaged, time = 0, 0, -math.inf
            for frame in self._pictures.all(_decoded(container, stream)):
                if frame is None:
                    damaged += 1
                    continue
                time = next_time(frame.time, time, period)
                if selection.takes(count, time):
                    yield self._frames.candidate(count, time, self._pictures.upright(frame), self._content)
                    if selection.complete:
                        return
                count += 1
        end = time + period - (stream.start_time or 0) * float(stream.time_base or 0)
        if seconds - end > max(MISSING_SECONDS, MISSING_SHARE * seconds):
            reason = f"the video is cut short: it ends at {end:.2f} s of {seconds:.2f} s"
            yield SkippedFrame(count, printable(self._path.name), reason)
        elif damaged:
            what = "1 frame of the video is" if damaged == 1 else f"{damaged} frames of the video are"
            yield SkippedFrame(count, printable(self._path.name), f"{what} damaged")


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame | None]:
    """Every frame in presentation order, None for a damaged one."""
    packets = container.demux(stream)
    while True:
        try:
            frames = next(packets).decode()
        except StopIteration:
            return
        except av.error.FFmpegError:
            yield None
            continue
        for frame in frames:
            yield None if frame.is_corrupt else frame


def _stated_seconds(container: InputContainer, stream: VideoStream) -> float:
    """The longest duration that the file states, 0 if it states none."""
    by_count = stream.frames / float(stream.average_rate) if stream.average_rate else 0.0
    if stream.duration is not None and stream.time_base is not None:
        by_clock = float(stream.duration * stream.time_base)
    else:
        by_clock = float(container.duration or 0) / av.time_base
    return max(by_count, by_clock)
