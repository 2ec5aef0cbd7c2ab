"""The joint adjustment of a map that was put together from others: features, matches and bundle adjustment anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from recon.core.types import Frame, PlacedFrame, SparseModel
from recon.sfm.consistency import match_map, refine_map
from recon.sfm.database import MatchDatabase, delete
from recon.sfm.frontend import WINDOW
from recon.sfm.mapping import NO_MODEL
from recon.sfm.matching import Pair, SiftMatcher
from recon.sfm.pairs import window_pairs


def adjust_jointly(
    database_path: Path,
    frames: Iterable[Frame],
    placed: Mapping[int, PlacedFrame],
    parts: Sequence[Sequence[int]],
    loops: Sequence[Pair],
) -> SparseModel:
    """Adjust the poses, lenses and points of ``frames``, starting from where they are ``placed``.

    parts: frames, in order, of each of the maps; neighbours are matched. loops: pairs to match first. The file at
    ``database_path`` exists only meanwhile. The result is empty if the lenses are of several models, or impossible.
    """
    cameras = {index: frame.camera for index, frame in placed.items()}
    if len({camera.model for camera in cameras.values()}) != 1:
        return NO_MODEL
    database = MatchDatabase(database_path, SiftMatcher(), next(iter(cameras.values())).model, None)
    try:
        for frame in frames:
            database.add(frame)
        database.update_cameras(cameras)
        for part in parts:
            database.match(window_pairs(list(part), WINDOW))
        poses = {index: frame.cam_from_world for index, frame in placed.items()}
        match_map(database, poses, loops)
        return refine_map(database, poses)
    finally:
        database.close()
        delete(database_path)
