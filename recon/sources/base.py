"""The common part of all sources: their options, their description, and the frames they yield."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import cv2
import numpy as np

from recon.core.errors import SettingsError, SourceError
from recon.core.events import Notice, StreamStatus
from recon.core.fields import require_types
from recon.core.sizes import scaled
from recon.core.types import Camera, Frame, Image, PassedFrame, SkippedFrame

Keyframes = Literal["auto", "all", "select"]
Cameras = Literal["auto", "one", "per-image", "per-folder"]
Unit = Literal["image", "panorama", "shot"]

SMALLEST_SIZE, LARGEST_SIZE = 64, 16384
Item = TypeVar("Item")


@dataclass(frozen=True)
class SourceOptions:
    """Which frames to read, and at what size.

    every: keep one frame in this many. fps: keep this many frames per second of a video. max_frames: stop after this
    many. size: longest side of the working image in pixels; smaller images are not enlarged. masks: folder of mask
    images, see ``recon.sources.masks``. keyframes: ``select`` passes over frames that show little new, see
    ``recon.sources.keyframes``; ``auto`` does so in long sources, see ``RunSettings.decided``. cameras: which frames
    share a lens: those of one size (``one``), of one size and folder (``per-folder``), none (``per-image``), or as EXIF
    and the matches suggest (``auto``). topic: of the images in a recording of ROS; None for the only one.
    equirectangular: take the images for 360-degree panoramas, tagged as such or not; see
    ``recon.sources.panoramas``. rig: file with the cameras of a rig, see ``recon.sources.rigs``. Raises SettingsError
    for a value that cannot work.
    """

    every: int = 1
    fps: float | None = None
    max_frames: int | None = None
    size: int = 1024
    masks: Path | None = None
    keyframes: Keyframes = "auto"
    cameras: Cameras = "auto"
    topic: str | None = None
    equirectangular: bool = False
    rig: Path | None = None

    def __post_init__(self) -> None:
        require_types(self)
        if self.every < 1:
            raise SettingsError(f"--every must be at least 1, got {self.every}.")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise SettingsError(f"--fps must be a positive number, got {self.fps}.")
        if self.fps is not None and self.every != 1:
            raise SettingsError("--every and --fps both select frames. Use only one of them.")
        if self.max_frames is not None and self.max_frames < 2:
            raise SettingsError(f"--max-frames must be at least 2, as a map needs two frames, got {self.max_frames}.")
        if self.rig and (self.fps or self.topic or self.equirectangular):
            option = "--fps" if self.fps else "--topic" if self.topic else "--equirectangular"
            raise SettingsError(f"{option} does not apply to the images of --rig. Leave one of them out.")
        if not SMALLEST_SIZE <= self.size <= LARGEST_SIZE:
            raise SettingsError(f"--size must be {SMALLEST_SIZE} to {LARGEST_SIZE} pixels, got {self.size}.")


@dataclass(frozen=True)
class SourceDescription:
    """The content of a source, determined without decoding it.

    kind: a name in ``recon.sources.SOURCES``, camera or stream. frames: how many will be read: exact for images, an
    estimate for a video, 0 if unknown. sizes: (width, height) of the upright originals, the most frequent first. rate:
    frames read per second of a video, 0 for images and live sources. lens: that the source itself states, None if it
    states none. views: frames that a rig takes together, see ``Mount``. unit: what is taken at once.
    """

    kind: str
    frames: int
    sizes: tuple[tuple[int, int], ...]
    rate: float
    lens: Camera | None = None
    views: int = 1
    unit: Unit = "image"


@dataclass(frozen=True)
class KeyframeChoice:
    """Which frames of a source are mapped. select: keyframes only. earlier: the frames that an earlier run mapped, by
    index; up to the last of them, its choice is repeated, whatever follows now.
    """

    select: bool
    earlier: frozenset[int] = frozenset()

    @classmethod
    def of(cls, options: SourceOptions) -> KeyframeChoice:
        """The choice that the options ask for; ``auto``, if nobody has decided, maps all frames."""
        return cls(options.keyframes == "select")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A frame that may be kept or passed over. keep: stores its original for the run, if the frame is kept. way: how
    far the picture has moved since the source's first frame, as a share of its width; if motion is not measured, the
    time [s]. shown: of a live source, when the picture is shown in its file [s]; None if it comes from none.
    """

    frame: Frame
    keep: Callable[[], None]
    way: float = 0.0
    shown: float | None = None


class Source(Protocol):
    """Frames in order. Files are open only while iterating; every iteration of a file or folder starts again.

    keyframes: which frames to choose; a run sets it before it reads.
    """

    keyframes: KeyframeChoice

    @property
    def description(self) -> SourceDescription: ...

    @property
    def status(self) -> StreamStatus | None:
        """The status of a live source, None for files."""
        ...

    def file_of(self, index: int) -> Path | None:
        """The file of a frame; None if there is none (any more), and for cameras and streams."""
        ...

    def candidates(self) -> Iterator[Candidate | SkippedFrame]:
        """Read all frames again, chosen or not; none from a live source."""
        ...

    def __iter__(self) -> Iterator[Frame | SkippedFrame | PassedFrame | Notice]:
        """Yield a Frame, a SkippedFrame for an unreadable file, a PassedFrame for one that shows little new.

        Raises SourceError if there was no frame.
        """
        ...


class Selection:
    """Selects frames: one in ``every``, or the first of every 1 / fps seconds."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._taken = 0
        self._next_time = -math.inf

    @property
    def complete(self) -> bool:
        return self._taken == self._options.max_frames

    def takes(self, index: int, time: float) -> bool:
        fps = self._options.fps
        if fps is None:
            taken = index % self._options.every == 0
        else:
            # Presentation times are rounded to the container's clock: allow a thousandth of a period.
            taken = time >= self._next_time - 0.001 / fps
            if taken:
                start = time if math.isinf(self._next_time) else self._next_time
                self._next_time = start + (math.floor((time - start) * fps + 0.001) + 1) / fps
        self._taken += taken
        return taken


def picture_name(index: int) -> str:
    """What a picture of a video or stream is called."""
    return f"{index:06d}.jpg"


def working_image(original: Image, size: int) -> Image:
    """Shrink (height, width, 3) by area interpolation until the longest side is at most ``size`` pixels."""
    height, width = original.shape[:2]
    if size >= max(height, width):
        return original
    shape = scaled((width, height), size)
    return np.asarray(cv2.resize(original, shape, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def at_least_one_frame(items: Iterable[Item], where: str) -> Iterator[Item]:
    """Pass ``items`` on; raise SourceError if they end without a frame."""
    first_skipped: SkippedFrame | None = None
    empty = True
    for item in items:
        if isinstance(item, SkippedFrame):
            first_skipped = first_skipped or item
        elif isinstance(item, Frame):
            empty = False
        yield item
    if empty:
        why = f" The first, {first_skipped.name}: {first_skipped.reason}." if first_skipped else ""
        raise SourceError(f"No frame of {where} can be read.{why}")
