"""The frames of a run: those that the source gave, and why some have no pose."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from recon.core.refusal import Unplaced
from recon.core.types import Chunk, ChunkGeometry, Frame, PassedFrame, PlacedFrame, SkippedFrame

ALONE = Unplaced("has too little in common with the rest of the map")
UNFINISHED = Unplaced("was read, but the run ended before its turn")
NOT_YET = "was passed over as it shows little new, and the run ended before its turn, or its source is gone"


def passed_over(frame: Frame, passed: Mapping[int, PassedFrame]) -> bool:
    """Whether a frame is one of those that were passed over, given by index."""
    return frame.index in passed and passed[frame.index].name == frame.name


class RunFrames:
    """Every frame and file that the source has given so far.

    names: name and timestamp of the frames read, by index. passed: frames passed over because they show little new, by
    index. reasons: why frames have no pose, by index.
    """

    def __init__(self) -> None:
        self.names: dict[int, tuple[str, float]] = {}
        self.passed: dict[int, PassedFrame] = {}
        self.reasons: dict[int, Unplaced] = {}
        self._unreadable: list[SkippedFrame] = []
        self._between: dict[int, PlacedFrame | SkippedFrame] = {}

    def take(self, item: Frame | SkippedFrame | PassedFrame) -> None:
        """Record an item of the source."""
        match item:
            case SkippedFrame():
                self._unreadable.append(item)
            case PassedFrame():
                self.passed[item.index] = item
            case Frame():
                self.names[item.index] = (item.name, item.timestamp)

    def count_up_to(self, index: int) -> int:
        """Number of frames up to an index, with those that were passed over."""
        return sum(read <= index for read in (*self.names, *self.passed))

    def explain(self, chunk: Chunk, geometry: ChunkGeometry) -> None:
        """Record why frames of a chunk may end up without a pose."""
        self.reasons.update({frame.index: ALONE for frame in chunk.frames} | geometry.unplaced)

    def settle(self, found: PlacedFrame | SkippedFrame) -> int:
        """Record the outcome for a frame that was passed over; returns the number of known outcomes."""
        self._between[found.index] = found
        return len(self._between)

    @property
    def known(self) -> set[int]:
        """The indices of all frames and files that the source has given."""
        return {*self.names, *self.passed, *(frame.index for frame in self._unreadable)}

    @property
    def left(self) -> dict[int, PassedFrame]:
        """The passed-over frames without a pose, by index."""
        placed = {frame.index for frame in self.between}
        return {index: frame for index, frame in self.passed.items() if index not in placed}

    @property
    def between(self) -> tuple[PlacedFrame, ...]:
        """The passed-over frames that got a pose."""
        return tuple(frame for frame in self._between.values() if isinstance(frame, PlacedFrame))

    def skipped(self, placed: Collection[int]) -> tuple[SkippedFrame, ...]:
        """All frames without a pose, if the map holds the frames ``placed``, by index."""
        unplaced = [
            SkippedFrame(index, name, self.reasons.get(index, UNFINISHED).reason, "unplaced")
            for index, (name, _) in self.names.items()
            if index not in placed
        ]
        left = [
            self._between.get(index, SkippedFrame(index, frame.name, NOT_YET, "passed"))
            for index, frame in self.passed.items()
        ]
        passed = [frame for frame in left if isinstance(frame, SkippedFrame)]
        return tuple(sorted(unplaced + passed + self._unreadable, key=lambda frame: frame.index))
