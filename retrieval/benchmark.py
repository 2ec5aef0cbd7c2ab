"""Recall of place recognition on a folder in the usual layout of benchmarks.

``database/`` and ``queries/`` hold images whose names state their position: ``@ UTM east @ UTM north @ ...``, as
written by the data set tools of Berton et al. (CVPR 2022). A match is right within 25 m of the query.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.core.errors import SourceError
from retrieval.collection import Match, list_images, read_image
from retrieval.place_search import PlaceSearch

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


def evaluate_folder(folder: Path, search: PlaceSearch, ranks: Sequence[int] = RANKS) -> Recall:
    """Recall at ``ranks`` of the images in ``folder/queries`` by a search in the collection of ``folder/database``.

    Raises SourceError for a folder of another layout, for file names without a position, and if no query can be read.
    """
    check_layout(folder)
    database = search.collection.paths
    rows = {path: row for row, path in enumerate(database)}
    answers = list(_answers(search, list_images(folder / "queries"), max(ranks)))
    if not answers:
        raise SourceError(f"No image in {folder / 'queries'} can be read.")
    asked = [path for path, _ in answers]
    places, wanted = (np.array([utm_of(path) for path in paths]) for paths in (database, asked))
    right = np.linalg.norm(places[None] - wanted[:, None], axis=2) <= RADIUS
    found = np.array([[rows[match.path] for match in matches] for _, matches in answers])
    few = [read_image(path) for path in asked[:TIMED]]
    before = time.process_time()
    search.collection.describer.describe(few)
    return replace(recall_at(found, right, ranks), milliseconds=1000 * (time.process_time() - before) / len(few))


def check_layout(folder: Path) -> None:
    """Raise SourceError unless a folder has both subfolders, and all names of images in them state a position."""
    for name in ("database", "queries"):
        if not (folder / name).is_dir():
            raise SourceError(f"{folder} has no folder {name}. It must hold database/ and queries/ with UTM in names.")
    for path in (*list_images(folder / "database"), *list_images(folder / "queries")):
        utm_of(path)


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


def _answers(search: PlaceSearch, queries: Sequence[Path], count: int) -> Iterator[tuple[Path, list[Match]]]:
    """The queries that can be read, and their answers."""
    for path in queries:
        try:
            image = read_image(path)
        except SourceError:
            continue
        yield path, search.query(image, count).matches
