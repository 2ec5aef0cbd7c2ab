"""Frame and unit of a finished map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.core.similarity import Sim3
from recon.core.types import SparsePoints
from recon.mapping.world import (
    depth_seen,
    final_from_grown,
    median_depth,
    moved,
    typical_depth,
)
from recon.store.finished import finished_world, forget_finished, keep_finished
from recon.store.map import MapStore
from tests.support import chunk_geometry, placed_frame

FRAMES = {index: placed_frame(index) for index in range(4)}
STORED = {found.index: typical_depth(found) for found in chunk_geometry(range(4), Sim3.identity()).frames}
DEPTHS = {index: depth / FRAMES[index].world_from_cam.scale for index, depth in STORED.items()}
ELSEWHERE = Sim3(1.7e4, Rotation.from_euler("xyz", [0.3, -1, 2]).as_matrix(), np.array([5.0, -3, 8]))


def test_the_median_depth_becomes_1_whatever_the_map_grew_in() -> None:
    for grown in (Sim3.identity(), ELSEWHERE):
        frames = {index: moved(frame, grown) for index, frame in FRAMES.items()}
        change = final_from_grown(frames, DEPTHS, {})
        final = {index: moved(frame, change) for index, frame in frames.items()}
        assert np.median(list(depth_seen(final, DEPTHS).values())) == pytest.approx(1)


def test_an_extended_map_keeps_the_world_of_the_finished_one() -> None:
    earlier = {index: FRAMES[index].world_from_cam for index in (0, 1, 2)}
    frames = {index: moved(frame, ELSEWHERE) for index, frame in FRAMES.items()}
    change = final_from_grown(frames, DEPTHS, earlier)
    for index, frame in frames.items():
        np.testing.assert_allclose(
            moved(frame, change).world_from_cam.matrix(), FRAMES[index].world_from_cam.matrix(), atol=1e-8
        )


def test_without_depth_the_map_is_unchanged() -> None:
    assert final_from_grown(FRAMES, dict.fromkeys(FRAMES, 0.0), {}).scale == 1


def test_typical_depth_prefers_confident_depth() -> None:
    (found,) = chunk_geometry([0], Sim3.identity()).frames
    unsure = np.where(np.arange(found.depth.shape[0])[:, None] < 30, np.float32(0.2), np.float32(0.9))
    mixed = replace(
        found,
        depth=np.where(unsure < 0.5, np.float32(9), np.float32(2)),
        confidence=np.broadcast_to(unsure, found.depth.shape),
    )
    assert typical_depth(mixed) == 2
    assert typical_depth(replace(mixed, depth=np.zeros_like(found.depth))) == 0


def test_the_finished_world_survives_a_run_that_is_killed(tmp_path: Path) -> None:
    assert finished_world(tmp_path) == {}
    store = MapStore(tmp_path)
    frames = tuple(FRAMES.values())
    store.write_places(frames, (), SparsePoints.empty(), complete=False)
    assert finished_world(tmp_path) == {}
    store.write_places(frames, (), SparsePoints.empty(), complete=True)
    first = finished_world(tmp_path)
    keep_finished(store.ledger, first)
    store.write_places(frames[:1], (), SparsePoints.empty(), complete=False)  # the resumed run, killed
    again = finished_world(tmp_path)
    assert sorted(again) == sorted(first) == [0, 1, 2, 3]
    np.testing.assert_allclose(again[3].matrix(), FRAMES[3].world_from_cam.matrix(), atol=1e-12)
    forget_finished(store.ledger)
    assert finished_world(tmp_path) == {}


def test_median_depth_is_1_where_there_is_none() -> None:
    frame = chunk_geometry(range(1), Sim3.identity()).frames[0]
    assert median_depth(()) == 1
    assert median_depth((replace(frame, depth=np.zeros_like(frame.depth)),)) == 1
    assert median_depth((frame,)) == pytest.approx(np.median(frame.depth[frame.depth > 0]))
