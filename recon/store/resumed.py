"""The source of a resumed run: the frames of the map first, then those of a source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from recon.core.errors import MapError, OutputError, ReconError
from recon.core.events import Notice, StreamStatus
from recon.core.files import make_folder
from recon.core.types import Frame, PassedFrame, SkippedFrame
from recon.sources import open_source
from recon.sources.base import Candidate, Source, SourceDescription, working_image
from recon.sources.decoding import UnreadableImage, read_photo
from recon.store.journal import FrameRecord, Journal, Part
from recon.store.map import images_folder, incoming_folder
from recon.store.masks import read_mask

Item = Frame | SkippedFrame | PassedFrame | Notice
Seen = TypeVar("Seen", Frame, PassedFrame)


class ResumedSource:
    """The frames of earlier parts of a map, from its image folder, followed by those of ``source``.

    Frames of ``source`` that the map already has are repeated, since its chunks need their pixels. Frames passed over
    in earlier parts are read again if their source is a file or folder that still exists. Raises MapError, while
    iterating, if an image or mask of the map cannot be read.
    """

    def __init__(self, source: Source, out: Path, journal: Journal) -> None:
        self._source, self._out, self._journal = source, out, journal
        self._incoming, self._images = incoming_folder(out, resume=True), images_folder(out)
        self.keyframes = source.keyframes
        self._part = journal.parts[-1]
        self._known = journal.frames
        self._others = [frame for frame in journal.others if frame.index < self._part.first]
        self._shift = self._part.start  # added to the source's timestamps

    @property
    def description(self) -> SourceDescription:
        own = self._source.description
        earlier = sum(index < self._part.first for index in self._known)
        earlier += sum(isinstance(item, PassedFrame) for item in self._others)
        return replace(own, frames=own.frames and own.frames + earlier)

    @property
    def status(self) -> StreamStatus | None:
        status = self._source.status
        return status and replace(status, began=status.began - self._shift)

    def file_of(self, index: int) -> Path | None:
        return self._source.file_of(index - self._part.first)

    def candidates(self) -> Iterator[Candidate | SkippedFrame]:
        passed = {self._journal.part_of(item.index) for item in self._others if isinstance(item, PassedFrame)}
        for part in self._journal.parts[:-1]:
            if part in passed:
                yield from (_candidate_behind(item, part, part.start) for item in _read_again(part))
        yield from (_candidate_behind(item, self._part, self._shift) for item in self._source.candidates())

    def __iter__(self) -> Iterator[Item]:
        make_folder(self._images)  # the run may have been killed before it did
        yield from self._others
        yield from (self._read(frame) for index, frame in self._known.items() if index < self._part.first)
        yield from map(self._continued, self._source)

    def _continued(self, item: Item) -> Item:
        """An item of the source, placed after those of the map; a frame's original moves to the images folder."""
        match item:
            case Notice():
                return item
            case SkippedFrame():
                return replace(item, index=self._part.first + item.index)
            case PassedFrame():
                return _behind(item, self._part, self._shift)
            case Frame():
                known = self._known.get(self._part.first + item.index)
                if known is not None:  # a watched folder's times start at 0 again
                    self._shift = known.timestamp - item.timestamp
                frame = _behind(item, self._part, self._shift)
                self._keep(item.name, frame.name)
                return frame

    def _keep(self, incoming: str, name: str) -> None:
        try:
            (self._incoming / incoming).replace(self._images / name)
        except OSError as error:
            raise OutputError(
                f"Cannot write {self._images / name}: {error.strerror}. Move away what is there, and resume again."
            ) from error

    def _read(self, frame: FrameRecord) -> Frame:
        path = self._images / frame.name
        try:
            pixels = read_photo(path).pixels
        except UnreadableImage as error:
            raise MapError(f"{path} cannot be read ({error}). The run cannot be resumed without it.") from error
        image = working_image(pixels, self._journal.part_of(frame.index).settings.source.size)
        mask = read_mask(self._out, frame.index, (image.shape[0], image.shape[1]))
        return Frame(
            frame.index,
            frame.timestamp,
            image,
            frame.name,
            frame.original_size,
            frame.lens,
            frame.focal,
            mask,
            frame.content,
            frame.mount,
        )


def _read_again(part: Part) -> Iterator[Candidate | SkippedFrame]:
    try:
        yield from open_source(part.source, part.settings.source).candidates()
    except ReconError:  # the source is gone, or was a camera
        return


def _candidate_behind(item: Candidate | SkippedFrame, part: Part, shift: float) -> Candidate | SkippedFrame:
    if isinstance(item, SkippedFrame):
        return replace(item, index=part.first + item.index)
    return replace(item, frame=_behind(item.frame, part, shift))


def _behind(frame: Seen, part: Part, shift: float) -> Seen:
    """A frame of a part's source with its index and time in the map, and in later parts a unique name."""
    index = part.first + frame.index
    return replace(frame, index=index, timestamp=shift + frame.timestamp, name=part.name(index, frame.name))
