"""Videos as camcorders, drones and music players write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from recon.core.types import Image
from tests.cases.case import Case, Input, picture, sample_truth

COUNT = 18


@dataclass(frozen=True)
class Track:
    """A video stream to be written. pictures: BGR, each of its own size or all of one. pixel: width over height."""

    pictures: Sequence[Image]
    codec: str = "libx264"
    format: str = "yuv420p"
    rate: int = 10
    pixel: Fraction | None = None
    options: dict[str, str] = field(default_factory=lambda: {"crf": "14"})
    disposition: str = ""


def write_video(path: Path, *tracks: Track) -> Path:
    """Write streams into one container, interleaved by time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        streams = [_add(container, track) for track in tracks]
        packets = [packet for track, stream in zip(tracks, streams, strict=True) for packet in _encoded(track, stream)]
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
            container.mux(packet)
    return path


def _add(container: Any, track: Track) -> Any:
    height, width = track.pictures[0].shape[:2]
    stream = container.add_stream(track.codec, rate=track.rate, options=track.options)
    stream.width, stream.height, stream.pix_fmt = width, height, track.format
    if track.pixel:
        stream.codec_context.sample_aspect_ratio = track.pixel
    if track.disposition:
        stream.disposition = getattr(av.stream.Disposition, track.disposition)
    return stream


def _encoded(track: Track, stream: Any) -> list[Any]:
    pictures = [av.VideoFrame.from_ndarray(image, "bgr24") for image in track.pictures]
    return [packet for frame in (*pictures, None) for packet in stream.encode(frame)]


def squeezed(image: Image, width: int, height: int) -> Image:
    """The picture resized to this number of pixels, regardless of its shape."""
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def fields(pictures: Sequence[Image]) -> list[Image]:
    """Interlaced pictures, the upper lines of each from one picture and the lower ones from the next."""
    found = []
    for first, second in zip(pictures, [*pictures[1:], pictures[-1]], strict=True):
        both = first.copy()
        both[1::2] = second[1::2]
        found.append(both)
    return found


INTERLACED = {"crf": "14", "x264-params": "interlaced=1:tff=1"}


def _walk(scale: float = 1.0) -> list[Image]:
    pictures = [picture(index) for index in range(COUNT)]
    return [squeezed(image, round(640 * scale), round(480 * scale)) for image in pictures]


def _input(path: Path) -> Input:
    return Input(path, sample_truth(range(COUNT)))


def anamorphic(folder: Path) -> Input:
    """Pixels wider than high, as of HDV and DVD, in the stream alone."""
    track = Track([squeezed(image, 480, 480) for image in _walk()], pixel=Fraction(4, 3))
    return _input(write_video(folder / "hdv.mp4", track))


def tall_pixels(folder: Path) -> Input:
    """Pixels higher than wide, as of half-height recordings, in MPEG-2."""
    pictures = [squeezed(image, 640, 288) for image in _walk()]
    track = Track(pictures, "mpeg2video", rate=25, pixel=Fraction(3, 5), options={"b": "6000000"})
    return _input(write_video(folder / "half.mpg", track))


def interlaced(folder: Path) -> Input:
    """Two fields, half a frame apart, in each picture, as from camcorders."""
    return _input(write_video(folder / "00001.MTS", Track(fields(_walk()), options=INTERLACED)))


def cover(folder: Path) -> Input:
    """A thumbnail as the first stream, as from drones."""
    thumbnail = Track([squeezed(picture(0), 160, 120)], "mjpeg", "yuvj420p", rate=1, options={})
    return _input(write_video(folder / "DJI_0001.mp4", thumbnail, Track(_walk())))


def other_suffix(folder: Path) -> Input:
    """Windows Media."""
    return _input(write_video(folder / "walk.wmv", Track(_walk(), "wmv2", options={"b": "6000000"})))


def cover_alone(folder: Path) -> Input:
    """A sound file with a cover picture."""
    path = folder / "song.m4a"
    write_video(folder / "song.mp4", Track([squeezed(picture(0), 160, 120)], "mjpeg", "yuvj420p", options={},
                                           disposition="attached_pic")).rename(path)  # fmt: skip
    return Input(path)


CASES = (
    Case("anamorphic", anamorphic, "as accurate as square pixels", placed=COUNT, ate=0.01),
    Case("tall pixels", tall_pixels, "as accurate as square pixels", placed=COUNT, ate=0.02),
    Case("interlaced", interlaced, "whole pictures are made", placed=COUNT, ate=0.02),
    Case("thumbnail first", cover, "the film is taken", placed=COUNT, ate=0.02),
    Case("wmv", other_suffix, "read as any other video", placed=COUNT, ate=0.03),
    Case("cover alone", cover_alone, "refused", exit_code=2, says="holds no film, only a cover picture"),
)
