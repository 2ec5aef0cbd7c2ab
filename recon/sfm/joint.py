"""The joint adjustment of a map that was put together from others: features, matches and bundle adjustment anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from recon.core.types import Camera, Frame, PlacedFrame, SparseModel
from recon.sfm.colmap_file import delete
from recon.sfm.consistency import match_map, refine_map
from recon.sfm.database import MatchDatabase
from recon.sfm.frontend import WINDOW
from recon.sfm.mapping import NO_MODEL
from recon.sfm.matching import Pair, SiftMatcher
from recon.sfm.pairs import window_pairs
from recon.sfm.products import fastest_product

SAME_FOCAL = 0.02  # relative difference of two estimates of a focal length


def adjust_jointly(
    database_path: Path,
    frames: Iterable[Frame],
    placed: Mapping[int, PlacedFrame],
    parts: Sequence[Sequence[int]],
    loops: Sequence[Pair],
) -> SparseModel:
    """Adjust the poses, lenses and points of ``frames``, starting from where they are ``placed``.

    Frames share a lens if their lenses differ as little as estimates of one do. parts: frames, in order, of each of the
    maps; neighbours are matched. loops: pairs to match first. The file at
    ``database_path`` exists only meanwhile. The result is empty if the lenses are of several models, or impossible.
    """
    cameras = {index: frame.camera for index, frame in placed.items()}
    if len({camera.model for camera in cameras.values()}) != 1:
        return NO_MODEL
    lenses = _distinct(cameras.values())
    matcher, model = SiftMatcher(product=fastest_product()), next(iter(cameras.values())).model
    database = MatchDatabase(database_path, matcher, model, None)
    try:
        database.add_all(replace(frame, lens=str(lenses[cameras[frame.index]])) for frame in frames)
        database.lenses.update(cameras)
        for part in parts:
            database.match(window_pairs(list(part), WINDOW))
        poses = {index: frame.cam_from_world for index, frame in placed.items()}
        match_map(database, poses, loops)
        return refine_map(database, poses)
    finally:
        database.close()
        delete(database_path)


def _distinct(cameras: Iterable[Camera]) -> dict[Camera, int]:
    """A number for every lens, the same for estimates of one: of the same size and nearly the same focal length."""
    numbers: dict[Camera, int] = {}
    for camera in cameras:
        same = (number for other, number in numbers.items() if _is_same(camera, other))
        numbers[camera] = numbers.get(camera, next(same, len(numbers)))
    return numbers


def _is_same(one: Camera, other: Camera) -> bool:
    ratio = one.matrix()[0, 0] / other.matrix()[0, 0]
    return (one.width, one.height) == (other.width, other.height) and abs(ratio - 1) <= SAME_FOCAL
