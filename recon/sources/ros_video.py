"""Pictures of videos in recordings of ROS: foxglove_msgs/CompressedVideo, whose messages are packets of one stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import av
import numpy as np
from av import CodecContext, Packet, VideoFrame
from av.video.codeccontext import VideoCodecContext

from recon.core.types import Image
from recon.sources.decoding import UnreadableImage

COMPRESSED_VIDEO = "foxglove_msgs/msg/CompressedVideo"
DEFINITION = "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n"
CODECS: dict[str, Literal["h264", "hevc"]] = {"h264": "h264", "h265": "hevc"}  # FFmpeg's names
LOST = "its packet is damaged, or follows no whole picture of the video"

Read = Callable[[], Image]  # makes a picture (height, width, 3) RGB; raises UnreadableImage
Message = tuple[float, Any]  # its time [s], and itself


def film(messages: Iterable[Message]) -> Iterator[tuple[float, Read]]:
    """The time and the picture of every message, in order; the pictures of some come after later messages are read."""
    decoding: _Decoding | None = None
    for number, (time, message) in enumerate(messages):
        if decoding is None:
            codec = CODECS.get(message.format.lower())
            if codec is None:
                yield time, partial(_refuse, f"it is {message.format} video; known are {', '.join(CODECS)}")
                continue
            decoding = _Decoding(CodecContext.create(codec, "r"))
        packet: Packet[Any] = Packet(bytes(message.data))
        packet.pts = packet.dts = number
        decoding.times[number] = time
        yield from decoding.shown(packet)
    if decoding is not None:
        yield from decoding.shown(None)
        yield from ((time, partial(_refuse, LOST)) for time in decoding.times.values())


@dataclass
class _Decoding:
    """A stream without pictures that depend on later ones. times: of messages without a picture so far. is_whole:
    whether no message has been lost since the last key frame; what follows a lost one may be distorted.
    """

    decoder: VideoCodecContext
    times: dict[int, float] = field(default_factory=dict)
    is_whole: bool = True

    def shown(self, packet: Packet[Any] | None) -> Iterator[tuple[float, Read]]:
        """What a packet completes; None ends the video. Earlier messages that are still without a picture have lost
        it."""
        try:
            frames = self.decoder.decode(packet)
        except av.error.FFmpegError:
            self.is_whole = False
            return
        for frame in frames:
            for number in [one for one in self.times if one < (frame.pts or 0)]:
                self.is_whole = False
                yield self.times.pop(number), partial(_refuse, LOST)
            self.is_whole |= frame.key_frame
            if frame.pts in self.times:
                yield self.times.pop(frame.pts), partial(_picture, frame) if self.is_whole else partial(_refuse, LOST)


def _picture(frame: VideoFrame) -> Image:
    if frame.is_corrupt:
        raise UnreadableImage(LOST)
    return np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)


def _refuse(reason: str) -> Image:
    raise UnreadableImage(reason)
