"""Whether a map lays places upon one another that look alike only in part: two sides of a printed mug, equal rooms.

Such a fold agrees with all matches, since only what looks alike matches. The evidence against it is what does not
match: where the depth of two frames says that they see the same surface, they must show the same. Small windows are
compared by correlation, whatever the brightness (dense pose verification, Taira et al. 2018).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from recon.core.similarity import Array
from recon.core.types import FrameGeometry, PlacedFrame
from recon.mapping.appearance import View, correlation
from recon.mapping.doubts import FOLDED
from recon.store.map import ReconstructedMap, open_map

MOST_FRAMES, MOST_PAIRS = 200, 500  # compared, evenly spread
STRIDE = 16  # px between the pixels that decide which frames are compared
SAME_DEPTH = np.log(1.05)  # of one surface
SAME_SIDE, SAME_SIZE = np.radians(30), np.log(1.6)  # between the rays to it, and between its sizes in the images
UNLIKE = 0.2  # largest correlation of windows that show different things
ENOUGH_COMPARED = 0.1  # of an image
CONTRADICTION = 0.15  # of the compared part
FEWEST, SHARE = 3, 0.03  # contradictions of a fold, also of the pairs: up to 0.01 in right maps, from 0.12 in folds
APART = 8  # places in the sequence between compared frames; at most a quarter of the frames


@dataclass(frozen=True)
class Fold:
    """Two frames that the map lays upon one another although they show different things, and how often that happens.

    first, second: names. contradictions, compared: numbers of pairs.
    """

    first: str
    second: str
    contradictions: int
    compared: int

    def __str__(self) -> str:
        return (
            f"{self.first} and {self.second} lie upon one another but show different things, one of "
            f"{self.contradictions} such pairs of {self.compared} compared: {FOLDED}"
        )


@dataclass(frozen=True, eq=False)
class Sight:
    """A placed frame, seen small. view: with certain depth only."""

    placed: PlacedFrame
    view: View

    @classmethod
    def of(cls, placed: PlacedFrame, geometry: FrameGeometry) -> Sight:
        return cls(placed, View.of(geometry.sure()))

    def spots(self, stride: int = 1) -> tuple[Array, Array]:
        """What every stride-th pixel sees: points (n, 3) of the world, NaN without depth, and the size (n,) of their
        image [px per unit of the world].
        """
        points_cam = self.view.points()[stride // 2 :: stride, stride // 2 :: stride].reshape(-1, 3)
        return self.placed.world_from_cam.apply(points_cam), self._size(points_cam[:, 2])

    def sees(self, points: Array, sizes: Array, centres: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Where points (n, 3) of the world lie in this image (n, 2), and which of them are on the surface that it sees
        there, from nearly the same side and distance as by other frames.

        sizes: of the points' image in those frames (n,), see ``spots``. centres: of those frames (n, 3) or (3,).
        """
        points_cam = self.placed.world_from_cam.inverse().apply(points)
        height, width = self.view.depth.shape
        with np.errstate(invalid="ignore", divide="ignore"):  # NaN and 0 without depth; neither passes
            depth = points_cam[:, 2]
            pixels = (points_cam @ self.view.intrinsics.T)[:, :2] / depth[:, None]
            inside = (depth > 0) & ((pixels > 0) & (pixels < (width, height))).all(axis=1)
            columns, rows = np.where(inside[:, None], pixels, 0).astype(np.int64).T
            same_depth = np.abs(np.log(self.view.depth[rows, columns] / depth)) < SAME_DEPTH
            same_size = np.abs(np.log(self._size(depth) / sizes)) < SAME_SIZE
        same_side = _cosines(points - self.placed.world_from_cam.translation, points - centres) > np.cos(SAME_SIDE)
        return pixels, inside & same_depth & same_size & same_side

    def _size(self, depth: Array) -> Array:
        with np.errstate(divide="ignore"):
            return np.asarray(self.view.intrinsics[0, 0] / (self.placed.world_from_cam.scale * depth))


def examine(folder: Path) -> tuple[str, ...]:
    """Why to doubt the map in a folder: a sentence without full stop if it seems to be folded. Raises MapError."""
    fold, _ = find_fold(open_map(folder))
    return (str(fold),) if fold else ()


def find_fold(reconstruction: ReconstructedMap) -> tuple[Fold | None, int]:
    """The fold of a map, if there seems to be one, and the number of compared pairs. Raises MapError."""
    indices = [frame.index for frame in reconstruction.frames]
    some = set(indices[:: -(-len(indices) // MOST_FRAMES) or 1])
    sights = [Sight.of(placed, geometry) for placed, geometry in reconstruction.geometry(some)]
    pairs = list(laid_upon(sights))
    pairs = pairs[:: -(-len(pairs) // MOST_PAIRS) or 1]
    shares = {pair: unlike(sights[pair[0]], sights[pair[1]]) for pair in pairs}
    against = [pair for pair in pairs if shares[pair] > CONTRADICTION]
    if len(against) < max(FEWEST, SHARE * len(pairs)):
        return None, len(pairs)
    first, second = (sights[row].placed.name for row in max(against, key=lambda pair: shares[pair]))
    return Fold(first, second, len(against), len(pairs)), len(pairs)


def laid_upon(sights: Sequence[Sight]) -> Iterator[tuple[int, int]]:
    """Rows of two frames, the earlier one first, of which the second sees ENOUGH_COMPARED of what the first sees.

    They are APART in the sequence: what two neighbours see differently is a reflection or an error of their depth.
    """
    spots, apart = [sight.spots(STRIDE) for sight in sights], max(1, min(APART, len(sights) // 4))
    counts = np.array([len(points) for points, _ in spots])
    for second in range(apart, len(sights)):
        before = second - apart + 1
        points, sizes = (np.concatenate(values) for values in zip(*spots[:before], strict=True))
        owner = np.repeat(np.arange(before), counts[:before])
        centres = np.array([sight.placed.world_from_cam.translation for sight in sights[:before]])[owner]
        seen = np.bincount(owner[sights[second].sees(points, sizes, centres)[1]], minlength=before)
        for first in np.flatnonzero(seen >= ENOUGH_COMPARED * counts[:before]).tolist():
            yield first, second


def unlike(first: Sight, second: Sight) -> float:
    """Share of the surface seen by both frames of which they show different things; 0 if too little can be compared."""
    points, sizes = first.spots()
    pixels, seen = second.sees(points, sizes, first.placed.world_from_cam.translation)
    valid = seen.reshape(first.view.grey.shape)
    at = np.where(seen[:, None], pixels - 0.5, 0).astype(np.float32).reshape(*valid.shape, 2)
    shown = cv2.remap(
        second.view.grey.astype(np.float32), at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    correlated, detail = correlation(first.view.grey.astype(np.float32), np.asarray(shown, np.float32), valid)
    compared = valid & detail
    return float((correlated[compared] < UNLIKE).mean()) if compared.mean() > ENOUGH_COMPARED else 0.0


def _cosines(first: Array, second: Array) -> Array:
    """Cosines (n,) between vectors (n, 3); NaN where one is not known."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.asarray((first * second).sum(axis=1) / np.maximum(lengths, 1e-12))
