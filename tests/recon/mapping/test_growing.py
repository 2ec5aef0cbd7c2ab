"""The growing map, with exact geometry and a store in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.core.announcer import Announcer
from recon.core.events import ChunkReconstructed, Event, Notice, PosesCorrected
from recon.core.places import LoopRecord
from recon.core.similarity import Sim3
from recon.core.types import (
    Chunk,
    ChunkGeometry,
    FrameGeometry,
    PlacedFrame,
    SparsePoints,
    Submap,
)
from recon.mapping.growing import GrowingMap, contradiction
from tests.support import chunk_geometry, frame_of, placed_frame, sparse_points, true_pose


class Memory:
    """The frames that each submap added, and earlier frames with different depth in it."""

    def __init__(self) -> None:
        self.written: list[tuple[int, set[int], list[int]]] = []

    def write_submap(self, submap: Submap, new_frames: set[int], other_frames: Sequence[FrameGeometry] = ()) -> None:
        self.written.append((submap.index, new_frames, [frame.index for frame in other_frames]))

    def read_submap(self, number: int, placed: Mapping[int, PlacedFrame]) -> Mapping[int, FrameGeometry]:
        raise AssertionError("no loops are closed here")


@pytest.fixture
def grown(tmp_path: Path) -> tuple[GrowingMap, Memory, list[Event]]:
    events: list[Event] = []
    memory = Memory()
    return GrowingMap(memory, Announcer(tmp_path, [events.append])), memory, events


def chunk_of(number: int, indices: range) -> Chunk:
    return Chunk(number, tuple(frame_of(index) for index in indices), 0)


def grow(grown: GrowingMap, number: int, indices: range, scale: float = 1.0) -> Submap | None:
    chunk_from_world = Sim3(scale, np.eye(3), np.array([scale, 0, 0]))
    return grown.add(chunk_of(number, indices), chunk_geometry(indices, chunk_from_world))


def test_chunks_become_one_map_and_go_to_the_store(grown: tuple[GrowingMap, Memory, list[Event]]) -> None:
    map_, memory, events = grown
    grow(map_, 0, range(5))
    second = grow(map_, 1, range(3, 8), scale=2.0)
    assert second is not None
    assert second.residual < 1e-3
    assert [frame.index for frame in map_.frames] == list(range(8))
    assert memory.written == [(0, {0, 1, 2, 3, 4}, []), (1, {5, 6, 7}, [3, 4])]
    assert [type(event) for event in events] == [ChunkReconstructed, ChunkReconstructed]
    assert map_.warnings().keys() == {0, 1}


def test_a_chunk_without_poses_adds_nothing(grown: tuple[GrowingMap, Memory, list[Event]]) -> None:
    map_, memory, events = grown
    assert map_.add(chunk_of(0, range(5)), ChunkGeometry((), SparsePoints.empty())) is None
    assert (map_.frames, memory.written, events) == ((), [], [])


def test_chunks_that_share_nothing_are_pieces_and_the_largest_is_the_map(
    grown: tuple[GrowingMap, Memory, list[Event]],
) -> None:
    map_, _, events = grown
    grow(map_, 0, range(2))
    grow(map_, 1, range(5, 9))
    grow(map_, 2, range(7, 9))
    assert [frame.index for frame in map_.frames] == [5, 6, 7, 8]
    assert [event.piece for event in events if isinstance(event, ChunkReconstructed)] == [0, 1, 1]
    assert [event.text for event in events if isinstance(event, Notice)] == [
        "Frames 0005.jpg to 0008.jpg could not be connected with the frames before; trying again later."
    ]


@pytest.mark.parametrize(("chunks", "told"), [((range(8),), 1), ((range(8), range(6, 10)), 0)])
def test_a_jump_of_scale_in_the_only_submap_is_one_in_the_map(
    grown: tuple[GrowingMap, Memory, list[Event]], chunks: tuple[range, ...], told: int
) -> None:
    for number, indices in enumerate(chunks):
        geometry = chunk_geometry(indices, Sim3.identity())
        farther = tuple(
            replace(frame, depth=frame.depth * np.float32(1.5)) if frame.index >= 4 else frame
            for frame in geometry.frames
        )
        grown[0].add(chunk_of(number, indices), replace(geometry, frames=farther))
    found = [sentence for sentence in grown[0].examine() if sentence.startswith("the scale jumps by")]
    assert [sentence.rpartition(" before frame ")[2] for sentence in found] == ["4"] * told


def test_loops_that_the_map_contradicts_are_a_doubt() -> None:
    placed = {index: placed_frame(index) for index in range(6)}
    loops = [
        LoopRecord(frame, earlier, 0, 1, 0.7, inliers, 0.002, 9.0, 0.0, "rejected", "it bends the map")
        for frame, earlier, inliers in ((5, 0, 40), (4, 1, 90), (3, 2, 60), (9, 1, 99))  # frame 9 has no place
    ]
    (sentence,) = contradiction(loops, placed)
    assert sentence.startswith("the path contradicts 3 recognised places that agree with each other, such as 0001.jpg")
    assert "and 0004.jpg: either the two places only look alike" in sentence
    assert contradiction(loops[1:], placed) == ()


def test_a_settled_map_has_unit_depth_or_keeps_its_earlier_world(
    grown: tuple[GrowingMap, Memory, list[Event]],
) -> None:
    map_, _, events = grown
    grow(map_, 0, range(5), scale=3.0)
    map_.adjust([placed_frame(index) for index in range(5)], sparse_points((placed_frame(0),)))
    earlier = {index: Sim3(2.0, np.eye(3), np.zeros(3)) @ true_pose(index) for index in range(5)}
    map_.settle(earlier)
    for frame in map_.frames:
        np.testing.assert_allclose(frame.world_from_cam.translation, earlier[frame.index].translation, atol=1e-9)
    assert np.abs(map_.points.positions[:, 2]).max() == pytest.approx(8.0)
    assert isinstance(events[-1], PosesCorrected)
