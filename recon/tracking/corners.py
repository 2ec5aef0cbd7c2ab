"""Corners followed from frame to frame (Shi and Tomasi 1994; Bouguet 2000; Kalal et al. 2010)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.similarity import Array
from recon.core.types import Frame, Image
from recon.sources.keyframes import follow_both_ways, small_grey

SIDE = 640  # longest side of the images used for tracking [px]
CORNERS = 400
TOO_FEW = 0.75  # of CORNERS, below which new ones are sought
CELLS = (8, 6)  # of the grid over which corners are spread
SPACING = 8  # [px]
FLOW: dict[str, Any] = {
    "winSize": (17, 17),
    "maxLevel": 4,
    "criteria": (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 20, 0.02),
    "flags": cv2.OPTFLOW_USE_INITIAL_FLOW,
}
Tracks = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class View:
    """The corners in one frame. index: of the frame. tracks: (n,) their numbers, ascending; a corner keeps its number
    as long as it is followed. pixels: (n, 2) in the frame's original.
    """

    index: int
    tracks: Tracks
    pixels: Array


class Corners:
    """Follows corners from each frame to the next, and replaces those that are lost. grey: the last frame, small."""

    def __init__(self) -> None:
        self.grey: Image = np.zeros((0, 0), dtype=np.uint8)
        self._pixels = np.zeros((0, 2), dtype=np.float32)  # of the small image, centres at integers
        self._tracks = np.zeros(0, dtype=np.int64)
        self._next = 0

    def follow(self, frame: Frame) -> View:
        """The corners in the next frame."""
        before, self.grey = self.grey, small_grey(frame.image, SIDE)
        if before.shape != self.grey.shape:
            self._keep(np.zeros(len(self._tracks), dtype=np.bool_))
        elif len(self._tracks):
            self._follow(before, self.grey)
        if len(self._tracks) < TOO_FEW * CORNERS:
            self._replenish(frame.mask)
        to_original = np.divide(frame.original_size, self.grey.shape[::-1])
        return View(frame.index, self._tracks, (self._pixels + 0.5).astype(np.float64) * to_original)

    def _follow(self, before: Image, after: Image) -> None:
        """Keep the corners that are tracked back to where they came from."""
        followed, found = follow_both_ways(before, after, self._pixels[:, None], flow=FLOW)
        self._pixels = found[:, 0]
        self._keep(followed & (self._pixels < np.subtract(after.shape[::-1], 1)).all(axis=1))

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        self._pixels, self._tracks = self._pixels[kept], self._tracks[kept]

    def _replenish(self, mask: NDArray[np.bool_]) -> None:
        """Add corners where there are few: the best of each cell of the grid, up to its share."""
        grey = self.grey
        free = cv2.resize(mask.astype(np.uint8), grey.shape[::-1], interpolation=cv2.INTER_NEAREST)
        for x, y in self._pixels.round().astype(int).tolist():
            cv2.circle(free, (x, y), SPACING, 0, -1)
        found = cv2.goodFeaturesToTrack(grey, 4 * CORNERS, qualityLevel=0.005, minDistance=SPACING, mask=free)
        if found is None:
            return
        corners = np.asarray(found[:, 0], dtype=np.float32)
        taken = np.bincount(_cells(self._pixels, grey), minlength=CELLS[0] * CELLS[1])
        cells = _cells(corners, grey)
        order = np.argsort(cells, kind="stable")  # the best of a cell stay first
        rank = np.zeros(len(cells), dtype=np.int64)
        rank[order] = np.arange(len(cells)) - np.searchsorted(cells[order], cells[order])
        new = corners[rank + taken[cells] < CORNERS // len(taken)]
        self._tracks = np.concatenate([self._tracks, np.arange(self._next, self._next + len(new))])
        self._pixels = np.concatenate([self._pixels, new])
        self._next += len(new)


def _cells(pixels: NDArray[np.float32], grey: Image) -> NDArray[np.int64]:
    """The number of each pixel's cell."""
    return np.asarray((pixels * CELLS // grey.shape[::-1]).astype(np.int64) @ [1, CELLS[0]])


def shared_rows(tracks: Tracks, others: Tracks) -> tuple[Tracks, Tracks]:
    """Rows of the numbers that both have, in either."""
    _, rows, found = np.intersect1d(tracks, others, assume_unique=True, return_indices=True)
    return rows, found
