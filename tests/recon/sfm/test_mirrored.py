"""Mirrored images among others are found and take no part in the map."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from recon.core.refusal import Hindrance
from recon.core.types import Chunk
from recon.sfm.database import MatchDatabase
from recon.sfm.frontend import SfmSettings, StructureFromMotion
from recon.sfm.mirrored import find_mirrored, flipped
from recon.sfm.pairs import window_pairs
from tests.recon.sfm.conftest import SIFT, read_frame
from tests.recon.sfm.test_frontend import FlatDepth

FRAMES = 10
SETTINGS = SfmSettings(depth_stage=FlatDepth(), depth_size=64, matcher=SIFT)


def chunk(mirrored: Collection[int], overlap: int = 0) -> Chunk:
    frames = [read_frame(index) for index in range(FRAMES)]
    return Chunk(0, tuple(flipped(frame) if frame.index in mirrored else frame for frame in frames), overlap)


@pytest.mark.parametrize(
    ("mirrored", "overlap", "known", "expected"),
    [
        ((), 0, (), ()),
        ((4, 8), 0, (), (4, 8)),
        ((0, 1), 0, (), (0, 1)),
        (range(3, 10), 0, (), (0, 1, 2)),  # the fewer ones
        (range(5, 10), 0, (), range(5, 10)),  # the later half
        (range(3, 10), 3, (), range(3, 10)),  # unlike those before
        (range(10), 3, (0, 1, 2), range(10)),
        (range(6), 3, (0, 1, 2), range(6)),
    ],
)
def test_mirrored_frames_are_found(
    tmp_path: Path, mirrored: Collection[int], overlap: int, known: Collection[int], expected: Collection[int]
) -> None:
    database = MatchDatabase(tmp_path / "features.db", SIFT, "SIMPLE_RADIAL", None)
    frames = chunk(mirrored, overlap).frames
    for frame in frames:
        database.add(frame)
    database.match(window_pairs([frame.index for frame in frames], (1,)))
    assert find_mirrored(database, SIFT, frames, overlap, known) == set(expected)


def test_mirrored_frames_have_no_place_and_a_reason(tmp_path: Path) -> None:
    front_end = StructureFromMotion(tmp_path, SETTINGS, lambda _: None)
    made = front_end.reconstruct(chunk((3, 7)))
    assert [frame.index for frame in made.frames] == [0, 1, 2, 4, 5, 6, 8, 9]
    assert made.unplaced == {3: Hindrance.MIRRORED.unplaced, 7: Hindrance.MIRRORED.unplaced}
    assert front_end.memory()["mirrored"] == [3, 7]
    assert not {3, 7}.intersection(*zip(*front_end.database.verified_pairs(range(FRAMES)), strict=True))
    again = StructureFromMotion(tmp_path, SETTINGS, lambda _: None, finished=range(FRAMES))
    again.recall(chunk((3, 7)), made, front_end.memory())
    assert again.memory()["mirrored"] == [3, 7]
