"""Frames from recordings of ROS: bags of ROS 1 and ROS 2, and MCAP files of ROS 2."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from recon.core.errors import SettingsError, SourceError
from recon.core.events import Notice
from recon.core.files import make_folder
from recon.core.names import printable
from recon.core.types import Camera, Frame, Image, PassedFrame, SkippedFrame
from recon.sources.base import (
    Candidate,
    KeyframeChoice,
    Selection,
    SourceDescription,
    SourceOptions,
    at_least_one_frame,
    picture_name,
)
from recon.sources.decoding import UnreadableImage
from recon.sources.film import next_time
from recon.sources.identity import content_hash
from recon.sources.intrinsics import camera_of_info
from recon.sources.keyframes import chosen
from recon.sources.kinds import METADATA, START_OF_BAG, start_of
from recon.sources.numbered import NumberedFrames
from recon.sources.ros_images import COMPRESSED_IMAGE, IMAGE, picture
from recon.sources.ros_video import COMPRESSED_VIDEO, DEFINITION, Read, film

CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
IMAGES = (IMAGE, COMPRESSED_IMAGE, COMPRESSED_VIDEO)
TRANSPORT = "/compressed"  # that image_transport adds to the topic of an image
RECTIFIED = "image_rect"  # names of images without distortion begin so
SECOND = 1e9  # ns
SHOWN = 12  # topics in a message

# What rosbags says of recordings that have no end, and the cure.
UNFINISHED = {
    "not indexed": "the recording was not finished; repair it with: rosbag reindex {name}",
    "end magic": "the recording was not finished; repair the MCAP file with: mcap recover FILE -o REPAIRED.mcap",
    "not ros2": "it is not a recording of ROS 2",
}


class BagSource:
    """The images of one topic; see ``recon.sources.open_source``.

    ``Frame.index`` counts the messages of the topic, ``Frame.timestamp`` is the stamp of their header [s]. Images are
    read one by one. Damaged ones are skipped. Raises SourceError if the recording cannot be read or has no images, and
    SettingsError if the options name no image topic of several, or one that is not there.
    """

    status = None

    def __init__(self, path: Path, options: SourceOptions, images_folder: Path | None = None) -> None:
        self._path, self._options, self._images_folder = path, options, images_folder
        self.keyframes = KeyframeChoice.of(options)
        self._file = path / METADATA if path.is_dir() else path
        with opened_bag(path) as bag:
            self._topic = _chosen_topic(bag, path, options.topic)
            images = _of_topic(bag, self._topic)
            self._count = sum(one.msgcount for one in images)
            self._period = bag.duration / SECOND / self._count
            first = _first_picture(bag, images, f"{path}: {self._topic}")
            self._size = (first.shape[1], first.shape[0])
            self._lens, self._note = _lens(bag, self._topic, self._size)
        self._frames = NumberedFrames(f"{path.name} {self._topic}", options, images_folder)

    @cached_property
    def description(self) -> SourceDescription:
        every, fps, rate = self._options.every, self._options.fps, 1 / self._period if self._period else 0.0
        frames = math.ceil(self._count / every)
        if fps is not None and fps < rate:
            rate, frames = fps, math.ceil(self._count * self._period * fps)
        frames = min(frames, self._options.max_frames or frames)
        return SourceDescription("bag", frames, (self._size,), rate / every, self._lens)

    def file_of(self, index: int) -> Path | None:
        return self._file

    def __iter__(self) -> Iterator[Frame | SkippedFrame | PassedFrame | Notice]:
        if self._images_folder:
            make_folder(self._images_folder)
        if self._note:
            yield Notice(self._note)
        yield from at_least_one_frame(chosen(self.candidates(), self.keyframes), str(self._path))

    @cached_property
    def _content(self) -> str:
        """That of the file, or of the description of a folder, which has the times and numbers of its messages."""
        return content_hash(self._file)

    def candidates(self) -> Iterator[Candidate | SkippedFrame]:
        selection, time, index = Selection(self._options), -math.inf, -1
        with opened_bag(self._path) as bag:
            try:
                for index, (stated, read) in enumerate(_pictures(bag, _of_topic(bag, self._topic))):
                    time = next_time(stated, time, self._period)
                    if selection.takes(index, time):
                        yield self._read(index, time, read)
                    if selection.complete:
                        return
            except _DamagedError as damage:
                reason = f"the recording is damaged here ({damage}); it should have {self._count} images"
                yield SkippedFrame(index + 1, printable(self._path.name), reason)

    def _read(self, index: int, time: float, read: Read) -> Candidate | SkippedFrame:
        try:
            return self._frames.candidate(index, time, read(), self._content)
        except UnreadableImage as error:
            return SkippedFrame(index, picture_name(index), str(error))


@contextmanager
def opened_bag(path: Path) -> Iterator[AnyReader]:
    """A recording, open. Raises SourceError, with the likely reason."""
    if reason := _misnamed(path):
        raise SourceError(f"{path} cannot be read as a bag: {reason}.")
    try:
        known = get_typestore(Stores.LATEST)
        known.register(get_types_from_msg(DEFINITION, COMPRESSED_VIDEO))
        bag = AnyReader([path], default_typestore=known)
        bag.open()
    except Exception as error:  # rosbags raises almost any type on damaged files
        raise SourceError(f"{path} cannot be read as a bag: {_reason(path, error)}.") from error
    with closing(bag):
        yield bag


def fixes(path: Path) -> Iterator[tuple[float, float, float, float]]:
    """Rows of time [s], latitude, longitude [deg] and height [m] of the NavSatFix messages that have a fix.

    Raises SourceError for recordings that cannot be read, or that are damaged.
    """
    with opened_bag(path) as bag:
        connections = [one for one in bag.connections if one.msgtype == "sensor_msgs/msg/NavSatFix"]
        try:
            for received, message in _messages(bag, connections):
                if message.status.status >= 0:  # negative without a fix
                    time = _stamp(message) or received
                    yield time, message.latitude, message.longitude, message.altitude
        except _DamagedError as damage:
            raise SourceError(f"{path} is damaged: {damage}.") from damage


class _DamagedError(Exception):
    """A message cannot be read."""


def _messages(bag: AnyReader, connections: Sequence[Connection]) -> Iterator[tuple[float, Any]]:
    """Messages in the order in which they were received, with that time [s]. Raises _DamagedError."""
    if not connections:  # to rosbags, none means all
        return
    messages = bag.messages(connections)
    while True:
        try:
            connection, received, content = next(messages)
            message: Any = bag.deserialize(content, connection.msgtype)
        except StopIteration:
            return
        except Exception as error:
            raise _DamagedError(_plain(error)) from error
        yield received / SECOND, message


def _pictures(bag: AnyReader, connections: Sequence[Connection]) -> Iterator[tuple[float, Read]]:
    """The time [s] of every message with a picture, and a function that makes it. Raises _DamagedError."""
    timed = ((_stamp(message) or received, message) for received, message in _messages(bag, connections))
    if any(one.msgtype == COMPRESSED_VIDEO for one in connections):
        yield from film(timed)
    else:
        yield from ((time, partial(picture, message)) for time, message in timed)


def _stamp(message: Any) -> float:
    """The time in the header [s], or of a video's packet; 0 if the driver left it out."""
    stamp = message.timestamp if message.__msgtype__ == COMPRESSED_VIDEO else message.header.stamp
    return float(stamp.sec + stamp.nanosec / SECOND)


def _misnamed(path: Path) -> str:
    """Why rosbags, which goes by names, would not know a recording; empty if it does."""
    if path.is_dir():
        unfinished = not (path / METADATA).is_file()
        return f"it has no {METADATA}; make it with: ros2 bag reindex {path.name}" if unfinished else ""
    usual = START_OF_BAG[found] if (found := _start(path)) else path.suffix
    if path.suffix == ".active":
        return f"the recording was not finished; repair it with: rosbag reindex {path.name}"
    return "" if path.suffix == usual else f"it is a {usual} file; rename it to {path.stem}{usual}"


def _start(path: Path) -> bytes | None:
    return next((start for start in START_OF_BAG if start_of(path).startswith(start)), None)


def _reason(path: Path, error: Exception) -> str:
    if path.is_file() and not path.stat().st_size:
        return "the file is empty"
    said = _plain(error)
    known = (cure.format(name=path.name) for words, cure in UNFINISHED.items() if words in said)
    return next(known, f"it is damaged or cut short ({said})")


def _plain(error: Exception) -> str:
    said = (isinstance(error, OSError) and error.strerror) or str(error)
    return " ".join(said.split()).rstrip(".") or type(error).__name__


def _of_topic(bag: AnyReader, topic: str, *kinds: str) -> list[Connection]:
    return [one for one in bag.connections if one.topic == topic and one.msgtype in (kinds or IMAGES)]


def _chosen_topic(bag: AnyReader, path: Path, wanted: str | None) -> str:
    counts: dict[str, int] = {}
    for one in bag.connections:
        if one.msgtype in IMAGES and one.msgcount:
            counts[one.topic] = counts.get(one.topic, 0) + one.msgcount
    if not counts:
        topics = sorted({one.topic for one in bag.connections if one.msgcount})
        others = f"Its topics: {_listed(topics)}." if topics else "It has no messages at all."
        kinds = "sensor_msgs/Image, sensor_msgs/CompressedImage or foxglove_msgs/CompressedVideo"
        raise SourceError(f"{path} has no images of type {kinds}. {others}")
    listed = _listed([f"{topic} ({count} image{'s' if count > 1 else ''})" for topic, count in sorted(counts.items())])
    if wanted is not None and wanted not in counts:
        raise SettingsError(f"--topic: {path} has no image topic {wanted}. It has {listed}.")
    if wanted is None and len(counts) > 1:
        raise SettingsError(f"{path} has {len(counts)} image topics: {listed}. Choose one with --topic.")
    return wanted or next(iter(counts))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _first_picture(bag: AnyReader, connections: Sequence[Connection], where: str) -> Image:
    """The first picture that can be read. Raises SourceError, with the first reason, if none can."""
    reason = ""
    try:
        for _, read in _pictures(bag, connections):
            try:
                return read()
            except UnreadableImage as error:
                reason = reason or str(error)
    except _DamagedError as damage:
        reason = reason or str(damage)
    raise SourceError(f"{where}: no image can be read. The first: {reason}.")


def _lens(bag: AnyReader, topic: str, size: tuple[int, int]) -> tuple[Camera | None, str]:
    """The lens that camera_info states for a topic, or why there is none that can be used; empty if none is stated."""
    folder, _, name = topic.removesuffix(TRANSPORT).rpartition("/")
    topic_of_info = f"{folder}/camera_info"
    try:
        _, message = next(_messages(bag, _of_topic(bag, topic_of_info, CAMERA_INFO)), (0.0, None))
        if message is None or not any(_field(message, "k")):  # ROS: K is 0 without a calibration
            return None, ""
        return camera_of_info(_document(message, rectified=name.startswith(RECTIFIED)), size, topic_of_info), ""
    except (SettingsError, _DamagedError) as error:
        return None, f"The lens is estimated, because that of the recording cannot be used: {_plain(error)}."


def _document(message: Any, *, rectified: bool) -> dict[str, Any]:
    """The fields of a camera_info as ``camera_calibration_parsers`` writes them. Raises SettingsError."""
    region, binning = message.roi, (message.binning_x, message.binning_y)
    if max(binning) > 1 or region.x_offset or region.y_offset:
        raise SettingsError("its images are cropped or binned")
    projection = list(_field(message, "p"))
    return {
        "image_width": message.width,
        "image_height": message.height,
        "distortion_model": "" if rectified else message.distortion_model,
        "camera_matrix": [*projection[0:3], *projection[4:7], *projection[8:11]]
        if rectified
        else list(_field(message, "k")),
        "distortion_coefficients": [] if rectified else list(_field(message, "d")),
    }


def _field(message: Any, name: str) -> Any:
    """A field that ROS 1 names with a capital letter."""
    return getattr(message, name) if hasattr(message, name) else getattr(message, name.upper())
