"""A refined sparse model, transferred to frames with different scales of stored depth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.core.similarity import Array, Sim3
from recon.core.types import PlacedFrame, SparseModel, SparsePoints
from recon.mapping.correction import correct
from recon.store.map import ReconstructedMap
from tests.support import RADIAL, SCALES, make_map, plane_texture, sparse_points

NAMES = {index: (f"image_{index:04d}.jpg", 0.1 * index) for index in range(0, 20, 2)}


def cam_from_world(frame: PlacedFrame) -> Array:
    return Sim3(1.0, frame.world_from_cam.rotation, frame.world_from_cam.translation).inverse().matrix()


def model_of(frames: tuple[PlacedFrame, ...]) -> SparseModel:
    """The exact model of frames of the plane."""
    poses = {frame.index: cam_from_world(frame) for frame in frames}
    return SparseModel(poses, dict.fromkeys(poses, RADIAL), sparse_points(frames))


def disturbed(reconstruction: ReconstructedMap) -> ReconstructedMap:
    """The same map with wrong scales and poses, as chunks may have placed it."""
    frames = tuple(
        replace(frame, world_from_cam=Sim3(1.3, np.eye(3), np.ones(3)) @ frame.world_from_cam)
        for frame in reconstruction.frames
    )
    return replace(reconstruction, frames=frames)


def test_poses_come_from_the_model_and_scales_from_its_points(tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path)
    frames, points, _ = correct(disturbed(reconstruction), model_of(reconstruction.frames), NAMES)
    assert [frame.index for frame in frames] == [0, 2, 4, 6, 8, 10]
    for found, truth, scale in zip(frames, reconstruction.frames, SCALES, strict=True):
        assert (found.name, found.timestamp) == NAMES[truth.index]
        assert found.camera == RADIAL
        np.testing.assert_allclose(found.world_from_cam.rotation, truth.world_from_cam.rotation, atol=1e-9)
        np.testing.assert_allclose(found.world_from_cam.translation, truth.world_from_cam.translation, atol=1e-9)
        assert found.world_from_cam.scale == pytest.approx(scale, rel=2e-3)
    seen = np.unique(points.point_ids)
    difference = np.abs(points.colours[seen].astype(int) - plane_texture(points.positions[seen]))
    assert np.median(difference) < 8  # at most a pixel of the depth map away


def test_points_that_no_frame_saw_are_grey(tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path)
    model = model_of(reconstruction.frames)
    lonely = replace(model.points, positions=np.vstack([model.points.positions, [[0.0, 0, 9]]]))
    _, points, _ = correct(reconstruction, replace(model, points=lonely), NAMES)
    assert points.colours[-1].tolist() == [128, 128, 128]
    assert len(points.colours) == len(points.positions)


def test_a_frame_with_too_few_points_keeps_its_scale(tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path)
    model = model_of(reconstruction.frames)
    sparse = model.points
    rows = np.flatnonzero((sparse.frame_indices != 4) | (np.cumsum(sparse.frame_indices == 4) <= 10))
    few = replace(
        sparse,
        point_ids=sparse.point_ids[rows],
        frame_indices=sparse.frame_indices[rows],
        pixels=sparse.pixels[rows],
    )
    frames, *_ = correct(disturbed(reconstruction), replace(model, points=few), NAMES)
    by_index = {frame.index: frame.world_from_cam.scale for frame in frames}
    assert by_index[4] == pytest.approx(1.3 * SCALES[2])
    assert by_index[6] == pytest.approx(SCALES[3], rel=2e-3)


def test_frames_dropped_by_the_model_go_and_frames_it_added_appear(tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path)
    late = replace(reconstruction.frames[-1], index=12)
    frames, *_ = correct(reconstruction, model_of((*reconstruction.frames[1:], late)), NAMES)
    assert [frame.index for frame in frames] == [2, 4, 6, 8, 10, 12]
    assert frames[-1].name == "image_0012.jpg"
    assert frames[-1].world_from_cam.scale == pytest.approx(1)  # it has no depth yet


def test_depth_of_a_frame_that_only_the_model_placed_gets_its_scale(tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path)
    piece = replace(reconstruction, frames=reconstruction.frames[:3])  # the other frames were a separate piece
    frames, *_ = correct(piece, model_of(reconstruction.frames), NAMES)
    assert [frame.world_from_cam.scale for frame in frames] == pytest.approx(SCALES, rel=2e-3)


def test_a_model_without_points_changes_poses_only(tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path)
    model = replace(model_of(reconstruction.frames), points=SparsePoints.empty())
    frames, points, _ = correct(reconstruction, model, NAMES)
    assert [frame.world_from_cam.scale for frame in frames] == pytest.approx(SCALES)
    assert len(points.positions) == 0
