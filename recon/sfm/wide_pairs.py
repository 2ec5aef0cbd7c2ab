"""Matches of views too far apart for SIFT, by pretrained features.

Such features also match what only looks alike, such as the two sides of a printed mug. A pair therefore counts only if
it has at least EVIDENCE of the matches that the better known of its frames has with any other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pycolmap
from numpy.typing import NDArray

from recon.core.beside import beside
from recon.core.stopwatch import stage
from recon.core.types import Frame
from recon.sfm.database import MatchDatabase, Pixels
from recon.sfm.matching import Features, Matcher, Pair
from recon.sfm.pairs import most_alike
from recon.sfm.stored_features import rows_of
from recon.sfm.verification import FEWEST_MATCHES, verify

EVIDENCE = 0.25
PARTNERS = 6  # of a frame, at most
MOST_PAIRS = 120  # in a chunk; 86 ms each
ALIKE = 0.82  # cosine of two descriptors from which XFeat's own matching accepts them


class WidePairs:
    """Adds matches by ``matcher``, one of pretrained features, to those of a database. A pair is matched once."""

    def __init__(self, database: MatchDatabase, matcher: Matcher) -> None:
        self._database, self._matcher = database, matcher
        self._features: dict[int, Features] = {}
        self._found: dict[Pair, Pixels] = {}
        self._added: set[Pair] = set()

    @stage("wide pairs")
    def connect(self, frames: Sequence[Frame], lost: Collection[int]) -> dict[Pair, pycolmap.TwoViewGeometry]:
        """Match the ``lost`` ones of some frames with those that look most alike, and add the evident pairs.

        Returns the geometries that these pairs had before, for ``withdraw``.
        """
        self._describe(frames)
        pairs = self._alike(lost)
        compared = [self._best_known(index) for pair in pairs for index in pair]
        for pair in sorted({*pairs, *filter(None, compared)} - self._found.keys()):
            self._found[pair] = self._matched(pair)
        evident = {pair: self._found[pair] for pair in pairs if pair not in self._added and self._is_evident(pair)}
        self._added.update(evident)
        return self._database.add_matches(evident)

    def withdraw(self, before: Mapping[Pair, pycolmap.TwoViewGeometry]) -> None:
        """Remove pairs that ``connect`` added."""
        self._database.restore_geometries(before)
        self._added.difference_update(before)

    def _describe(self, frames: Sequence[Frame]) -> None:
        """Describe the new ones of some frames, and forget all others."""
        known = self._features
        self._features = {
            frame.index: known[frame.index] if frame.index in known else self._matcher.describe(frame)
            for frame in frames
        }
        self._found = {pair: found for pair, found in self._found.items() if self._features.keys() >= set(pair)}

    def _alike(self, lost: Collection[int]) -> list[Pair]:
        """The pairs of lost frames with those that have the most similar descriptors, at most MOST_PAIRS."""
        indices = sorted(self._features)
        places = [(a, b) for b in range(len(indices)) for a in range(b) if {indices[a], indices[b]} & set(lost)]

        def glance(pair: Pair) -> int:
            return len(near_both_ways(*(self._features[indices[place]].descriptors for place in pair)))

        counts = dict(zip(places, beside(glance, places), strict=True))
        chosen = most_alike({pair: count for pair, count in counts.items() if count}, PARTNERS, apart=1)
        chosen.sort(key=lambda pair: -counts[pair])
        return [(indices[first], indices[second]) for first, second in chosen[:MOST_PAIRS]]

    def _best_known(self, index: int) -> Pair | None:
        """The pair of a frame with the most matches in the database: its count shows how much is usual."""
        counts = {other: self._database.inliers(index, other) for other in self._features}
        best = max(counts, key=lambda other: counts[other])
        return (min(index, best), max(index, best)) if counts[best] else None

    def _matched(self, pair: Pair) -> Pixels:
        """Verified matches of a pair; none if they are too few."""
        features, lenses = [self._features[index] for index in pair], [self._database.lenses[index] for index in pair]
        rows = rows_of(self._matcher.match(*features), *features)
        if len(rows) >= FEWEST_MATCHES:
            pixel = self._database.pixel_scale(pair)
            rows = verify(rows, (features[0], features[1]), (lenses[0], lenses[1]), pixel, None).inlier_matches
        if len(rows) < FEWEST_MATCHES:
            rows = rows[:0]
        return features[0].keypoints[rows[:, 0], :2], features[1].keypoints[rows[:, 1], :2]

    def _is_evident(self, pair: Pair) -> bool:
        most = max(len(pixels[0]) for other, pixels in self._found.items() if not set(pair).isdisjoint(other))
        return len(self._found[pair][0]) >= max(1, EVIDENCE * most)


def near_both_ways(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.int64]:
    """Rows (m, 2) of descriptors (n, d) of length 1 that are each other's nearest, and near."""
    if not len(first) or not len(second):
        return np.zeros((0, 2), np.int64)
    cosines, rows = first @ second.T, np.arange(len(first))
    nearest = cosines.argmax(axis=1)
    kept = (cosines.argmax(axis=0)[nearest] == rows) & (cosines[rows, nearest] > ALIKE)
    return np.asarray(np.column_stack([rows, nearest])[kept], dtype=np.int64)
