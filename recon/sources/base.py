"""What every source has in common: its options, its description, and the frames that it yields."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np

from recon.errors import SettingsError, SourceError
from recon.types import Frame, Image, SkippedFrame

SourceKind = Literal["folder", "glob", "image", "video"]

SMALLEST_SIZE = 64


@dataclass(frozen=True)
class SourceOptions:
    """Which frames are read, and how large.

    every: keep one frame in this many. fps: keep this many frames per second of a video. max_frames: stop after so
    many. size: longest side of the working image in pixels; smaller images are not enlarged. masks: folder of mask
    images, see ``recon.sources.masks``. Raises SettingsError for a value that cannot work.
    """

    every: int = 1
    fps: float | None = None
    max_frames: int | None = None
    size: int = 1024
    masks: Path | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise SettingsError(f"--every must be at least 1, got {self.every}.")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise SettingsError(f"--fps must be a positive number, got {self.fps}.")
        if self.fps is not None and self.every != 1:
            raise SettingsError("--every and --fps both choose frames: give only one of them.")
        if self.max_frames is not None and self.max_frames < 1:
            raise SettingsError(f"--max-frames must be at least 1, got {self.max_frames}.")
        if self.size < SMALLEST_SIZE:
            raise SettingsError(f"--size must be at least {SMALLEST_SIZE} pixels, got {self.size}.")


@dataclass(frozen=True)
class SourceDescription:
    """What a source holds, found without decoding it.

    frames: how many will be read, exact for images and an estimate for a video. sizes: (width, height) of the upright
    originals, the most frequent first. rate: frames per second of those that will be read, 0 for images.
    """

    kind: SourceKind
    frames: int
    sizes: tuple[tuple[int, int], ...]
    rate: float


class Source(Protocol):
    """Frames in order. Files are open only during an iteration; every iteration starts anew."""

    @property
    def description(self) -> SourceDescription: ...

    def __iter__(self) -> Iterator[Frame | SkippedFrame]:
        """Yield a Frame, or a SkippedFrame for what cannot be read; raise SourceError when there was no frame."""
        ...


def working_image(original: Image, size: int) -> Image:
    """Shrink (height, width, 3) by area interpolation until the longest side is at most ``size`` pixels."""
    height, width = original.shape[:2]
    scale = size / max(height, width)
    if scale >= 1:
        return original
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(original, shape, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def at_least_one_frame(items: Iterable[Frame | SkippedFrame], where: str) -> Iterator[Frame | SkippedFrame]:
    """Pass ``items`` on; raise SourceError when they end without a single frame."""
    first_skipped: SkippedFrame | None = None
    empty = True
    for item in items:
        if isinstance(item, SkippedFrame):
            first_skipped = first_skipped or item
        else:
            empty = False
        yield item
    if empty:
        why = f" The first, {first_skipped.name}: {first_skipped.reason}." if first_skipped else ""
        raise SourceError(f"No frame of {where} can be read.{why}")
