"""Images that are mirrored left to right, unlike the others of the sequence.

No camera sees both a place and its mirror image, but details that look alike either way match, and a mapper finds a
place for the image.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from recon.core.types import Frame
from recon.sfm.database import MatchDatabase
from recon.sfm.matching import Features, Matcher
from recon.sfm.stored_features import rows_of
from recon.sfm.verification import FEWEST_MATCHES, verify

WEAK = 0.3  # of the usual matches between neighbours; pairs with fewer are examined
ALIKE = 0.7  # of the usual matches; a mirrored neighbour has as many, a symmetric facade at most half
CLEARLY_MORE = 10.0  # times as many matches if one image is mirrored: about 30, and less than 1 if none is


def find_mirrored(
    database: MatchDatabase, matcher: Matcher, frames: Sequence[Frame], overlap: int, known: Collection[int]
) -> set[int]:
    """Indices of the frames of a chunk that are mirrored compared with those before, or else with most others.

    overlap: number of frames at the start that the chunk shares with the one before. known: those of them that are
    mirrored.
    """
    counts = [database.inliers(first.index, second.index) for first, second in pairwise(frames)]
    usual = float(np.median([count for count in counts if count] or [0]))
    mirrored = [frames[0].index in known]
    for pair, count in zip(pairwise(frames), counts, strict=True):
        if len(mirrored) < overlap:
            mirrored.append(pair[1].index in known)
        else:
            turned = count < WEAK * usual and _are_mirrored(database, matcher, pair, ALIKE * usual)
            mirrored.append(mirrored[-1] ^ turned)
    if not overlap and 2 * sum(mirrored) > len(frames):
        mirrored = [not other for other in mirrored]
    return {frame.index for frame, other in zip(frames, mirrored, strict=True) if other}


def _are_mirrored(database: MatchDatabase, matcher: Matcher, pair: tuple[Frame, Frame], least: float) -> bool:
    """Whether two frames match much better if one is mirrored."""
    first, second = (database.features(frame.index) for frame in pair)
    as_they_are = max(FEWEST_MATCHES, _count(database, matcher, pair, (first, second)))
    turned = _count(database, matcher, pair, (first, matcher.describe(flipped(pair[1]))))
    return turned >= max(least, CLEARLY_MORE * as_they_are)


def flipped(frame: Frame) -> Frame:
    """The frame mirrored left to right."""
    return replace(
        frame, image=np.ascontiguousarray(frame.image[:, ::-1]), mask=np.ascontiguousarray(frame.mask[:, ::-1])
    )


def _count(
    database: MatchDatabase, matcher: Matcher, pair: tuple[Frame, Frame], features: tuple[Features, Features]
) -> int:
    """Verified matches of a pair."""
    indices = [frame.index for frame in pair]
    lenses = database.lenses[indices[0]], database.lenses[indices[1]]
    matches = rows_of(matcher.match(*features), *features)
    return len(verify(matches, features, lenses, database.pixel_scale(indices), None).inlier_matches)
