"""Where hardly any point carries the scale from one part of a sequence to the next, so that it may jump there.

A point carries the scale if each part alone determines its distance. Other points that both parts see do not suffice:
a part that sees them from one direction only places them wherever its own scale wants them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon.core.similarity import Array
from recon.core.types import SparsePoints

LARGEST_ANGLE = np.radians(2.0)  # between rays that determine a distance
SHARE_OF_ANGLE = 1 / 3  # of the usual angle between a point's first and last ray, where that is small
FEW, LITTLE = 0.07, 0.2  # of what is usual in a map; 0.01 to 0.03 where the scale jumps, at least 0.18 in right maps
FEWEST_FRAMES = 8


@dataclass(frozen=True)
class Stretch:
    """Where the scale may jump: between two frames, by index. carrying: points that carry it there, where ``usual`` is
    the median over all places."""

    first: int
    last: int
    carrying: int
    usual: int


def weakest_stretch(centres: Mapping[int, Array], points: SparsePoints) -> Stretch | None:
    """The stretch around the place where the fewest points carry the scale, if they are very few.

    centres: of the cameras by index of the frame. Only places count that have as many points on either side, with a
    distance by that side alone, as usually carry the scale: a part with fewer has hardly a scale of its own.
    """
    frames = np.array(sorted(centres))
    if len(frames) < FEWEST_FRAMES or not np.isin(points.frame_indices, frames).any():
        return None
    carrying, before, after = _counted(frames, np.array([centres[index] for index in frames.tolist()]), points)
    usual = float(np.median(carrying))
    counted = np.where(np.minimum(before, after) >= usual, carrying, np.inf)
    place = int(counted.argmin())
    if counted[place] >= FEW * usual:
        return None
    strong = np.flatnonzero(counted >= LITTLE * usual)
    first, last = max(strong[strong < place], default=-1) + 1, min(strong[strong > place], default=len(counted))
    return Stretch(int(frames[first]), int(frames[last]), int(carrying[place]), round(usual))


def _counted(frames: NDArray[np.int64], centres: Array, points: SparsePoints) -> NDArray[np.int64]:
    """For every place between two frames, how many points carry the scale across it, how many have a distance by the
    frames before it alone, and how many by those after it alone: (3, frames - 1)."""
    known = np.flatnonzero(np.isin(points.frame_indices, frames))
    rows = known[np.lexsort((points.frame_indices[known], points.point_ids[known]))]
    places, ids = np.searchsorted(frames, points.frame_indices[rows]), points.point_ids[rows]
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    ends = np.r_[starts[1:], len(ids)] - 1
    point = np.repeat(np.arange(len(starts)), ends - starts + 1)
    rays = points.positions[ids] - centres[places]
    rays /= np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-12)
    usual = float(np.median(np.linalg.norm(rays[starts] - rays[ends], axis=1)))
    enough = min(float(LARGEST_ANGLE), SHARE_OF_ANGLE * usual)  # an angle this small is as long as its chord
    # A point has a distance from one observation on, looking from its first, and up to one, looking from its last.
    opened, closed = np.full(len(starts), len(ids)), np.full(len(starts), -1)
    for bound, pick, anchors in ((opened, np.minimum, starts), (closed, np.maximum, ends)):
        apart = np.flatnonzero(np.linalg.norm(rays - rays[anchors][point], axis=1) >= enough)
        pick.at(bound, point[apart], apart)

    def up_to(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.cumsum(np.bincount(places[rows], minlength=len(frames)))

    carries, opens, closes = opened < closed, up_to(opened[opened < len(ids)]), up_to(closed[closed >= 0])
    carrying = up_to(opened[carries]) - up_to(closed[carries])
    return np.array([carrying, opens, closes[-1] - closes])[:, :-1]
