"""Recall of place recognition on a folder in the usual layout of benchmarks.

``database/`` and ``queries/`` hold images whose names state their position: ``@ UTM east @ UTM north @ ...``, as
written by the data set tools of Berton et al. (CVPR 2022). A match is right within 25 m of the query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.core.errors import SourceError
from retrieval.collection import described, list_images
from retrieval.describer import Descriptors, PlaceDescriber
from retrieval.index import PlaceIndex

RADIUS = 25.0  # m
RANKS = (1, 5, 10)


@dataclass(frozen=True)
class Recall:
    """recall: share of queries with a right image among the first n, by rank n. queries: number of those with a right
    image in the database; left_out: of those without.
    """

    recall: dict[int, float]
    queries: int
    left_out: int
    database: int


def evaluate_folder(folder: Path, describer: PlaceDescriber, ranks: Sequence[int] = RANKS) -> Recall:
    """Recall at ``ranks`` of the images in ``folder/queries`` among those in ``folder/database``.

    Raises SourceError for a folder of another layout, and for file names without a position.
    """
    check_layout(folder)
    places, stored = _describe(list_images(folder / "database"), describer)
    wanted, queries = _describe(list_images(folder / "queries"), describer)
    index = PlaceIndex(describer.name, describer.dim)
    index.add(range(len(stored)), stored)
    found = index.search(queries, min(max(ranks), len(index))).ids
    right = np.linalg.norm(places[None] - wanted[:, None], axis=2) <= RADIUS
    return recall_at(found, right, ranks)


def check_layout(folder: Path) -> None:
    """Raise SourceError unless a folder has both subfolders."""
    for name in ("database", "queries"):
        if not (folder / name).is_dir():
            raise SourceError(f"{folder} has no folder {name}. It must hold database/ and queries/ with UTM in names.")


def recall_at(found: NDArray[np.int64], right: NDArray[np.bool_], ranks: Sequence[int]) -> Recall:
    """Recall from rows of the database (queries, k), best first, and which rows are right (queries, database)."""
    answerable = right.any(axis=1)
    hit = np.take_along_axis(right, np.maximum(found, 0), axis=1) & (found >= 0)
    count = int(answerable.sum())
    recall = {rank: float(hit[answerable, :rank].any(axis=1).mean()) if count else 0.0 for rank in ranks}
    return Recall(recall, count, len(right) - count, right.shape[1])


def utm_of(path: Path) -> tuple[float, float]:
    """East and north [m] from a file name. Raises SourceError if it has none."""
    parts = path.name.split("@")
    try:
        return float(parts[1]), float(parts[2])
    except (IndexError, ValueError) as error:
        raise SourceError(
            f"{path} does not state where it was taken. Names must begin with @ UTM east @ UTM north @."
        ) from error


def _describe(paths: Sequence[Path], describer: PlaceDescriber) -> tuple[NDArray[np.float64], Descriptors]:
    """Positions (n, 2) and descriptors (n, dim) of the readable images."""
    positions, rows = [], []
    for path, descriptor in described(paths, describer):
        positions.append(utm_of(path))
        rows.append(descriptor)
    if not rows:
        raise SourceError(f"No image in {paths[0].parent} can be read.")
    return np.array(positions), np.array(rows, dtype=np.float32)
