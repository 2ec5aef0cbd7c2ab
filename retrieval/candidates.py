"""Which pairs of frames may show the same place, by their descriptors alone.

Three filters precede geometry: a similarity that stands out among the sequence's own pairs of other places, a
neighbour that saw nearly the same pair, and non-maximum suppression, so that one revisit is looked at a few times
instead of hundreds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.describer import Descriptors
from retrieval.index import PlaceIndex

MEDIAN_TO_DEVIATION = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class CandidateSettings:
    """gap: frames that must lie between the two. deviations: how far a similarity stands out, in the spread of pairs of
    other places. neighbours: hits that a query keeps; the most similar ones are all of one place and one moment, so
    that other moments at the same place only come after dozens. support: frames to either side within which another
    hit must agree. window: frames within which hits count as the same revisit. per_submap: most candidates of one
    submap. patience: candidates in a row, from the most similar on, that geometry may refuse before it is asked no
    more about a submap.

    The bounds are wide, for geometry decides: of the places that were seen again, it confirms nine in ten that it is
    asked about, and narrow bounds never asked about half of them."""

    gap: int = 60
    deviations: float = 0.0
    neighbours: int = 100
    support: int = 5
    window: int = 8
    per_submap: int = 48
    patience: int = 8


@dataclass(frozen=True)
class Hit:
    """Frame ``frame`` looks like the frame ``earlier``; both are indices."""

    frame: int
    earlier: int
    similarity: float


@dataclass(frozen=True)
class Background:
    """How similar frames of different places are in this sequence: median and spread of the similarity."""

    median: float
    spread: float

    @classmethod
    def learn(cls, similarities: NDArray[np.floating]) -> Background:
        """From similarities (n,) of frames far apart in time; few of them are revisits, and the median bears these."""
        median = float(np.median(similarities))
        return cls(median, MEDIAN_TO_DEVIATION * float(np.median(np.abs(similarities - median))))

    def threshold(self, deviations: float) -> float:
        """The similarity (larger is more alike) from which on a pair stands out."""
        return self.median + deviations * self.spread


def find_hits(
    index: PlaceIndex, frames: Sequence[int], descriptors: Descriptors, threshold: float, settings: CandidateSettings
) -> list[Hit]:
    """Earlier frames in the index that are at least as similar as ``threshold`` to each of ``frames``.

    The index may hold the frames themselves: those less than ``gap`` before a frame, and all after it, are skipped.
    """
    hits = []
    for frame, descriptor in zip(frames, descriptors, strict=True):
        recent = range(frame - settings.gap + 1, np.iinfo(np.int64).max)
        matches = index.search(descriptor[None], settings.neighbours, skip=recent)
        pairs = zip(matches.ids[0].tolist(), matches.similarities[0].tolist(), strict=True)
        hits += [Hit(frame, earlier, similarity) for earlier, similarity in pairs if similarity >= threshold]
    return hits


def supported(hits: Sequence[Hit], settings: CandidateSettings) -> list[Hit]:
    """The hits that a hit of another frame nearby confirms: it saw nearly the same earlier frame.

    Backwards as well as forwards, for a place may be passed in either direction.
    """
    frames, earlier = (np.array([getattr(hit, name) for hit in hits]) for name in ("frame", "earlier"))
    kept = []
    for hit in hits:
        near = (np.abs(frames - hit.frame) <= settings.support) & (frames != hit.frame)
        if (near & (np.abs(earlier - hit.earlier) <= settings.window)).any():
            kept.append(hit)
    return kept


def strongest(hits: Sequence[Hit], settings: CandidateSettings) -> list[Hit]:
    """The most similar hits, none within the window of another in both frames; at most ``per_submap``."""
    chosen: list[Hit] = []
    for hit in sorted(hits, key=lambda hit: (-hit.similarity, hit.frame, hit.earlier)):
        clash = any(
            abs(hit.frame - other.frame) <= settings.window and abs(hit.earlier - other.earlier) <= settings.window
            for other in chosen
        )
        if not clash:
            chosen.append(hit)
    return chosen[: settings.per_submap]
