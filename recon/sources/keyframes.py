"""Keyframes: the frames of a stream that a map needs.

A frame becomes a keyframe once the picture has moved far enough since the previous one, however long that took, so
standing still costs nothing. Slow motion must go less far, because it would otherwise give too few keyframes. Of fast
motion, the map needs every frame. The sharpest of suitable neighbours is chosen. Motion is measured by corners tracked
from frame to frame (Shi and Tomasi 1994; Bouguet 2000), sharpness by the variance of the Laplacian (Pertuz et al.
2013).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.events import Notice
from recon.core.types import Frame, Image, PassedFrame, SkippedFrame
from recon.sources.base import Candidate, KeyframeChoice

SMALL = 320  # longest side of the images used for tracking [px]
NEAR, FAR = 0.10, 0.14  # motion after which a frame may or must become a keyframe, as a share of the longest side
STILL = NEAR / 4  # motion up to which a frame is as good as the keyframe before it
MANY = 30  # frames after which that motion is enough
FAST = 0.06  # motion from frame to frame that makes every frame a keyframe, if 30% of the last ones are faster
LATELY = 20  # frames to judge that by
FEW = 0.1  # share of frames that are not needed, up to which all are mapped
MOST_HELD = 12  # neighbours to choose from
CORNERS = 200
CELLS = 6  # of the grid, along the longest side
FEWEST_IN_CELL = 4  # corners
CELL_QUANTILE = 0.15  # of the motion of a cell's corners
MOVED_QUANTILE = 0.8  # of the motion of the cells
FEWEST_FOLLOWED = 0.6  # of a keyframe's corners; with fewer the picture has changed too much
LOST_WAY = 0.5  # motion assumed for a change of the whole picture
FAST_WAY = 1.0  # the same for every frame of fast motion, none of which the map can spare
MAX_RETURN, LOOSE_RETURN = 0.5, 2.0  # [px] after tracking there and back
FLOW: dict[str, Any] = {"winSize": (15, 15), "maxLevel": 3}
PROBED, PROBE_SECONDS = 48, 1.0
Other = TypeVar("Other", bound=SkippedFrame | Notice)


def chosen(
    candidates: Iterable[Candidate | SkippedFrame], choice: KeyframeChoice
) -> Iterator[Frame | SkippedFrame | PassedFrame]:
    """The chosen frames, with their originals kept, and the others as PassedFrame."""
    for item in pick(candidates, choice.earlier) if choice.select else candidates:
        if isinstance(item, Candidate):
            item.keep()
            yield item.frame
        else:
            yield item


def pick(
    candidates: Iterable[Candidate | Other], earlier: Collection[int] = ()
) -> Iterator[Candidate | Other | PassedFrame]:
    """Pass on keyframes, with the motion up to them, and turn all others into PassedFrame, in order.

    earlier: see KeyframeChoice. At most MOST_HELD frames are held.
    """
    picker = KeyframePicker(earlier)
    for item in candidates:
        if isinstance(item, Candidate):
            yield from picker.take(item)
        else:
            yield item
    yield from picker.finish()


def keyframe_share(candidates: Iterable[Candidate | SkippedFrame], seconds: float = PROBE_SECONDS) -> float:
    """The share of keyframes among the first frames, at most PROBED and as many as can be read in ``seconds``.

    Of the frames that a rig takes together, one counts.
    """
    mapped = passed = 0
    views = (item for item in candidates if isinstance(item, SkippedFrame) or judges(item.frame))
    for item in pick(_read_until(time.monotonic() + seconds, islice(views, PROBED))):
        mapped += isinstance(item, Candidate)
        passed += isinstance(item, PassedFrame)
    return mapped / max(mapped + passed, 1)


def _read_until(end: float, candidates: Iterable[Candidate | SkippedFrame]) -> Iterator[Candidate | SkippedFrame]:
    for item in candidates:
        yield item
        if time.monotonic() > end:
            return


@dataclass(frozen=True, eq=False)
class _Look:
    """A candidate, its small grey image (h, w), its sharpness, and the motion up to it since the last keyframe."""

    candidate: Candidate
    grey: Image
    sharpness: float
    moved: float = 0.0


def judges(frame: Frame) -> bool:
    """Whether a frame decides about those that its rig takes together: that of the second camera does, which sees what
    is beside the way if the first looks ahead."""
    return frame.mount is None or frame.mount.number == min(1, frame.mount.count - 1)


class KeyframePicker:
    """Chooses the keyframes in a sequence of frames. earlier: see KeyframeChoice.

    Frames that an earlier run has decided are judged as all others, so that the next ones are judged as in that run;
    only the outcome is the earlier one.
    """

    def __init__(self, earlier: Collection[int] = ()) -> None:
        self._earlier, self._last_earlier = frozenset(earlier), max(earlier, default=-1)
        self._motion: _Motion | None = None
        self._held: list[_Look] = []
        # At most one frame is held, nearer than NEAR; it becomes a keyframe if the picture jumps after it.
        self._is_near = True
        self._way = 0.0
        self._followed = 0  # frames since the last keyframe
        self._seen = self._slow = 0  # frames so far, and those of them that are not needed
        self._steps: deque[float] = deque(maxlen=LATELY)  # motion from frame to frame

    def take(self, candidate: Candidate) -> Iterator[Candidate | PassedFrame]:
        """Process the next frame; yields the frames that it decides."""
        self._seen += 1
        grey = small_grey(candidate.frame.image)
        yield from self._look(_Look(candidate, grey, float(cv2.Laplacian(grey, cv2.CV_32F).var())), is_new=True)

    def finish(self) -> Iterator[Candidate | PassedFrame]:
        """Decide about the frames that are still held."""
        while self._held and not self._is_near:
            yield from self._choose()
        yield from map(self._spare, self._held)
        self._held = []

    def _look(self, look: _Look, *, is_new: bool) -> Iterator[Candidate | PassedFrame]:
        if self._motion is None:
            yield self._keyframe(look)
            return
        moved = self._motion.follow(look.grey)
        if is_new:
            self._steps.append(min(self._motion.step, LOST_WAY))
        self._followed += 1
        is_far = moved >= FAR or self._is_fast
        if self._is_near and not is_far:
            yield from map(self._spare, self._held)
            self._held, self._is_near = [], moved < (NEAR if self._followed < MANY else STILL)
            if moved < STILL:
                yield self._spare(look)
                return
        self._held.append(replace(look, moved=moved))
        if is_far or len(self._held) > MOST_HELD:
            yield from self._choose()

    @property
    def _is_fast(self) -> bool:
        return len(self._steps) == LATELY and bool(np.quantile(self._steps, 0.7) > FAST)

    def _choose(self) -> Iterator[Candidate | PassedFrame]:
        """Choose the sharpest of the held frames, then process those after it again, relative to it."""
        held, self._held, self._is_near = self._held, [], True
        # The last one is beyond FAR, or ends the source; it is chosen only if it is the only one.
        choice = max(range(max(1, len(held) - 1)), key=lambda row: held[row].sharpness)
        yield from map(self._spare, held[:choice])
        yield self._keyframe(held[choice])
        for look in held[choice + 1 :]:
            yield from self._look(look, is_new=False)

    def _keyframe(self, look: _Look) -> Candidate | PassedFrame:
        self._motion = _Motion(look.grey, look.candidate.frame.mask)
        self._followed = 0
        self._way += FAST_WAY if self._is_fast else min(look.moved, LOST_WAY)
        return self._decided(look, is_mapped=True)

    def _spare(self, look: _Look) -> Candidate | PassedFrame:
        """Pass over a frame that is not needed; but if nearly all others are, mapping it too costs little."""
        self._slow += 1
        return self._decided(look, is_mapped=self._slow <= FEW * self._seen)

    def _decided(self, look: _Look, *, is_mapped: bool) -> Candidate | PassedFrame:
        frame = look.candidate.frame
        if frame.index <= self._last_earlier:
            is_mapped = frame.index in self._earlier
        return replace(look.candidate, way=self._way) if is_mapped else _passed(frame)


class _Motion:
    """How far the picture has moved since a keyframe, by its corners. step: the same since the frame before."""

    step = math.inf

    def __init__(self, grey: Image, mask: NDArray[np.bool_]) -> None:
        small = cv2.resize(mask.astype(np.uint8), grey.shape[::-1], interpolation=cv2.INTER_NEAREST)
        self._first, self._corners = grey, _corners(grey, np.asarray(small, dtype=np.uint8))
        self._cells = _cells(self._corners, grey)
        self._grey, self._now = grey, self._corners
        self._rows = np.arange(len(self._corners))  # of the corners that are not lost

    def follow(self, grey: Image) -> float:
        """Motion since the keyframe, as a share of the longest side; infinite if too little could be tracked."""
        self.step = math.inf
        if grey.shape != self._grey.shape:
            return math.inf
        if not len(self._corners):  # dark or blank
            return math.inf if len(_corners(grey)) else 0.0
        if len(self._rows):
            kept, found = follow_both_ways(self._grey, grey, self._now)
            self.step = _moved(self._cells[self._rows], found - self._now, kept, grey)
            self._now, self._rows = found[kept], self._rows[kept]
        self._grey = grey
        moved = self._since_start(grey)
        if len(self._rows) < FEWEST_FOLLOWED * len(self._corners) or math.isinf(moved):
            return self._since_start(grey) if self._is_still(grey) else math.inf
        return moved

    def _since_start(self, grey: Image) -> float:
        shifts, kept = np.zeros_like(self._corners), np.zeros(len(self._corners), dtype=np.bool_)
        shifts[self._rows], kept[self._rows] = self._now - self._corners[self._rows], True
        return _moved(self._cells, shifts, kept, grey)

    def _is_still(self, grey: Image) -> bool:
        """Whether the corners are where they were in the keyframe: noise loses them from frame to frame, but not all at
        once. If so, tracking starts again from there."""
        kept, found = follow_both_ways(self._first, grey, self._corners, LOOSE_RETURN)
        if _moved(self._cells, found - self._corners, kept, grey) >= STILL:
            return False
        self._now, self._rows = found[kept], np.flatnonzero(kept)
        return True


def _moved(cells: NDArray[np.int64], shifts: NDArray[np.float32], kept: NDArray[np.bool_], grey: Image) -> float:
    """How far the picture has moved by the shifts (n, 1, 2) of corners, as a share of its longest side.

    Each cell counts once, however many corners it has, and with the motion that most of them exceed; lost ones went
    infinitely far. A fifth of the cells must have moved so far: a median would miss a camera that moves straight ahead,
    and one that sees mostly what moves with it.
    """
    lengths = np.where(kept, np.linalg.norm(shifts, axis=(1, 2)), math.inf)
    by_cell = [np.quantile(lengths[cells == cell], CELL_QUANTILE, method="lower") for cell in np.unique(cells)]
    return float(np.quantile(by_cell, MOVED_QUANTILE, method="higher") / max(grey.shape))


def _corners(grey: Image, mask: NDArray[np.uint8] | None = None) -> NDArray[np.float32]:
    """Corners (n, 1, 2) [px] inside the mask that can be tracked, if only into the same image: the best of each cell of
    a grid."""
    found = cv2.goodFeaturesToTrack(grey, 5 * CORNERS, qualityLevel=0.005, minDistance=7, mask=mask)
    if found is None:
        return np.zeros((0, 1, 2), dtype=np.float32)
    corners = np.asarray(found, dtype=np.float32)
    cells = _grid(corners, grey)
    numbers = np.unique(cells)
    best = np.concatenate([np.flatnonzero(cells == number)[: CORNERS // len(numbers)] for number in numbers])
    return np.asarray(corners[best][follow_both_ways(grey, grey, corners[best])[0]])


def _grid(corners: NDArray[np.float32], grey: Image) -> NDArray[np.int64]:
    """The cell of each corner (n, 1, 2)."""
    size = np.array(grey.shape[::-1])
    columns_rows = np.maximum(1, np.round(CELLS * size / size.max()))
    return np.asarray(corners[:, 0] * columns_rows // size @ [1, CELLS], dtype=np.int64)


def _cells(corners: NDArray[np.float32], grey: Image) -> NDArray[np.int64]:
    """As ``_grid``, but those with few corners are one cell."""
    cells = _grid(corners, grey)
    _, row, count = np.unique(cells, return_inverse=True, return_counts=True)
    return np.where(count[row] < FEWEST_IN_CELL, -1, cells)


def follow_both_ways(
    before: Image,
    after: Image,
    corners: NDArray[np.float32],
    max_return: float = MAX_RETURN,
    flow: Mapping[str, Any] = FLOW,
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Which corners (n, 1, 2) [px] were tracked from one grey image to another, and to where. flow: OpenCV's options.

    A corner counts only if it is tracked back to where it came from (Kalal et al. 2010): between photos of different
    places, flow finds motion for nearly any corner.
    """
    found, there, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, corners.copy(), **flow)
    back, again, _ = cv2.calcOpticalFlowPyrLK(after, before, found, corners.copy(), **flow)
    inside = ((found > 0) & (found < after.shape[::-1])).all(axis=(1, 2))
    returned = np.linalg.norm(back - corners, axis=(1, 2)) < max_return
    return (there.ravel() == 1) & (again.ravel() == 1) & inside & returned, np.asarray(found, dtype=np.float32)


def small_grey(image: Image, side: int = SMALL) -> Image:
    """A grey copy of an image (height, width, 3), its longest side at most ``side`` pixels."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = side / max(grey.shape)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(grey, dtype=np.uint8)


def _passed(frame: Frame) -> PassedFrame:
    return PassedFrame(frame.index, frame.timestamp, frame.name)
