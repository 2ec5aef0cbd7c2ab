"""Depth and cloud compared with true depth, on the exact map of a plane with a reference in another frame and scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image as PillowImage
from scipy.spatial.transform import Rotation

from recon.core.errors import MapError, SettingsError, SourceError
from recon.core.similarity import Array, Sim3
from recon.core.types import Camera, FrameGeometry
from recon.evaluate.depth import (
    TrueDepth,
    depth_at_truth,
    evaluate_cloud,
    evaluate_depth,
    find_true_depth,
    image_rays,
    true_surface,
)
from recon.exports.ply import write_ply
from recon.exports.trajectory import Trajectory
from recon.store.map import ReconstructedMap
from tests.support import FISHEYE, OPENCV, PLANE_DEPTH, RADIAL, make_map, true_depth

PINHOLE = Camera("PINHOLE", 160, 120, (140.0, 140.0, 80.0, 60.0))
REFERENCE_FROM_WORLD = Sim3(2.0, Rotation.from_rotvec([0.3, -0.5, 0.2]).as_matrix(), np.array([3.0, -1, 2]))


def write_depth(path: Path, depth: Array, scale: float = 1000) -> None:
    PillowImage.fromarray(np.round(scale * depth).astype(np.uint16)).save(path)


def write_truth(folder: Path, reconstruction: ReconstructedMap, size: tuple[int, int] = (120, 90)) -> TrueDepth:
    """True depth of every frame in the reference's unit, named as in 7-Scenes."""
    folder.mkdir()
    for frame in reconstruction.frames:
        depth = REFERENCE_FROM_WORLD.scale * true_depth(frame, size)
        write_depth(folder / f"frame-{frame.index:06d}.depth.png", depth)
    return find_true_depth(folder)


@pytest.mark.parametrize("camera", [PINHOLE, RADIAL, OPENCV, FISHEYE])
@pytest.mark.parametrize("size", [(160, 120), (91, 77)])
def test_exact_depth_has_no_error_whatever_lens_and_resolution(
    tmp_path: Path, camera: Camera, size: tuple[int, int]
) -> None:
    reconstruction = make_map(tmp_path, cameras=(camera,))
    found = evaluate_depth(reconstruction, write_truth(tmp_path / "depth", reconstruction, size), REFERENCE_FROM_WORLD)
    assert found.frames == 6
    assert found.median_error < 1e-3  # the error of rounding to a depth pixel and to half precision
    assert found.median_error_frame_scaled < 1e-3
    assert found.kept > 0.8


def test_a_map_of_the_wrong_scale_shows_only_without_scaling_the_frames(tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path)
    truth = write_truth(tmp_path / "depth", reconstruction)
    larger = Sim3(1.1 * REFERENCE_FROM_WORLD.scale, REFERENCE_FROM_WORLD.rotation, REFERENCE_FROM_WORLD.translation)
    found = evaluate_depth(reconstruction, truth, larger)
    assert found.median_error == pytest.approx(0.1, abs=1e-3)
    assert found.median_error_frame_scaled < 1e-3


def test_kept_is_the_share_of_pixels_with_truth(tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path, cameras=(PINHOLE,))
    truth = write_truth(tmp_path / "depth", reconstruction, (160, 120))
    # The map's depth lacks the upper two of its 60 rows.
    assert evaluate_depth(reconstruction, truth, REFERENCE_FROM_WORLD).kept == pytest.approx(58 / 60)
    for path in truth.paths.values():
        lower_half = np.array(PillowImage.open(path))
        lower_half[:60] = 0
        write_depth(path, lower_half, 1)
    assert evaluate_depth(reconstruction, truth, REFERENCE_FROM_WORLD).kept == 1


def test_unplaced_frames_count_as_not_kept_and_unread_frames_do_not_count(tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path, cameras=(PINHOLE,), scales=(1.0,))
    truth = write_truth(tmp_path / "depth", reconstruction, (160, 120))
    for index in (1, 17):  # 1 was skipped, 17 is none of the run's frames
        write_depth(tmp_path / "depth" / f"{index}.png", np.full((120, 160), 5.0))
    found = evaluate_depth(reconstruction, find_true_depth(tmp_path / "depth"), REFERENCE_FROM_WORLD)
    assert found.kept == pytest.approx(0.5 * 58 / 60)
    assert found.frames == len(truth.paths) + 1


@pytest.mark.parametrize("camera", [PINHOLE, RADIAL, OPENCV, FISHEYE])
def test_true_pixels_are_compared_with_stored_pixels_of_the_same_ray(camera: Camera) -> None:
    """The stored depth is 2 plus the ray's x, so the result shows which ray was looked up."""
    intrinsics = np.array([[70.0, 0, 40], [0, 70, 30], [0, 0, 1]])
    x = (np.arange(80) + 0.5 - 40) / 70
    depth = np.tile(2 + x, (60, 1)).astype(np.float32)
    none = np.zeros((60, 80, 3), np.uint8)
    geometry = FrameGeometry(0, np.eye(4), camera, intrinsics, depth, np.ones_like(depth), none)
    found = depth_at_truth(geometry, np.ones((48, 64), np.float32))
    columns, rows = np.meshgrid(np.arange(64) + 0.5, np.arange(48) + 0.5)
    lens = pycolmap.Camera(model=camera.model, width=160, height=120, params=camera.params)
    rays = lens.cam_from_img(np.stack([columns.ravel() * 2.5, rows.ravel() * 2.5], axis=1))
    expected = 2 + np.asarray(rays)[:, 0].reshape(48, 64)
    assert (found > 0).mean() > 0.8
    assert np.abs(found - expected)[found > 0].max() <= 0.5 / 70 + 1e-6


def reference_of(reconstruction: ReconstructedMap) -> Trajectory:
    poses = [REFERENCE_FROM_WORLD @ frame.world_from_cam for frame in reconstruction.frames]
    rigid = np.array([np.vstack([np.column_stack([pose.rotation, pose.translation]), [0, 0, 0, 1]]) for pose in poses])
    return Trajectory(np.array([float(frame.index) for frame in reconstruction.frames]), rigid)


def test_true_surface_is_the_plane(tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path, cameras=(OPENCV,))
    truth = write_truth(tmp_path / "depth", reconstruction)
    surface = true_surface(truth, reference_of(reconstruction), OPENCV)
    assert len(surface) == 6 * 120 * 90
    points_world = REFERENCE_FROM_WORLD.inverse().apply(surface)
    np.testing.assert_allclose(points_world[:, 2], PLANE_DEPTH, atol=1e-3)


def test_distance_of_a_cloud_that_floats_before_the_surface(tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path)
    truth = write_truth(tmp_path / "depth", reconstruction)
    write_ply(reconstruction, tmp_path / "cloud.ply")
    reference = reference_of(reconstruction)

    exact = evaluate_cloud(tmp_path / "cloud.ply", truth, reference, RADIAL, REFERENCE_FROM_WORLD)
    spacing = 2 * PLANE_DEPTH / 140 * 160 / 120  # of the true pixels on the plane, in the reference's unit
    assert exact.median_distance < spacing / 2

    closer = REFERENCE_FROM_WORLD @ Sim3(1.0, np.eye(3), np.array([0, 0, -0.5]))
    found = evaluate_cloud(tmp_path / "cloud.ply", truth, reference, RADIAL, closer)
    assert found.median_distance == pytest.approx(1.0, abs=spacing / 10)
    width, height = np.ptp(true_surface(truth, reference, RADIAL), axis=0)[:2]
    assert found.scene_size == pytest.approx(np.hypot(width, height), rel=0.2)
    assert found.share == found.median_distance / found.scene_size


def test_rays_through_a_smaller_copy_are_those_of_the_original() -> None:
    corner = image_rays(PINHOLE, np.array([0]), np.array([0]), (12, 16))
    np.testing.assert_allclose(corner, [[(5 - 80) / 140, (5 - 60) / 140, 1]])


def test_names_may_hold_other_numbers_before_the_index(tmp_path: Path) -> None:
    for name in ("seq-01_000007.png", "8.png", "readme.png", "9.txt"):
        (tmp_path / name).touch()
    assert find_true_depth(tmp_path).paths == {7: tmp_path / "seq-01_000007.png", 8: tmp_path / "8.png"}


def test_unusable_truth_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no depth images"):
        find_true_depth(tmp_path)
    reconstruction = make_map(tmp_path / "run")
    PillowImage.new("L", (8, 6)).save(tmp_path / "0.png")
    with pytest.raises(SourceError, match=r"0\.png has uint8 values of shape \(6, 8\), expected a 16-bit PNG"):
        evaluate_depth(reconstruction, find_true_depth(tmp_path), REFERENCE_FROM_WORLD)
    (tmp_path / "0.png").write_text("no picture")
    with pytest.raises(SourceError, match=r"0\.png cannot be read"):
        evaluate_depth(reconstruction, find_true_depth(tmp_path), REFERENCE_FROM_WORLD)
    (tmp_path / "00.png").touch()
    with pytest.raises(SourceError, match="both belong to frame"):
        find_true_depth(tmp_path)


def test_a_scale_that_is_not_positive_is_refused() -> None:
    with pytest.raises(SettingsError, match="--depth-scale must be positive, got 0"):
        TrueDepth({}, scale=0)


def test_truth_of_other_frames_is_refused(tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path / "run")
    write_depth(tmp_path / "99.png", np.ones((6, 8)))
    truth = find_true_depth(tmp_path)
    with pytest.raises(SourceError, match="No pixel has depth both in the map and in the 1 true depth"):
        evaluate_depth(reconstruction, truth, REFERENCE_FROM_WORLD)
    with pytest.raises(SourceError, match="None of the 1 depth images has a reference pose"):
        true_surface(truth, reference_of(reconstruction), RADIAL)


def test_a_truncated_cloud_is_named(tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path)
    truth = write_truth(tmp_path / "depth", reconstruction)
    cloud = tmp_path / "cloud.ply"
    write_ply(reconstruction, cloud)
    cloud.write_bytes(cloud.read_bytes()[:-1])
    with pytest.raises(MapError, match=r"cloud\.ply is truncated"):
        evaluate_cloud(cloud, truth, reference_of(reconstruction), RADIAL, REFERENCE_FROM_WORLD)
