"""Sparse points of images whose poses and lenses are known, and whether the images agree with these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from recon.core.types import Frame, PlacedFrame, SparseModel, SparsePoints
from recon.sfm.colmap_file import delete
from recon.sfm.consistency import CLEAR_INLIERS, fitting, match_map
from recon.sfm.database import MatchDatabase
from recon.sfm.frontend import WINDOW
from recon.sfm.mapping import EFFORTS, map_frames
from recon.sfm.matching import Pair, SiftMatcher
from recon.sfm.pairs import window_pairs
from recon.sfm.products import fastest_product


def triangulate(
    database_path: Path, frames: Iterable[Frame], placed: Mapping[int, PlacedFrame]
) -> tuple[SparsePoints, float | None]:
    """Points of SIFT features in ``frames``, whose poses and lenses are those ``placed``, empty if none fit; and the
    agreement of the images with the poses, see ``agreement``.

    Lenses must be of one model. The file at ``database_path`` exists only meanwhile.
    """
    with _matched(database_path, frames, placed, window_pairs(sorted(placed), WINDOW)) as database:
        agreed = _agreement(database, placed)
        poses = {index: frame.cam_from_world for index, frame in placed.items()}
        match_map(database, poses, [])
        return map_frames(database, sorted(placed), poses, EFFORTS[0]).points, agreed


def agreement(
    database_path: Path, frames: Iterable[Frame], placed: Mapping[int, PlacedFrame], pairs: Sequence[Pair]
) -> float | None:
    """Share of the matches between images that fit the poses and lenses, the median over the pairs that match clearly;
    None if none does. Arguments as for ``triangulate``.
    """
    with _matched(database_path, frames, placed, pairs) as database:
        return _agreement(database, placed)


@contextmanager
def _matched(
    path: Path, frames: Iterable[Frame], placed: Mapping[int, PlacedFrame], pairs: Sequence[Pair]
) -> Iterator[MatchDatabase]:
    """A database of the frames in which these pairs are matched."""
    cameras = {index: frame.camera for index, frame in placed.items()}
    numbers = {camera: str(number) for number, camera in enumerate(dict.fromkeys(cameras.values()))}
    database = MatchDatabase(path, SiftMatcher(product=fastest_product()), next(iter(numbers)).model, None)
    try:
        database.add_all(replace(frame, lens=numbers[cameras[frame.index]]) for frame in frames)
        database.lenses.update(cameras)
        database.match(pairs)
        yield database
    finally:
        database.close()
        delete(path)


def _agreement(database: MatchDatabase, placed: Mapping[int, PlacedFrame]) -> float | None:
    poses = {index: frame.cam_from_world for index, frame in placed.items()}
    model = SparseModel(poses, {index: frame.camera for index, frame in placed.items()}, SparsePoints.empty())
    clear = [pair for pair in database.verified_pairs(list(placed)) if database.inliers(*pair) >= CLEAR_INLIERS]
    return float(np.median([fitting(database, model, pair) for pair in clear])) if clear else None
