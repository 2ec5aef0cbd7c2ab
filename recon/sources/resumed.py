"""The source of a run that goes on with an earlier one: frames of the map first, then those of a source."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from recon.errors import MapError
from recon.events import Notice, StreamStatus
from recon.journal import FrameRecord, Journal
from recon.sources.base import Candidate, Source, SourceDescription, working_image
from recon.sources.decoding import UnreadableImage, read_photo
from recon.store import images_folder, incoming_folder
from recon.types import Frame, PassedFrame, SkippedFrame

Item = Frame | SkippedFrame | PassedFrame | Notice


class ResumedSource:
    """The frames that earlier parts of a map have, from its image folder, and then those of ``source``, behind them.

    Frames of ``source`` that the map has already come again, for its chunks need their pixels. skipped: what the
    earlier parts have without a place. Raises MapError, while iterating, when an image of the map cannot be read.
    """

    def __init__(self, source: Source, out: Path, journal: Journal, skipped: Sequence[SkippedFrame] = ()) -> None:
        self._source, self._journal = source, journal
        self._incoming, self._images = incoming_folder(out, resume=True), images_folder(out)
        self._part = journal.parts[-1]
        self._known = journal.frames
        self._skipped = skipped
        self._shift = self._part.start  # what is added to the source's timestamps

    @property
    def description(self) -> SourceDescription:
        own = self._source.description
        earlier = sum(index < self._part.first for index in self._known)
        return replace(own, frames=own.frames and own.frames + earlier)

    @property
    def status(self) -> StreamStatus | None:
        return self._source.status

    def candidates(self) -> Iterator[Candidate | SkippedFrame]:
        for item in self._source.candidates():
            if isinstance(item, Candidate):
                yield replace(item, frame=self._behind(item.frame))
            else:
                yield replace(item, index=self._part.first + item.index)

    def __iter__(self) -> Iterator[Item]:
        yield from (frame for frame in self._skipped if frame.index < self._part.first)
        yield from (self._read(frame) for index, frame in self._known.items() if index < self._part.first)
        try:
            yield from map(self._continued, self._source)
        finally:
            shutil.rmtree(self._incoming, ignore_errors=True)

    def _continued(self, item: Item) -> Item:
        """An item of the source behind those of the map; the original of a frame is moved to its place."""
        match item:
            case Notice():
                return item
            case SkippedFrame():
                return replace(item, index=self._part.first + item.index)
            case PassedFrame(index, timestamp, name):
                index += self._part.first
                return PassedFrame(index, self._shift + timestamp, self._name(index, name))
            case Frame():
                frame = self._behind(item)
                (self._incoming / item.name).replace(self._images / frame.name)
                return frame

    def _behind(self, frame: Frame) -> Frame:
        """The frame with index, name and timestamp as the map has them or is to have them."""
        index = self._part.first + frame.index
        known = self._known.get(index)
        if known is not None:  # a watched folder's times begin anew
            self._shift = known.timestamp - frame.timestamp
        return replace(frame, index=index, timestamp=self._shift + frame.timestamp, name=self._name(index, frame.name))

    def _name(self, index: int, name: str) -> str:
        """A name that no frame of an earlier part has."""
        return f"{index:06d}_{name}" if self._part.first else name

    def _read(self, frame: FrameRecord) -> Frame:
        path = self._images / frame.name
        try:
            pixels = read_photo(path).pixels
        except UnreadableImage as error:
            raise MapError(f"{path} cannot be read ({error}). The run cannot be resumed without it.") from error
        image = working_image(pixels, self._journal.part_of(frame.index).settings.source.size)
        mask = np.ones(image.shape[:2], dtype=np.bool_)
        return Frame(
            frame.index, frame.timestamp, image, frame.name, frame.original_size, frame.lens, frame.focal, mask
        )
