"""Frames that appear again, in pieces of a map and in resumed runs, have one descriptor and are stored once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.core.errors import UnexpectedError
from recon.core.similarity import Sim3
from recon.core.types import Chunk, ChunkGeometry, Frame, Submap
from recon.pipeline import reconstruct
from recon.settings import RunSettings
from recon.store.archive import load_arrays
from recon.store.map import open_map
from retrieval.recogniser import LoopFinder
from tests.cases.case import picture
from tests.recon.test_pipeline import FRAMES, front_end, photos
from tests.support import ExactFrontEnd, chunk_geometry, frame_of

__all__ = ["front_end", "photos"]
SETTINGS = RunSettings(chunk=5, overlap=2, refine="none")  # three chunks: 0-4, 3-7, 6-9


def textured(indices: Sequence[int]) -> list[Frame]:
    return [replace(frame_of(index), image=picture(index)[::2, ::2]) for index in indices]


def test_a_repeated_frame_keeps_its_first_descriptor_and_submap() -> None:
    finder = LoopFinder()
    for number, indices in enumerate(([0, 1, 2, 3], [2, 3, 4, 5], [4, 5])):
        submap = Submap(number, chunk_geometry(indices, Sim3.identity()), Sim3.identity(), 0.0)
        finder.look(submap, textured(indices), lambda _: {})
    assert finder._index is not None
    assert len(finder._index) == 6
    assert finder._submap_of == {0: 0, 1: 0, 2: 0, 3: 0, 4: 1, 5: 1}


def blind(self: ExactFrontEnd, chunk: Chunk) -> ChunkGeometry:
    """The overlap of the second chunk has no depth, so that nothing determines its place."""
    geometry = ExactFrontEnd.reconstruct(self, chunk)
    if chunk.index != 1:
        return geometry
    none = np.zeros_like(geometry.frames[0].depth)
    overlap = tuple(replace(frame, depth=none) for frame in geometry.frames[:2])
    return ChunkGeometry((*overlap, *geometry.frames[2:]), geometry.points)


def test_frames_of_a_new_piece_are_stored_and_recognised_once_even_after_a_resume(
    photos: Path, tmp_path: Path, front_end: type[ExactFrontEnd]
) -> None:
    front_end.reconstruct = blind  # type: ignore[method-assign]
    whole, finder = tmp_path / "whole", LoopFinder()
    found = reconstruct(str(photos), whole, SETTINGS, recogniser=finder)
    assert any("could not be connected" in notice for notice in found.notices)
    # Two pieces of five frames each, of which the earlier is the map.
    assert [frame.index for frame in open_map(whole).frames] == [0, 1, 2, 3, 4]
    assert [frame.index for frame in found.skipped] == [5, 6, 7, 8, 9]
    stored = [int(index) for path in sorted((whole / "map").glob("submap_*.npz"))
              for index in load_arrays(path)["frame_indices"]]  # fmt: skip
    assert stored == list(range(FRAMES))
    assert [geometry.index for _, geometry in open_map(whole).geometry()] == [0, 1, 2, 3, 4]
    assert finder._submap_of == {0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 1, 6: 1, 7: 1, 8: 2, 9: 2}
    again, killed = LoopFinder(), tmp_path / "killed"
    front_end.interrupt, front_end.ending = "chunk 2", RuntimeError
    front_end.reconstruct = until_the_third  # type: ignore[method-assign]
    with pytest.raises(UnexpectedError):
        reconstruct(str(photos), killed, SETTINGS, recogniser=LoopFinder())
    front_end.interrupt = ""
    reconstruct(str(photos), killed, replace(SETTINGS, resume=True), recogniser=again)
    assert again._submap_of == finder._submap_of
    for one, other in zip(open_map(whole).frames, open_map(killed).frames, strict=True):
        assert one.world_from_cam.isclose(other.world_from_cam, atol=1e-3)


def until_the_third(self: ExactFrontEnd, chunk: Chunk) -> ChunkGeometry:
    if chunk.index == 2 and self.interrupt:
        raise self.ending
    return blind(self, chunk)
