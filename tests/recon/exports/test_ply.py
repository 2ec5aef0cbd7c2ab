import numpy as np
import open3d
import pytest

from recon.core.errors import MapError
from recon.core.types import SparsePoints
from recon.exports.cleaning import survey
from recon.exports.ply import frame_points, read_points, write_ply
from recon.settings import CloudSettings
from recon.store.map import MapStore, open_map
from tests.support import DEPTH_SIZE, PLANE_DEPTH, SCALES, make_map, plane_texture


def read(path):
    cloud = open3d.t.io.read_point_cloud(str(path)).point
    return cloud.positions.numpy(), cloud.colors.numpy(), cloud.confidence.numpy().ravel()


def test_open3d_reads_points_colours_and_confidence(tmp_path):
    reconstruction = make_map(tmp_path)
    count = write_ply(reconstruction, tmp_path / "cloud.ply")
    positions, colours, confidence = read(tmp_path / "cloud.ply")
    assert len(positions) == count > 1000
    np.testing.assert_allclose(positions[:, 2], PLANE_DEPTH, atol=PLANE_DEPTH / 1000)
    assert np.abs(colours.astype(int) - plane_texture(positions.astype(float))).max() <= 8
    np.testing.assert_allclose(confidence, 0.8, atol=1 / 63)


def test_normals_are_perpendicular_to_the_plane_and_face_the_cameras(tmp_path):
    write_ply(make_map(tmp_path), tmp_path / "cloud.ply")
    normals = read_points(tmp_path / "cloud.ply").normals
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)
    assert np.degrees(np.arccos(-normals[:, 2])).max() < 15
    assert np.degrees(np.arccos(-normals[:, 2]).mean()) < 3


def test_frames_of_different_scales_give_one_plane_of_the_right_extent(tmp_path):
    """A writer that ignored the scale of a frame would put its points at a fraction of the distance."""
    assert len(set(SCALES)) == 6
    reconstruction = make_map(tmp_path)
    for frame, geometry in reconstruction.geometry():
        points = frame_points(geometry, frame.world_from_cam)
        assert len(points.positions) == (DEPTH_SIZE[0] - 2) * DEPTH_SIZE[1]
        np.testing.assert_allclose(points.positions[:, 2], PLANE_DEPTH, atol=PLANE_DEPTH / 1000)
        width = np.ptp(points.positions[:, 0])
        assert width == pytest.approx(PLANE_DEPTH * DEPTH_SIZE[1] / 70, rel=0.15)


def test_default_voxel_is_the_footprint_of_a_depth_pixel(tmp_path):
    reconstruction = make_map(tmp_path)
    footprint = survey(reconstruction.geometry()).footprint
    assert footprint == pytest.approx(PLANE_DEPTH / 70, rel=0.05)
    count = write_ply(reconstruction, tmp_path / "default.ply")
    assert count == write_ply(reconstruction, tmp_path / "explicit.ply", CloudSettings(footprint))
    positions, _, _ = read(tmp_path / "default.ply")
    _, in_voxel = np.unique(np.floor(positions[:, :2] / footprint), axis=0, return_counts=True)
    assert np.mean(in_voxel == 1) > 0.95


def test_batches_do_not_fill_a_voxel_twice(tmp_path, monkeypatch):
    reconstruction = make_map(tmp_path)
    whole = write_ply(reconstruction, tmp_path / "whole.ply", CloudSettings(0.1))
    monkeypatch.setattr("recon.exports.ply.BATCH_POINTS", 1)
    assert write_ply(reconstruction, tmp_path / "batches.ply", CloudSettings(0.1)) == whole
    assert len(read(tmp_path / "batches.ply")[0]) == whole


def test_points_of_a_voxel_are_averaged_by_confidence(tmp_path):
    reconstruction = make_map(tmp_path, scales=(1.0,))
    (_, geometry), *_ = reconstruction.geometry()
    count = write_ply(reconstruction, tmp_path / "one.ply", CloudSettings(1000.0))
    positions, _, _ = read(tmp_path / "one.ply")
    points = frame_points(geometry, reconstruction.frames[0].world_from_cam)
    octants = np.unique(np.floor(points.positions / 1000.0), axis=0)
    assert count == len(octants) == 4
    upper_right = points.positions[(points.positions[:, :2] >= 0).all(axis=1)].mean(axis=0)
    np.testing.assert_allclose(positions[-1], upper_right, atol=1e-5)


def test_too_many_points_coarsen_the_grid(tmp_path):
    reconstruction = make_map(tmp_path)
    fine = write_ply(reconstruction, tmp_path / "cloud.ply", CloudSettings(0.05))
    coarse = write_ply(reconstruction, tmp_path / "cloud.ply", CloudSettings(0.05, fine // 5))
    assert fine // 20 < coarse <= fine // 5
    positions, _, _ = read(tmp_path / "cloud.ply")
    assert len(positions) == coarse
    assert np.ptp(positions[:, 0]) > 4


def test_a_cloud_of_which_nothing_would_be_left_is_not_written(tmp_path):
    reconstruction = make_map(tmp_path)
    with pytest.raises(MapError, match="too far from the origin"):
        write_ply(reconstruction, tmp_path / "cloud.ply", CloudSettings(1e-7, 10**8))
    assert not (tmp_path / "cloud.ply").exists()


def test_a_map_without_depth_gives_an_empty_cloud(tmp_path):
    MapStore(tmp_path).write_places((), (), SparsePoints.empty(), complete=True)
    assert write_ply(open_map(tmp_path), tmp_path / "cloud.ply") == 0


def test_reading_back_equals_open3d(tmp_path):
    write_ply(make_map(tmp_path), tmp_path / "cloud.ply")
    points = read_points(tmp_path / "cloud.ply")
    columns = (points.positions, points.colours, points.confidence)
    assert (
        np.asarray(open3d.io.read_point_cloud(str(tmp_path / "cloud.ply")).normals).tolist() == points.normals.tolist()
    )
    for ours, theirs in zip(columns, read(tmp_path / "cloud.ply"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:60], lambda content: b""])
def test_a_damaged_cloud_is_refused_with_its_name(tmp_path, damage):
    path = tmp_path / "cloud.ply"
    write_ply(make_map(tmp_path), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(MapError, match=r"cloud\.ply is truncated"):
        read_points(path)
    path.unlink()
    with pytest.raises(MapError, match=r"Cannot read .*cloud\.ply"):
        read_points(path)
