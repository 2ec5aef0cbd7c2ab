"""The most similar images in the order of the points that they share with the query, by pretrained local features.

A point counts if its match agrees with one epipolar geometry of the two images. Where images share about as many, as
those of neighbouring places do, their similarity decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from recon.core.errors import SourceError
from recon.core.types import Frame, Image
from recon.sfm.matching import Features, Matcher
from retrieval.collection import Match, read_image

RERANKED = 10  # of the most similar images
CONFIRMED = 35  # points; with images of other places, 38 queries shared at most 33
FEWEST = 8  # matches that have an epipolar geometry
MAX_ERROR = 1.5  # px
TRIALS = 2000
KEPT = 256  # images whose features stay in memory, 130 KB each


class Reranker:
    """Compares images by the features of a matcher."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self._features_of = lru_cache(KEPT)(self._read)

    def shared_points(self, image: Image, others: Sequence[Path]) -> list[int | None]:
        """How many points an RGB image shares with each of the others; None if that cannot be read."""
        own = self._describe(image)
        return [self._shared(own, self._features_of(path)) for path in others]

    def reranked(self, image: Image, matches: Sequence[Match]) -> list[Match]:
        """The first RERANKED matches by their points times the square of their similarity, then the others."""
        first = matches[:RERANKED]
        counts = self.shared_points(image, [match.path for match in first])
        counted = [replace(match, points=count) for match, count in zip(first, counts, strict=True)]
        return [*sorted(counted, key=_weight, reverse=True), *matches[RERANKED:]]

    def _read(self, path: Path) -> Features | None:
        try:
            return self._describe(read_image(path))
        except SourceError:
            return None

    def _describe(self, image: Image) -> Features:
        height, width = image.shape[:2]
        return self._matcher.describe(
            Frame(0, 0.0, image, "", (width, height), "", 0.0, np.ones((height, width), dtype=bool))
        )

    def _shared(self, first: Features, second: Features | None) -> int | None:
        if second is None:
            return None
        rows = self._matcher.match(first, second).astype(np.int64)
        if len(rows) < FEWEST:
            return 0
        here = first.keypoints[rows[:, 0], :2].astype(np.float64)
        there = second.keypoints[rows[:, 1], :2].astype(np.float64)
        try:
            _, agrees = cv2.findFundamentalMat(here, there, cv2.USAC_MAGSAC, MAX_ERROR, 0.999, TRIALS)
        except cv2.error:  # no geometry, as of points on a line
            return 0
        return 0 if agrees is None else int(agrees.sum())


def _weight(match: Match) -> float:
    return (match.points or 0) * max(match.similarity, 0) ** 2
