"""Which dense points of the tracker's map are right now, and where."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recon.core.events import LocalDepth, LocalMapGrown
from recon.core.similarity import Sim3
from recon.core.types import Camera

SAME_LENS = 0.02  # relative difference of focal lengths, up to which dense points stay


class LocalDepths:
    """The dense points of keyframes of the local map, which lose their place when the finished map has the keyframe, or
    when the lens has become another.
    """

    def __init__(self) -> None:
        self._found: dict[int, LocalDepth] = {}
        self._grown: LocalMapGrown | None = None

    def add(self, found: LocalDepth) -> None:
        """Dense points of a keyframe; the event of the keyframe itself may come later, or be over."""
        self._found[found.index] = found

    def follow(self, grown: LocalMapGrown | None) -> None:
        """The local map is another now, or, None, cannot be shown."""
        self._grown = grown
        if grown is None:
            self._found.clear()
            return
        kept = [one for one in self._found.values() if one.index > grown.index or self._fits(one)]
        self._found = {one.index: one for one in kept}

    def placed(self) -> Iterator[tuple[LocalDepth, Sim3]]:
        """What can be shown, with its place in the world."""
        if grown := self._grown:
            for index, found in self._found.items():
                rows = np.flatnonzero(grown.keyframes == index)
                if len(rows) and self._fits(found):
                    pose = grown.world_from_cam[rows[0]]
                    yield found, Sim3(grown.unit / found.unit, pose[:3, :3], pose[:3, 3])

    def _fits(self, found: LocalDepth) -> bool:
        grown = self._grown
        return grown is not None and found.index in grown.keyframes and _same_lens(found.camera, grown.camera)


def _same_lens(first: Camera, second: Camera) -> bool:
    return bool(abs(first.matrix()[0, 0] / second.matrix()[0, 0] - 1) <= SAME_LENS)
