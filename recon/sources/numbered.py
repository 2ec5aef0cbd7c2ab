"""Frames of recordings, which have numbers in place of names."""

from __future__ import annotations

import re
from pathlib import Path

from recon.core.types import Frame, Image
from recon.sources.base import Candidate, SourceOptions, picture_name, working_image
from recon.sources.masks import Masks
from recon.sources.originals import keeping

NAME = re.compile(r"\d{6}(\.jpg)?")


class NumberedFrames:
    """Makes the frames of a recording; frame 12 is ``000012.jpg``.

    lens: what tells its lens from those of other recordings.
    """

    def __init__(self, lens: str, options: SourceOptions, images_folder: Path | None) -> None:
        self._lens, self._size, self._folder = lens, options.size, images_folder
        self._masks = Masks(options.masks, fits=lambda stem: bool(NAME.fullmatch(stem)))

    def candidate(self, index: int, time: float, original: Image, content: str) -> Candidate:
        """The frame of an upright original (height, width, 3). time: its timestamp [s]. content: of the recording."""
        height, width = original.shape[:2]
        image, name = working_image(original, self._size), picture_name(index)
        mask = self._masks.read(name, (width, height), (image.shape[0], image.shape[1]))
        lens, content = f"{self._lens} {width}x{height}", content + self._masks.identity(name)
        frame = Frame(index, time, image, name, (width, height), lens, 0.0, mask, content)
        return Candidate(frame, keeping(original, self._folder, name), time)
