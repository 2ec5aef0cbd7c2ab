"""Whether two parts of a map hang together by too few points, so that nothing fixes how they lie to each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from recon.core.types import PlacedFrame, SparsePoints

SMALLEST_PART = 3  # frames
FEWEST_JOINING = 20  # points; at least 71 in right maps, at most 12 in maps of two places that were joined wrongly
FEWEST_SHARED = 25  # points that two frames of one part share


def weakest_joint(frames: Sequence[PlacedFrame], points: SparsePoints) -> tuple[list[PlacedFrame], int] | None:
    """The smaller of two parts that fewer than FEWEST_JOINING points join, and their number; None if there is none.

    A point joins two parts if it is seen at least twice in each, so that each part alone can triangulate it. The
    sequence is cut where the fewest points are seen from both sides, after frames that share many points have been
    moved together.
    """
    seen = _sightings(frames, points)
    observed = np.flatnonzero(seen.sum(axis=1))
    order = observed[_grouped(seen[observed])]
    tracks = _tracks(seen[order])
    inner = slice(SMALLEST_PART - 1, len(order) - SMALLEST_PART)
    across = _spanning(tracks, len(order), 1)[inner]
    if not len(across):
        return None
    weakest = int(across.argmin())
    joining = int(_spanning(tracks, len(order), 2)[inner][weakest])
    if joining >= FEWEST_JOINING:
        return None
    cut = weakest + SMALLEST_PART
    return [frames[row] for row in sorted(order[:cut] if 2 * cut <= len(order) else order[cut:])], joining


def pieces(frames: Sequence[PlacedFrame], points: SparsePoints) -> list[list[PlacedFrame]]:
    """Groups of frames that hang together by points, in the order of their first frames: frames of two groups share
    fewer than FEWEST_SHARED.

    A group of fewer than SMALLEST_PART frames goes with the largest one. All frames of a map without points are one.
    """
    if not len(points.positions):
        return [list(frames)]
    group = _groups(_sightings(frames, points))
    return [[frames[row] for row in np.flatnonzero(group == one).tolist()] for one in dict.fromkeys(group.tolist())]


def _sightings(frames: Sequence[PlacedFrame], points: SparsePoints) -> csr_array:
    """1 where a frame (row) sees a point (column)."""
    rows = {frame.index: row for row, frame in enumerate(frames)}
    known = np.isin(points.frame_indices, list(rows))
    where = np.array([rows[index] for index in points.frame_indices[known].tolist()], dtype=np.int64)
    shape = len(frames), len(points.positions)
    return csr_array((np.ones(len(where), dtype=np.int32), (where, points.point_ids[known])), shape=shape)


def _grouped(seen: csr_array) -> NDArray[np.int64]:
    """Order (frames,) of the rows in which the frames of a group follow each other."""
    return np.argsort(_groups(seen), kind="stable")


def _groups(seen: csr_array) -> NDArray[np.int64]:
    """The group (frames,) of each row. Groups of fewer than SMALLEST_PART frames count as frames of the largest one."""
    _, group = connected_components(seen @ seen.T >= FEWEST_SHARED, directed=False)
    sizes = np.bincount(group)
    return np.where(sizes[group] < SMALLEST_PART, sizes.argmax(), group)


def _tracks(seen: csr_array) -> list[NDArray[np.int64]]:
    """The rows, in order, that see each point (column)."""
    columns = seen.tocsc()
    return [np.sort(rows) for rows in np.split(columns.indices, columns.indptr[1:-1])]


def _spanning(tracks: Sequence[NDArray[np.int64]], count: int, sightings: int) -> NDArray[np.int64]:
    """Number (count - 1,) of tracks with at least ``sightings`` up to each row, and as many after it."""
    changes = np.zeros(count, dtype=np.int64)
    for rows in tracks:
        if len(rows) >= 2 * sightings:
            changes[rows[sightings - 1]] += 1
            changes[rows[-sightings]] -= 1
    return np.cumsum(changes)[:-1]
