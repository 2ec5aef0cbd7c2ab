"""Sparse points of images whose poses and lenses are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from recon.core.types import Frame, PlacedFrame, SparsePoints
from recon.sfm.consistency import match_map
from recon.sfm.database import MatchDatabase, delete
from recon.sfm.frontend import WINDOW
from recon.sfm.mapping import EFFORTS, map_frames
from recon.sfm.matching import SiftMatcher
from recon.sfm.pairs import window_pairs


def triangulate(database_path: Path, frames: Iterable[Frame], placed: Mapping[int, PlacedFrame]) -> SparsePoints:
    """Points of SIFT features in ``frames``, whose poses and lenses are those ``placed``; empty if none fit.

    Lenses must be of one model. The file at ``database_path`` exists only meanwhile.
    """
    cameras = {index: frame.camera for index, frame in placed.items()}
    numbers = {camera: str(number) for number, camera in enumerate(dict.fromkeys(cameras.values()))}
    database = MatchDatabase(database_path, SiftMatcher(), next(iter(numbers)).model, None)
    try:
        for frame in frames:
            database.add(replace(frame, lens=numbers[cameras[frame.index]]))
        database.update_cameras(cameras)
        poses = {index: frame.cam_from_world for index, frame in placed.items()}
        database.match(window_pairs(sorted(placed), WINDOW))
        match_map(database, poses, [])
        return map_frames(database, sorted(placed), poses, EFFORTS[0]).points
    finally:
        database.close()
        delete(database_path)
