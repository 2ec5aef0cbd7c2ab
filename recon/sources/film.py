"""The main video stream of a container, and its pictures: deinterlaced, with square pixels, and upright."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import av.filter
import cv2
import numpy as np
from av import VideoFrame, VideoStream
from av.container import InputContainer

from recon.core.errors import SourceError
from recon.core.types import Image
from recon.sources.levels import eight_bit, is_dull

NO_FILM = ("attached_pic", "timed_thumbnails", "still_image", "dependent")  # dispositions of other video streams
# The upper field is kept, whatever the file's field order: many files have it wrong, and half a frame matters little.
DEINTERLACING = "mode=send_frame:parity=tff:deint=interlaced"
PACKETS_COUNTED = 400  # to distinguish a film from a thumbnail
LONGEST_PIXEL = 5  # ratio of a pixel's sides; a file that states more is damaged
DEEP_GREY = "gray16le"
COMBED = 1.2  # difference between neighbouring lines over that between lines of one field; about 0.6 without combs


@contextmanager
def opened_film(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container of a file and its main video stream.

    Raises SourceError, with the likely reason, if the file cannot be opened or has no such stream.
    """
    with _opened(path) as container:
        streams = _films(container, str(path))
        if len(streams) == 1:
            yield container, streams[0]
            return
        films = _longest(container, streams)
    with _opened(path) as container:
        yield container, _best([stream for stream in container.streams.video if stream.index in films])


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    try:
        container = av.open(f"file:{path}")  # otherwise FFmpeg reads a name with a colon as a protocol
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read as a video: {_why_unreadable(path, error)}.") from error
    with container:
        yield container


def _why_unreadable(path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as unreadable:
        return unreadable.strerror or str(unreadable)
    if not start:
        return "the file is empty"
    if start[4:8] in (b"ftyp", b"mdat", b"wide"):
        return "it was cut short before its index (the moov atom) was written; copy it again from the camera"
    if isinstance(error, av.error.InvalidDataError):
        return "its content is not a video"
    return str(error)


def film_of(container: InputContainer, where: str) -> VideoStream:
    """The main video stream of a live source. Raises SourceError."""
    return _best(_films(container, where))


def _films(container: InputContainer, where: str) -> list[VideoStream]:
    """Decodable video streams that may be the main one. Raises SourceError if there is none."""
    streams = list(container.streams.video)
    films = [stream for stream in streams if not _is_beside(stream)]
    decodable = [stream for stream in films if stream.codec_context is not None]
    if decodable:
        return decodable
    if films:
        raise SourceError(f"{where} is of a video codec that cannot be decoded here. Convert it to H.264.")
    if streams:
        raise SourceError(f"{where} holds no film, only a cover picture or thumbnails.")
    raise SourceError(f"{where} holds no video, only sound or other data.")


def _is_beside(stream: VideoStream) -> bool:
    return any(getattr(av.stream.Disposition, name) in stream.disposition for name in NO_FILM)


def _longest(container: InputContainer, streams: Sequence[VideoStream]) -> set[int]:
    """Indices of the streams with at least half as many packets as the longest, at the start of the file."""
    counts = Counter({stream.index: 0 for stream in streams})
    with suppress(av.error.FFmpegError):  # damage is reported when the frames are read
        packets = islice(container.demux(streams), PACKETS_COUNTED)
        counts.update(packet.stream_index for packet in packets if packet.size)
    most = max(counts.values())
    return {index for index, count in counts.items() if 2 * count >= most}


def _best(films: Sequence[VideoStream]) -> VideoStream:
    """The largest of several streams; among equals one in colour, then the default one, then the first."""

    def rank(stream: VideoStream) -> tuple[int, bool, bool]:
        context = stream.codec_context
        colour = not (context.pix_fmt or "").startswith("gray")
        return context.width * context.height, colour, av.stream.Disposition.default in stream.disposition

    return max(films, key=rank)


def next_time(stated: float | None, last: float, period: float) -> float:
    """Presentation time of a frame [s]; if the clock stops or jumps back, as in joined recordings, it continues."""
    if stated is not None and stated > last:
        return stated
    return last + period if math.isfinite(last) else 0.0


class Pictures:
    """Turns the decoded frames of one stream into pictures (height, width, 3), uint8 RGB.

    Each interlaced frame becomes one full frame, made from its upper field. Oblong pixels become square by enlarging
    the shorter direction. The picture is then rotated as its file says. period: usual time between two [s]. count: of
    the pictures made. combed: how many of these look interlaced but are not marked so.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._context = stream.codec_context
        self._aspect = _plausible(stream.sample_aspect_ratio)
        self._stated = (self._context.width, self._context.height)
        self._time_base = stream.time_base
        self.period = 1 / float(stream.average_rate or 25)
        self._graph: av.filter.Graph | None = None
        self._kind: tuple[object, ...] = ()
        self.count = self.combed = 0

    def all(self, frames: Iterable[VideoFrame | None]) -> Iterator[VideoFrame | None]:
        """The frames, deinterlaced, in the same order; None for a damaged one."""
        for frame in frames:
            if frame is None:
                yield None
            else:
                yield from self._whole(frame)
        yield from self._drain()

    def _whole(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """The frames that are complete now; for interlaced ones usually the previous frame."""
        kind = (frame.width, frame.height, frame.format.name)
        if self._graph is not None and kind != self._kind:
            yield from self._drain()
        if self._graph is None and not frame.interlaced_frame:
            yield frame
            return
        if self._graph is None:
            self._graph, self._kind = self._new_graph(frame), kind
        self._graph.push(frame)
        yield from self._pulled()

    def upright(self, frame: VideoFrame) -> Image:
        """The picture of a deinterlaced frame."""
        pixels = _rgb(frame)
        width, height = self._square(frame.width, frame.height)
        if (width, height) != (frame.width, frame.height):
            pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
        self.count += 1
        self.combed += not frame.interlaced_frame and self._graph is None and _is_combed(pixels)
        return np.ascontiguousarray(np.rot90(pixels, _quarter_turns(frame)))

    def size(self, frame: VideoFrame) -> tuple[int, int]:
        """(width, height) of the picture of a frame."""
        width, height = self._square(frame.width, frame.height)
        return (width, height) if _quarter_turns(frame) % 2 == 0 else (height, width)

    def _square(self, width: int, height: int) -> tuple[int, int]:
        # The container's aspect belongs to the size it states; for a frame of another size, the codec's aspect holds.
        stated = (width, height) == self._stated
        aspect = self._aspect if stated else _plausible(self._context.sample_aspect_ratio)
        return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))

    def _new_graph(self, frame: VideoFrame) -> av.filter.Graph:
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or self._time_base
        )
        graph.link_nodes(source, graph.add("bwdif", DEINTERLACING), graph.add("buffersink"))
        graph.configure()
        return graph

    def _drain(self) -> Iterator[VideoFrame]:
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pulled()
            self._graph = None

    def _pulled(self) -> Iterator[VideoFrame]:
        while self._graph is not None:
            try:
                yield self._graph.vpull()
            except (BlockingIOError, EOFError):  # nothing yet, or nothing more
                return


def _plausible(aspect: Fraction | None) -> Fraction:
    """Width over height of a pixel, 1 if none or an implausible one is stated."""
    return aspect if aspect and Fraction(1, LONGEST_PIXEL) <= aspect <= LONGEST_PIXEL else Fraction(1)


def _rgb(frame: VideoFrame) -> Image:
    """The frame in 8-bit colours; deeper grey of low contrast, as from thermal cameras, is stretched."""
    name = frame.format.name
    pixels = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    if name.startswith("gray") and frame.format.components[0].bits > 8 and is_dull(pixels):
        deep = frame.to_ndarray() if frame.format.name == DEEP_GREY else frame.reformat(format=DEEP_GREY).to_ndarray()
        return np.repeat(eight_bit(deep)[..., None], 3, axis=2)
    return pixels


def _quarter_turns(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns that make the frame upright, from the file's display matrix."""
    return int(round(frame.rotation / 90) % 4)


def _is_combed(pixels: Image) -> bool:
    """Whether neighbouring lines differ more than lines two apart, as in two fields of a moving camera."""
    grey = pixels[..., 1].astype(np.int16)
    if len(grey) < 8:
        return False
    near, far = np.abs(np.diff(grey, axis=0)).mean(), np.abs(grey[2:] - grey[:-2]).mean()
    return bool(near > COMBED * far and near > 1)
