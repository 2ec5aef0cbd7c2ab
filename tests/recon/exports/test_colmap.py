import numpy as np
import pycolmap
import pytest
from PIL import Image

from recon.core.errors import MapError, OutputError
from recon.exports import export
from recon.exports.colmap import colmap_model, write_colmap, write_undistorted
from recon.store.map import open_map
from tests.support import FISHEYE, OPENCV, RADIAL, make_map, plane_texture, project


def poses(model):
    return {image.name: image.cam_from_world().matrix() for image in model.images.values()}


def test_pycolmap_reads_cameras_rigid_poses_and_tracks(tmp_path):
    reconstruction = make_map(tmp_path, cameras=(RADIAL, OPENCV))
    write_colmap(reconstruction, reconstruction.images.parent)
    model = pycolmap.Reconstruction(tmp_path / "colmap" / "sparse" / "0")
    assert {path.name for path in (tmp_path / "colmap" / "sparse" / "0").iterdir()} == {
        "cameras.bin", "images.bin", "points3D.bin", "rigs.bin", "frames.bin",
    }  # fmt: skip
    assert {camera.model_name: tuple(camera.params) for camera in model.cameras.values()} == {
        "SIMPLE_RADIAL": RADIAL.params, "OPENCV": OPENCV.params,
    }  # fmt: skip
    assert sorted(model.images) == [1, 3, 5, 7, 9, 11]
    for frame in reconstruction.frames:
        image = model.images[frame.index + 1]
        assert (image.name, image.camera.model_name) == (frame.name, frame.camera.model)
        np.testing.assert_allclose(image.projection_center(), frame.world_from_cam.translation, atol=1e-9)
        np.testing.assert_allclose(
            image.cam_from_world().rotation.matrix(), frame.world_from_cam.rotation.T, atol=1e-9
        )  # fmt: skip
    assert model.num_points3D() == len(reconstruction.points.positions)
    assert model.compute_num_observations() == len(reconstruction.points.point_ids)


def test_points_have_their_place_colour_and_error(tmp_path):
    reconstruction = make_map(tmp_path)
    reconstruction.points.pixels[:, 0] += 0.5
    model = colmap_model(reconstruction)
    for point in model.points3D.values():
        np.testing.assert_array_equal(point.color, plane_texture(point.xyz))
        assert point.error == pytest.approx(0.5 if point.track.length() else 0)
    seen = reconstruction.frames[2]
    for point in model.images[seen.index + 1].get_observation_points2D():
        position = model.points3D[point.point3D_id].xyz[None]
        np.testing.assert_allclose(point.xy, project(seen, position)[0] + [0.5, 0], atol=1e-6)


def test_exporting_again_replaces_the_model_and_keeps_the_images(tmp_path):
    reconstruction = make_map(tmp_path)
    for _ in range(2):
        write_colmap(reconstruction, tmp_path / "colmap")
    assert len(list((tmp_path / "colmap" / "images").iterdir())) == 6
    assert {path.name for path in (tmp_path / "colmap").iterdir()} == {"images", "sparse"}


def test_another_folder_gets_links_of_the_placed_images(tmp_path):
    reconstruction = make_map(tmp_path)
    (reconstruction.images / "image_0001.jpg").write_bytes(b"skipped")
    assert export(reconstruction, "colmap", tmp_path / "new" / "model") == tmp_path / "new" / "model"
    copies = sorted((tmp_path / "new" / "model" / "images").iterdir())
    assert [path.name for path in copies] == [frame.name for frame in reconstruction.frames]
    assert copies[0].samefile(reconstruction.images / copies[0].name)


def test_undistorted_images_agree_with_their_pinhole_cameras(tmp_path):
    """Reprojects points of the plane into the resampled images and compares the colours with the texture."""
    reconstruction = make_map(tmp_path, cameras=(RADIAL, OPENCV, FISHEYE))
    write_undistorted(reconstruction, tmp_path / "pinhole")
    model = pycolmap.Reconstruction(tmp_path / "pinhole" / "sparse" / "0")
    assert {path.name for path in (tmp_path / "pinhole").iterdir()} == {"images", "sparse"}
    assert {camera.model_name for camera in model.cameras.values()} == {"PINHOLE"}
    assert poses(model).keys() == poses(colmap_model(reconstruction)).keys()
    for name, pose in poses(colmap_model(reconstruction)).items():
        np.testing.assert_allclose(poses(model)[name], pose, atol=1e-9)
    for image in model.images.values():
        pixels = np.asarray(Image.open(tmp_path / "pinhole" / "images" / image.name))
        assert pixels.shape[:2] == (image.camera.height, image.camera.width)
        positions = np.array([model.points3D[point.point3D_id].xyz for point in image.get_observation_points2D()])
        projected = image.camera.img_from_cam(image.cam_from_world() * positions)
        inside = ((projected > 1) & (projected < np.array(pixels.shape[1::-1]) - 1)).all(axis=1)
        columns, rows = np.floor(projected[inside]).astype(int).T
        difference = np.abs(pixels[rows, columns].astype(int) - plane_texture(positions[inside]))
        assert inside.sum() > 100
        assert difference.mean() < 4


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path):
    reconstruction = make_map(tmp_path)
    (tmp_path / "photos" / "images").mkdir(parents=True)
    (tmp_path / "photos" / "images" / "mine.jpg").write_bytes(b"mine")
    for undistort in (False, True):
        with pytest.raises(OutputError, match="photos exists and is not empty"):
            export(reconstruction, "colmap", tmp_path / "photos", undistort=undistort)
    with pytest.raises(OutputError, match="exists and is not empty"):
        export(reconstruction, "colmap", tmp_path / "colmap", undistort=True)
    assert (tmp_path / "photos" / "images" / "mine.jpg").read_bytes() == b"mine"
    assert len(list(reconstruction.images.iterdir())) == 6


def test_a_missing_original_is_named_and_nothing_is_left(tmp_path):
    reconstruction = make_map(tmp_path)
    (reconstruction.images / reconstruction.frames[1].name).unlink()
    for undistort in (False, True):
        with pytest.raises(MapError, match=r"lacks 1 of 6 images, first image_0002\.jpg"):
            export(reconstruction, "colmap", tmp_path / "out", undistort=undistort)
    with pytest.raises(MapError, match=r"image_0002\.jpg"):
        write_colmap(open_map(tmp_path), tmp_path / "colmap")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["colmap", "map"]


def test_an_original_that_colmap_cannot_read_is_named(tmp_path):
    reconstruction = make_map(tmp_path)
    (reconstruction.images / "image_0004.jpg").write_bytes(b"no image")
    with pytest.raises(OutputError, match=r"could not undistort 1 of 6 images, first image_0004\.jpg"):
        write_undistorted(reconstruction, tmp_path / "pinhole")
    assert not (tmp_path / "pinhole").exists()


def test_a_model_that_cannot_be_read_back_is_refused(tmp_path, monkeypatch):
    reconstruction = make_map(tmp_path)
    write = pycolmap.Reconstruction.write

    def write_half(model, folder):
        write(model, folder)
        path = folder / "points3D.bin"
        path.write_bytes(path.read_bytes()[:1000])

    monkeypatch.setattr(pycolmap.Reconstruction, "write", write_half)
    with pytest.raises(OutputError, match="No space left"):
        write_colmap(reconstruction, tmp_path / "colmap")
    assert not (tmp_path / "colmap" / "sparse").exists()
