"""Selects features for the joint adjustment, so that its memory does not grow with the length of the sequence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recon.core.similarity import Array
from recon.sfm.database import MatchDatabase

FEWEST_PER_FRAME = 60
CELLS = 8  # along either side of an image

Rows = NDArray[np.int64]


def select_features(
    database: MatchDatabase, frames: list[int], observations: int, *, fewest_pairs: int = 2
) -> dict[int, Rows]:
    """Rows of the features to keep in every frame: those matched in the most pairs, spread over the image.

    observations: approximate total. fewest_pairs: smallest number of pairs in which a feature must be matched. A point
    of two rays adds little to a map with good poses, but a frame with few matches needs it.
    """
    limit = max(FEWEST_PER_FRAME, observations // len(frames))
    counts = database.times_matched(frames)
    return {index: choose(database.positions(index), counts[index], limit, fewest_pairs) for index in frames}


def choose(positions: Array, counts: Rows, limit: int, fewest: int = 2) -> Rows:
    """At most ``limit`` rows of positions (n, 2) with counts of at least ``fewest``, taken from the grid cells in turn,
    the highest counts first."""
    rows = np.flatnonzero(counts >= fewest)
    rows = rows[np.argsort(-counts[rows], kind="stable")]
    if len(rows) <= limit:
        return np.sort(rows)
    spans = np.maximum(np.ptp(positions[rows], axis=0), 1e-9)
    columns = np.minimum((positions[rows] - positions[rows].min(axis=0)) / spans * CELLS, CELLS - 1).astype(np.int64)
    turns = _places_in_group(columns[:, 0] * CELLS + columns[:, 1])
    return np.sort(rows[np.argsort(turns, kind="stable")[:limit]])


def _places_in_group(groups: Rows) -> Rows:
    """The position of each element within its group, counted from 0 in the given order."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    places = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    return np.asarray(places[np.argsort(order, kind="stable")])
