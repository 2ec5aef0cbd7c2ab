import json

import cv2
import numpy as np
import open3d
import pytest

from recon.core.errors import OutputError, SettingsError
from recon.exports import default_path, export
from recon.exports.nerfstudio import write_nerfstudio
from tests.support import FISHEYE, OPENCV, RADIAL, make_map


def load(folder):
    return json.loads((folder / "transforms.json").read_text())


def project_as_documented(transforms, frame, points_world):
    """nerfstudio's documented convention: camera-to-world, OpenGL axes, OpenCV's distortion."""
    lens = transforms | frame
    points_opengl = (
        np.linalg.inv(frame["transform_matrix"]) @ np.column_stack([points_world, np.ones(len(points_world))]).T
    )
    assert (points_opengl[2] < 0).all()
    points_opencv = (points_opengl[:3].T * [1, -1, -1])[:, None]
    matrix = np.array([[lens["fl_x"], 0, lens["cx"]], [0, lens["fl_y"], lens["cy"]], [0, 0, 1]])
    zero = np.zeros(3)
    if transforms["camera_model"] == "OPENCV_FISHEYE":
        distortion = np.array([lens[name] for name in ("k1", "k2", "k3", "k4")])
        return cv2.fisheye.projectPoints(points_opencv, zero, zero, matrix, distortion)[0].reshape(-1, 2)
    distortion = np.array([lens[name] for name in ("k1", "k2", "p1", "p2")])
    return cv2.projectPoints(points_opencv, zero, zero, matrix, distortion)[0].reshape(-1, 2)


@pytest.mark.parametrize("cameras", [(RADIAL,), (OPENCV,), (FISHEYE,), (RADIAL, OPENCV)])
def test_points_reproject_by_the_documented_convention(tmp_path, cameras):
    reconstruction = make_map(tmp_path, cameras=cameras)
    write_nerfstudio(reconstruction, tmp_path / "nerf")
    transforms = load(tmp_path / "nerf")
    assert len(transforms["frames"]) == 6
    assert ("fl_x" in transforms) == (len(cameras) == 1)
    points = reconstruction.points
    for placed, frame in zip(reconstruction.frames, transforms["frames"], strict=True):
        assert (tmp_path / "nerf" / frame["file_path"]).samefile(reconstruction.images / placed.name)
        assert ((transforms | frame)["w"], (transforms | frame)["h"]) == (160, 120)
        seen = points.frame_indices == placed.index
        projected = project_as_documented(transforms, frame, points.positions[points.point_ids[seen]])
        np.testing.assert_allclose(projected, points.pixels[seen], atol=1e-6)


def test_sparse_points_are_in_the_same_world(tmp_path):
    reconstruction = make_map(tmp_path)
    export(reconstruction, "nerfstudio", tmp_path / "nerf")
    cloud = open3d.io.read_point_cloud(str(tmp_path / "nerf" / load(tmp_path / "nerf")["ply_file_path"]))
    np.testing.assert_allclose(np.asarray(cloud.points), reconstruction.points.positions, atol=1e-6)
    np.testing.assert_allclose(np.asarray(cloud.colors) * 255, reconstruction.points.colours, atol=1e-6)
    assert "applied_transform" not in load(tmp_path / "nerf")


def test_mixed_fisheye_and_other_lenses_are_refused(tmp_path):
    reconstruction = make_map(tmp_path, cameras=(RADIAL, FISHEYE))
    with pytest.raises(OutputError, match="one kind of lens"):
        write_nerfstudio(reconstruction, tmp_path / "nerf")
    assert not (tmp_path / "nerf").exists()


def test_undistort_applies_to_colmap_only(tmp_path):
    with pytest.raises(SettingsError, match="to colmap only, not to nerfstudio"):
        export(make_map(tmp_path), "nerfstudio", tmp_path / "nerf", undistort=True)


def test_every_target_can_be_exported_with_its_parent_folders(tmp_path):
    reconstruction = make_map(tmp_path)
    for target in ("ply", "colmap", "tum", "kitti", "nerfstudio"):
        out = export(reconstruction, target, tmp_path / "deep" / "er" / default_path(target))
        assert out.exists()
