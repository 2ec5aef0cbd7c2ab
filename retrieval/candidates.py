"""Pairs of frames that may show the same place, by their descriptors alone.

Three filters precede the geometric check. The similarity must stand out from that of different places in the sequence.
A neighbouring frame must have nearly the same hit. Non-maximum suppression limits a revisit to a few checks instead of
hundreds.
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
    """gap: least number of frames between the two. deviations: how far a similarity must stand out, in standard
    deviations of pairs of different places. neighbours: hits per query; the most similar ones all show one visit to a
    place, so other visits follow only after dozens. support: frames on either side within which another hit must agree.
    window: frames within which hits count as the same revisit. per_submap: most candidates of one submap. patience:
    candidates in a row, starting with the most similar, that geometry may reject before the other candidates of a
    submap are dropped. per_pair, enough: candidates that geometry has confirmed, between the same two submaps and of
    one submap, after which others are dropped: they would say the same.

    The bounds are wide, since geometry decides: it confirms nine in ten of the true revisits that it checks, while
    narrow bounds exclude half of them from the check."""

    gap: int = 60
    deviations: float = 0.0
    neighbours: int = 100
    support: int = 5
    window: int = 8
    per_submap: int = 48
    patience: int = 8
    per_pair: int = 8
    enough: int = 24


@dataclass(frozen=True)
class Hit:
    """Frame ``frame`` looks like the frame ``earlier``; both are indices."""

    frame: int
    earlier: int
    similarity: float


@dataclass(frozen=True)
class Background:
    """The similarity of frames at different places in this sequence: median and spread."""

    median: float
    spread: float

    @classmethod
    def learn(cls, similarities: NDArray[np.floating]) -> Background:
        """From similarities (n,) of frames far apart in time; the median tolerates the few revisits among them."""
        median = float(np.median(similarities))
        return cls(median, MEDIAN_TO_DEVIATION * float(np.median(np.abs(similarities - median))))

    def threshold(self, deviations: float) -> float:
        """The least similarity at which a pair stands out."""
        return self.median + deviations * self.spread


def find_hits(
    index: PlaceIndex, frames: Sequence[int], descriptors: Descriptors, threshold: float, settings: CandidateSettings
) -> list[Hit]:
    """Earlier frames in the index whose similarity to each of ``frames`` is at least ``threshold``.

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
    """The hits supported by a hit of another frame nearby, with nearly the same earlier frame.

    The order of the hits does not matter, since a camera may pass a place in either direction.
    """
    frames, earlier = (np.array([getattr(hit, name) for hit in hits]) for name in ("frame", "earlier"))
    kept = []
    for hit in hits:
        near = (np.abs(frames - hit.frame) <= settings.support) & (frames != hit.frame)
        if (near & (np.abs(earlier - hit.earlier) <= settings.window)).any():
            kept.append(hit)
    return kept


def strongest(hits: Sequence[Hit], settings: CandidateSettings) -> list[Hit]:
    """At most ``per_submap`` of the most similar hits, none within the window of another in both frames."""
    chosen: list[Hit] = []
    for hit in sorted(hits, key=lambda hit: (-hit.similarity, hit.frame, hit.earlier)):
        clash = any(
            abs(hit.frame - other.frame) <= settings.window and abs(hit.earlier - other.earlier) <= settings.window
            for other in chosen
        )
        if not clash:
            chosen.append(hit)
    return chosen[: settings.per_submap]
