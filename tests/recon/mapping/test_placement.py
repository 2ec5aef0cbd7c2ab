"""Submaps of one scene, each in its own frame and unit, are joined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.core.similarity import Sim3
from recon.core.types import Chunk, ChunkGeometry, PlacedFrame
from recon.mapping.placement import Placement
from recon.mapping.world import median_depth
from tests.support import chunk_geometry, frame_of, true_pose

FIRST = Sim3(3.0, Rotation.from_rotvec([0.2, 0.5, -0.1]).as_matrix(), np.array([1.0, -4, 2]))
SECOND = Sim3(0.4, Rotation.from_rotvec([-1.0, 0.1, 0.3]).as_matrix(), np.array([7.0, 0, -3]))


def chunk(indices: range, number: int = 0, overlap: int = 0) -> Chunk:
    return Chunk(number, tuple(frame_of(index) for index in indices), overlap)


def map_from_truth(placed: PlacedFrame, chunk_from_world: Sim3) -> Sim3:
    """The pose of the map according to one frame of a chunk; the same for all frames of a consistent map."""
    unit_of_depth = Sim3(chunk_from_world.scale, np.eye(3), np.zeros(3))
    return placed.world_from_cam @ unit_of_depth @ true_pose(placed.index).inverse()


def test_the_first_camera_is_the_origin_and_the_median_depth_the_unit() -> None:
    geometry = chunk_geometry(range(4), FIRST)
    submap, new = Placement().place(chunk(range(4)), geometry)
    assert [frame.index for frame in new] == [0, 1, 2, 3]
    assert submap.residual == 0
    assert (new[2].name, new[2].timestamp) == ("0002.jpg", 1.0)
    np.testing.assert_allclose(new[0].world_from_cam.rotation, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(new[0].world_from_cam.translation, 0, atol=1e-9)
    assert new[0].world_from_cam.scale * median_depth(geometry.frames) == pytest.approx(1, abs=1e-5)
    for frame in new:
        assert map_from_truth(frame, FIRST).isclose(map_from_truth(new[0], FIRST), atol=1e-9)


def test_a_second_chunk_in_another_frame_and_unit_joins_by_the_shared_frames() -> None:
    placement = Placement()
    _, first = placement.place(chunk(range(6)), chunk_geometry(range(6), FIRST))
    submap, second = placement.place(chunk(range(4, 10), 1, 2), chunk_geometry(range(4, 10), SECOND))
    assert [frame.index for frame in second] == [6, 7, 8, 9]
    assert submap.residual < 1e-4
    assert sorted(placement.main) == list(range(10))
    for frame in second:
        assert map_from_truth(frame, SECOND).isclose(map_from_truth(first[0], FIRST), atol=1e-4)


def test_a_chunk_corrects_the_poses_of_earlier_frames() -> None:
    placement = Placement()
    bent = chunk_geometry(range(6), FIRST)
    moved = bent.frames[1].cam_from_chunk.copy()
    moved[:3, 3] += 0.5
    bent = replace(bent, frames=(bent.frames[0], replace(bent.frames[1], cam_from_chunk=moved), *bent.frames[2:]))
    placement.place(chunk(range(6)), bent)
    straight = {frame.index: frame.cam_from_chunk for frame in chunk_geometry(range(10), SECOND).frames}
    second = replace(chunk_geometry(range(4, 10), SECOND), revised={1: straight[1], 77: straight[2]})
    placement.place(chunk(range(4, 10), 1, 2), second)
    assert sorted(placement.main) == list(range(10))
    assert map_from_truth(placement.main[1], FIRST).isclose(map_from_truth(placement.main[0], FIRST), atol=1e-4)


def test_depth_that_is_wrong_in_places_does_not_move_the_chunk() -> None:
    placement = Placement()
    _, first = placement.place(chunk(range(6)), chunk_geometry(range(6), FIRST))
    geometry = chunk_geometry(range(4, 10), SECOND)
    wrong = tuple(
        replace(frame, depth=np.where(np.arange(80) < 24, 3 * frame.depth, frame.depth)) for frame in geometry.frames
    )
    submap, second = placement.place(chunk(range(4, 10), 1, 2), ChunkGeometry(wrong, geometry.points))
    assert map_from_truth(second[0], SECOND).isclose(map_from_truth(first[0], FIRST), atol=1e-2)
    assert submap.residual < 0.05


def test_a_chunk_that_shares_no_frames_starts_a_new_piece() -> None:
    placement = Placement()
    placement.place(chunk(range(3)), chunk_geometry(range(3), FIRST))
    placement.place(chunk(range(3, 8), 1), chunk_geometry(range(3, 8), SECOND))
    assert [sorted(piece) for piece in placement.pieces] == [[0, 1, 2], [3, 4, 5, 6, 7]]
    assert sorted(placement.main) == [3, 4, 5, 6, 7]


def test_submaps_that_move_together_become_one_piece() -> None:
    placement = Placement()
    first, _ = placement.place(chunk(range(3)), chunk_geometry(range(3), FIRST))
    placement.place(chunk(range(3, 8), 1), chunk_geometry(range(3, 8), SECOND))
    true = first.world_from_chunk @ FIRST @ SECOND.inverse()
    placement.move({0: first.world_from_chunk, 1: true})
    (piece,) = placement.pieces
    assert sorted(piece) == list(range(8))
    placement.place(chunk(range(6, 10), 2, overlap=2), chunk_geometry(range(6, 10), FIRST))
    (piece,) = placement.pieces
    whole = map_from_truth(piece[0], FIRST)
    for index, frame in piece.items():
        assert map_from_truth(frame, SECOND if 3 <= index < 8 else FIRST).isclose(whole, atol=1e-3), index


def without_depth(geometry: ChunkGeometry, indices: range) -> ChunkGeometry:
    frames = (
        replace(frame, depth=np.zeros_like(frame.depth)) if frame.index in indices else frame
        for frame in geometry.frames
    )
    return ChunkGeometry(tuple(frames), geometry.points)


def test_a_frame_repeated_in_a_new_piece_stays_where_it_was() -> None:
    placement = Placement()
    _, first = placement.place(chunk(range(6)), chunk_geometry(range(6), FIRST))
    blind = without_depth(chunk_geometry(range(4, 10), SECOND), range(4, 6))
    submap, new = placement.place(chunk(range(4, 10), 1, 2), blind)
    assert [frame.index for frame in new] == [6, 7, 8, 9]
    assert [sorted(piece) for piece in placement.pieces] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]
    before = dict(placement.pieces[0])
    elsewhere = Sim3(2.0, np.eye(3), np.array([5.0, 0, 0])) @ submap.world_from_chunk
    placement.move({1: elsewhere})  # a loop within the second piece
    assert len(placement.pieces) == 2
    assert placement.pieces[0] == before
    _, new = placement.place(chunk(range(8, 12), 2, 2), chunk_geometry(range(8, 12), FIRST))
    assert [frame.index for frame in new] == [10, 11]
    for frame in new:
        assert map_from_truth(frame, FIRST).isclose(map_from_truth(placement.pieces[1][6], SECOND), atol=1e-3)
    true = first[0].world_from_cam @ Sim3(FIRST.scale, np.eye(3), np.zeros(3)) @ true_pose(0).inverse()
    placement.move({0: true @ FIRST.inverse(), 1: true @ SECOND.inverse(), 2: true @ FIRST.inverse()})
    (piece,) = placement.pieces
    assert sorted(piece) == list(range(12))
    for index, frame in piece.items():
        whole = map_from_truth(frame, SECOND if 6 <= index < 10 else FIRST)
        assert whole.isclose(map_from_truth(piece[0], FIRST), atol=1e-3), index


def test_a_chunk_of_known_frames_adds_none() -> None:
    placement = Placement()
    placement.place(chunk(range(4)), chunk_geometry(range(4), FIRST))
    _, new = placement.place(chunk(range(2, 4), 1, 2), without_depth(chunk_geometry(range(2, 4), SECOND), range(2, 4)))
    assert new == ()
    assert sorted(placement.main) == [0, 1, 2, 3]


def test_of_two_equal_pieces_the_earlier_is_the_map() -> None:
    placement = Placement()
    assert placement.main == {}
    placement.place(chunk(range(3)), chunk_geometry(range(3), FIRST))
    placement.place(chunk(range(3, 6), 1), chunk_geometry(range(3, 6), SECOND))
    assert sorted(placement.main) == [0, 1, 2]


def test_shared_frames_without_depth_do_not_place_a_chunk() -> None:
    placement = Placement()
    placement.place(chunk(range(4)), chunk_geometry(range(4), FIRST))
    geometry = chunk_geometry(range(2, 6), SECOND)
    without = tuple(replace(frame, depth=np.zeros_like(frame.depth)) for frame in geometry.frames)
    placement.place(chunk(range(2, 6), 1, 2), ChunkGeometry(without, geometry.points))
    assert len(placement.pieces) == 2
