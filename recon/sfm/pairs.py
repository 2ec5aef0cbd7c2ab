"""Which pairs of frames to match."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product

from recon.sfm.matching import Pair

PAIRS_AROUND = 1000
MOST_ALIKE, APART = 8, 4


def window_pairs(indices: list[int], steps: range | tuple[int, ...]) -> list[Pair]:
    """Pairs of frames ``steps`` places apart."""
    count = len(indices)
    return [(indices[first], indices[first + step]) for step in steps for first in range(count - step)]


def pairs_around(found: Sequence[Pair], reach: int, count: int) -> list[Pair]:
    """At most PAIRS_AROUND pairs, of ``count`` places, within ``reach`` of those found, evenly spread."""
    around = {
        (first + before, second + after)
        for first, second in found
        for before, after in product((-reach, 0, reach), repeat=2)
        if 0 <= first + before < second + after < count
    }
    new = sorted(around.difference(found))
    return new[:: math.ceil(len(new) / PAIRS_AROUND) or 1]


def most_alike(counts: Mapping[Pair, int], most: int = MOST_ALIKE, apart: int = APART) -> list[Pair]:
    """Pairs of each frame with the ``most`` others that have the highest counts, in the given order.

    Pairs are places in the sequence. The others are at least ``apart`` places from each other: neighbours look alike
    and add little, and would leave no room for another visit.
    """
    partners: dict[int, list[int]] = defaultdict(list)
    kept = set()
    for pair in sorted(counts, key=lambda pair: -counts[pair]):
        for frame, other in (pair, pair[::-1]):
            taken = partners[frame]
            if len(taken) < most and all(abs(other - one) >= apart for one in taken):
                taken.append(other)
                kept.add(pair)
    return [pair for pair in counts if pair in kept]
