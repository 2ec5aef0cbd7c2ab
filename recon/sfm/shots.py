"""Which frames a rig took together, and which pairs of frames may see the same."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from recon.core.rigs import frames_of_shot
from recon.core.types import SAME_CENTRE, Frame, Mount, SparseModel
from recon.sfm.matching import Pair
from recon.sfm.pairs import window_pairs

COS_APART = math.cos(math.radians(100))  # between the directions of cameras of a rig that see nothing in common


class Shots:
    """The shots of ``frames``, by index, which may grow. A frame of a single camera is a shot of its own."""

    def __init__(self, frames: Mapping[int, Frame]) -> None:
        self._frames = frames

    @property
    def mounts(self) -> dict[int, Mount]:
        """The camera of a rig that took a frame, by index; of frames of rigs only."""
        return {index: frame.mount for index, frame in self._frames.items() if frame.mount}

    @property
    def views(self) -> int:
        """The most frames that were taken together."""
        return frames_of_shot(self.mounts.values())

    def of(self, frame_index: int) -> int:
        """The first frame of those that were taken together with a frame; see ``Mount``."""
        return self._frames[frame_index].shot

    def together(self, frame_indices: Iterable[int]) -> dict[int, list[int]]:
        """The frames of every shot, by its first frame."""
        shots: dict[int, list[int]] = {}
        for index in sorted(frame_indices):
            shots.setdefault(self.of(index), []).append(index)
        return shots

    def merged(self, model: SparseModel) -> SparseModel:
        """The model with one frame for every shot: the first, which sees the points that any of them sees."""
        if self.views == 1:
            return model
        first = {self.of(index): index for index in sorted(model.cam_from_model, reverse=True)}
        points = model.points
        shots = np.array([first[self.of(index)] for index in points.frame_indices.tolist()], dtype=np.int64)
        _, kept = np.unique(np.column_stack([points.point_ids, shots]), axis=0, return_index=True)
        once = replace(points, point_ids=points.point_ids[kept], frame_indices=shots[kept], pixels=points.pixels[kept])
        indices = first.values()
        return SparseModel(
            {index: model.cam_from_model[index] for index in indices},
            {index: model.cameras[index] for index in indices},
            once,
        )

    def window(self, frame_indices: Sequence[int], steps: range | tuple[int, ...], *, same: bool = False) -> list[Pair]:
        """Pairs of frames ``steps`` shots apart. Of rigs, only those whose cameras may see the same.

        same: of rigs, only frames of the same camera.
        """
        apart = self.together(frame_indices)
        return [
            pair
            for first, second in window_pairs(sorted(apart), steps)
            for pair in product(apart[first], apart[second])
            if self._may_overlap(pair, same=same)
        ]

    def within(self, frame_indices: Iterable[int]) -> list[Pair]:
        """Pairs of frames of one shot, by cameras of a rig with parallax between them that may see the same."""
        together = self.together(frame_indices).values()
        pairs = (pair for indices in together for pair in combinations(indices, 2))
        return [pair for pair in pairs if self.has_parallax(pair) and self._may_overlap(pair)]

    def has_parallax(self, pair: Pair) -> bool:
        """Whether the centres of two frames differ: those of different shots do, and of a rig's cameras, most do."""
        if self.of(pair[0]) != self.of(pair[1]):
            return True
        first, second = (self._frames[index].mount for index in pair)
        assert first and second
        return bool(np.abs(second.cam_from(first)[:3, 3]).max() > SAME_CENTRE)

    def to_begin_with(
        self, frame_indices: Iterable[int], inliers: Callable[[int, int], int]
    ) -> dict[int, NDArray[np.float64]]:
        """cam_from_rig (4, 4) of the frames of the shot that match each other best; none without parallax in shots.

        inliers: the number of verified matches of two frames.
        """
        pairs = [pair for pair in self.within(frame_indices) if inliers(*pair)]
        total = Counter({self.of(first): 0 for first, _ in pairs})
        for pair in pairs:
            total[self.of(pair[0])] += inliers(*pair)
        best = max(total, key=total.__getitem__, default=None)
        mounts = {index: self._frames[index].mount for pair in pairs for index in pair if self.of(index) == best}
        return {index: mount.cam_from_rig for index, mount in mounts.items() if mount}

    def _may_overlap(self, pair: Pair, *, same: bool = False) -> bool:
        """Whether two frames may see the same, by the directions of their cameras; same: only those of one camera."""
        first, second = (self._frames[index].mount for index in pair)
        if first is None or second is None or first.rig != second.rig:
            return True
        if same:
            return first.number == second.number
        return float(first.cam_from_rig[2, :3] @ second.cam_from_rig[2, :3]) > COS_APART
