"""Frames that several cameras take together: read, and chosen as keyframes, shot by shot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from recon.core.events import Notice
from recon.core.files import make_folder
from recon.core.types import Frame, PassedFrame, SkippedFrame
from recon.sources.base import Candidate, KeyframeChoice, SourceOptions
from recon.sources.keyframes import pick


@dataclass(frozen=True, eq=False, kw_only=True)
class Shot(Candidate):
    """A shot that may be kept or passed over. frame: the one by which motion is judged, with the index of the shot.
    members: reads the frames of the shot, in the order of the cameras.
    """

    members: Callable[[], Iterable[Candidate]]


class ShotSource(ABC):
    """A source of shots of ``views`` frames each. ``Frame.index`` is ``views`` times that of the shot, plus the number
    of the camera.
    """

    status = None

    def __init__(self, views: int, options: SourceOptions, images_folder: Path | None) -> None:
        self._views, self._folder = views, images_folder
        self.keyframes = KeyframeChoice.of(options)

    @abstractmethod
    def shots(self) -> Iterator[Shot | SkippedFrame | Notice]:
        """All shots, in order, and what else their source says; unreadable ones have the index of their first frame."""

    @abstractmethod
    def passed(self, shot: PassedFrame) -> Iterator[PassedFrame]:
        """The frames of a shot that was passed over; ``shot.index`` is that of the shot."""

    def __iter__(self) -> Iterator[Frame | SkippedFrame | PassedFrame | Notice]:
        if self._folder:
            make_folder(self._folder)
        earlier = {index // self._views for index in self.keyframes.earlier}
        for item in pick(self.shots(), earlier) if self.keyframes.select else self.shots():
            match item:
                case Shot():
                    for member in item.members():
                        member.keep()
                        yield member.frame
                case PassedFrame():
                    yield from self.passed(item)
                case Notice() | SkippedFrame():
                    yield item
