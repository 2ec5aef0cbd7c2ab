"""Which pairs of frames to match."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product

from recon.sfm.matching import Pair

PAIRS_AROUND = 1000
MOST_ALIKE = 8


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


def most_alike(counts: Mapping[Pair, int], most: int = MOST_ALIKE) -> list[Pair]:
    """The pairs that are among the ``most`` with the highest counts of one of their frames, in the given order."""
    taken: Counter[int] = Counter()
    kept = set()
    for pair in sorted(counts, key=lambda pair: -counts[pair]):
        if any(taken[index] < most for index in pair):
            kept.add(pair)
        taken.update(pair)
    return [pair for pair in counts if pair in kept]
