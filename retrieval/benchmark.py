"""Recall of place recognition on a folder in the usual layout of benchmarks.

``database/`` and ``queries/`` hold images whose names state their position: ``@ UTM east @ UTM north @ ...``, as
written by the data set tools of Berton et al. (CVPR 2022). A match is right within 25 m of the query.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.core.errors import SourceError
from retrieval.collection import described, list_images, read_image
from retrieval.describer import Descriptors, PlaceDescriber
from retrieval.index import PlaceIndex
from retrieval.reranking import RERANKED, Reranker

RADIUS = 25.0  # m
RANKS = (1, 5, 10)
TIMED = 10  # images


@dataclass(frozen=True)
class Recall:
    """recall: share of queries with a right image among the first n, by rank n. queries: number of those with a right
    image in the database; left_out: of those without. milliseconds: processor time to describe an image, the mean of a
    few queries.
    """

    recall: dict[int, float]
    queries: int
    left_out: int
    database: int
    milliseconds: float = 0.0


def evaluate_folder(
    folder: Path, describer: PlaceDescriber, ranks: Sequence[int] = RANKS, reranker: Reranker | None = None
) -> Recall:
    """Recall at ``ranks`` of the images in ``folder/queries`` among those in ``folder/database``.

    reranker: orders the first images of each query.

    Raises SourceError for a folder of another layout, and for file names without a position.
    """
    check_layout(folder)
    database, stored = _describe(list_images(folder / "database"), describer)
    asked, queries = _describe(list_images(folder / "queries"), describer)
    index = PlaceIndex(describer.name, describer.dim)
    index.add(range(len(stored)), stored)
    found = index.search(queries, min(max(ranks), len(index))).ids
    if reranker is not None:
        found = np.array([_reranked(path, row, database, reranker) for path, row in zip(asked, found, strict=True)])
    places, wanted = (np.array([utm_of(path) for path in paths]) for paths in (database, asked))
    right = np.linalg.norm(places[None] - wanted[:, None], axis=2) <= RADIUS
    few = [read_image(path) for path in asked[:TIMED]]
    before = time.process_time()
    describer.describe(few)
    return replace(recall_at(found, right, ranks), milliseconds=1000 * (time.process_time() - before) / len(few))


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


def _describe(paths: Sequence[Path], describer: PlaceDescriber) -> tuple[list[Path], Descriptors]:
    """The readable images (n) and their descriptors (n, dim).

    Raises SourceError if there are none, or if a name states no position.
    """
    for path in paths:
        utm_of(path)
    found = list(described(paths, describer))
    if not found:
        raise SourceError(f"No image in {paths[0].parent} can be read.")
    return [path for path, _ in found], np.array([row for _, row in found], dtype=np.float32)


def _reranked(query: Path, found: NDArray[np.int64], database: Sequence[Path], reranker: Reranker) -> NDArray[np.int64]:
    """Rows of the database (k,), of which the first are ordered by the points that they share with a query."""
    first = found[found >= 0][:RERANKED]
    counts = [count or 0 for count in reranker.shared_points(read_image(query), [database[row] for row in first])]
    return np.concatenate([first[np.argsort(np.negative(counts), kind="stable")], found[len(first) :]])
