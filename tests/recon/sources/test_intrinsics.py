"""Every calibration file as its program writes it, checked by projecting points."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest

from recon.core.cameras import colmap_camera
from recon.core.errors import SettingsError
from recon.core.similarity import Array
from recon.core.types import Camera, CameraModel
from recon.sources.intrinsics import given_camera

SIZE = (640, 480)
MATRIX = np.array([[500.0, 0, 321.5], [0, 510.0, 238.25], [0, 0, 1]])
FOUR = np.array([-0.21, 0.06, 0.001, -0.002])
POINTS = np.array([[x, y, 2.0] for x in (-1.1, -0.3, 0.5, 1.2) for y in (-0.8, 0.1, 0.9)])


def read(path: Path | str, size: tuple[int, int] = SIZE, model: CameraModel | None = None) -> Camera:
    return given_camera(str(path), model, [size])[0]


def projected(camera: Camera) -> Array:
    return np.asarray(colmap_camera(camera).img_from_cam(POINTS))


def as_opencv(distortion: Array, *, fisheye: bool = False) -> Array:
    """Pixels of POINTS by OpenCV, with the centre of the first pixel at (0, 0)."""
    nothing, points = np.zeros(3), POINTS.reshape(-1, 1, 3)
    project = cv2.fisheye.projectPoints if fisheye else cv2.projectPoints
    return np.asarray((project(points, nothing, nothing, MATRIX, distortion))[0]).reshape(-1, 2)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def file_storage(path: Path, distortion: Array, size: tuple[int, int] = SIZE, matrix: Array = MATRIX) -> Path:
    """As OpenCV's calibration program writes it."""
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    storage.write("calibration_time", "Mon 12 Oct 2026 10:00:00")
    storage.write("nframes", 25)
    storage.write("image_width", size[0])
    storage.write("image_height", size[1])
    storage.write("camera_matrix", matrix)
    storage.write("distortion_coefficients", distortion.reshape(-1, 1))
    storage.write("avg_reprojection_error", 0.31)
    storage.release()
    return path


def refused(path: Path | str, *words: str, size: tuple[int, int] = SIZE, model: CameraModel | None = None) -> None:
    with pytest.raises(SettingsError) as caught:
        read(path, size, model)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


class TestColmap:
    @pytest.mark.parametrize(
        ("model", "params"),
        [
            ("SIMPLE_PINHOLE", (500.0, 321.0, 238.0)),
            ("PINHOLE", (500.0, 510.0, 321.0, 238.0)),
            ("SIMPLE_RADIAL", (500.0, 321.0, 238.0, 0.1)),
            ("RADIAL", (500.0, 321.0, 238.0, 0.1, -0.02)),
            ("OPENCV", (500.0, 510.0, 321.0, 238.0, 0.1, -0.02, 0.001, 0.002)),
            ("OPENCV_FISHEYE", (500.0, 510.0, 321.0, 238.0, 0.1, -0.02, 0.001, 0.002)),
        ],
    )
    def test_models(self, tmp_path: Path, model: CameraModel, params: tuple[float, ...]) -> None:
        assert read(self.written(tmp_path, (model, SIZE, params))) == Camera(model, *SIZE, params)

    def written(self, folder: Path, *cameras: tuple[str, tuple[int, int], tuple[float, ...]]) -> Path:
        model = pycolmap.Reconstruction()
        for number, (name, size, params) in enumerate(cameras, start=1):
            camera = pycolmap.Camera(model=name, width=size[0], height=size[1], params=params, camera_id=number)
            model.add_camera_with_trivial_rig(camera)
        model.write_text(folder)
        return folder / "cameras.txt"

    def test_scaled_to_the_images(self, tmp_path: Path) -> None:
        path = self.written(tmp_path, ("RADIAL", (1280, 960), (1000.0, 642.0, 476.0, 0.1, 0.02)))
        camera, note = given_camera(str(path), None, [SIZE])
        assert camera == Camera("RADIAL", *SIZE, (500.0, 321.0, 238.0, 0.1, 0.02))
        assert "is for 1280x960: scaled to the images' 640x480" in note

    def test_a_rounded_size_is_the_same_shape(self, tmp_path: Path) -> None:
        path = self.written(tmp_path, ("PINHOLE", (1920, 1080), (1500.0, 1500.0, 960.0, 540.0)))
        assert read(path, (854, 480)).params[:2] == pytest.approx((1500 * 854 / 1920, 1500 * 480 / 1080))

    def test_of_other_images(self, tmp_path: Path) -> None:
        path = self.written(tmp_path, ("PINHOLE", (1920, 1080), (1500.0, 1500.0, 960.0, 540.0)))
        refused(path, "is for images of 1920x1080, but these are 640x480")

    def test_of_turned_images(self, tmp_path: Path) -> None:
        path = self.written(tmp_path, ("PINHOLE", (480, 640), (500.0, 500.0, 240.0, 320.0)))
        refused(path, "480x640", "640x480", "rotated by 90 degrees")

    def test_several_cameras_go_by_size(self, tmp_path: Path) -> None:
        wide = ("PINHOLE", (1920, 1080), (1500.0, 1500.0, 960.0, 540.0))
        path = self.written(tmp_path, wide, ("PINHOLE", SIZE, (500.0, 500.0, 320.0, 240.0)))
        assert read(path).params == (500.0, 500.0, 320.0, 240.0)

    def test_two_cameras_of_one_size(self, tmp_path: Path) -> None:
        cameras = [("PINHOLE", SIZE, (focal, 500.0, 320.0, 240.0)) for focal in (500.0, 510.0)]
        refused(self.written(tmp_path, *cameras), "2 cameras for images of 640x480")

    def test_of_unknown_model(self, tmp_path: Path) -> None:
        path = self.written(tmp_path, ("FOV", SIZE, (500.0, 500.0, 320.0, 240.0, 0.9)))
        refused(path, "cameras.txt", "model FOV", "SIMPLE_RADIAL")

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("1 PINHOLE 640 480 500 500 320", ("camera 1 of model PINHOLE needs 4 numbers, got 3",)),
            ("1 PINHOLE 640 480 500 500 320 x", ("camera 1 needs a width, a height and numbers",)),
            ("1 PINHOLE 640.5 480 500 500 320 240", ("width and a height in pixels, got 640.5",)),
            ("1 PINHOLE 0 480 500 500 320 240", ("width and a height in pixels",)),
            ("1 PINHOLE 640 480 nan 500 320 240", ("finite",)),
            ("# CAMERA_ID, MODEL", ("contains no camera",)),
        ],
    )
    def test_damaged(self, tmp_path: Path, line: str, words: tuple[str, ...]) -> None:
        refused(write(tmp_path / "cameras.txt", line + "\n"), "cameras.txt", *words)


class TestNerfstudio:
    def written(self, folder: Path, **fields: object) -> Path:
        return write(folder / "transforms.json", json.dumps(fields))

    def test_opencv(self, tmp_path: Path) -> None:
        path = self.written(
            tmp_path, camera_model="OPENCV", fl_x=1000.0, fl_y=1020.0, cx=643.0, cy=477.0, w=1280, h=960,
            k1=-0.2, k2=0.05, p1=0.001, p2=0.002, frames=[{"file_path": "images/1.jpg", "transform_matrix": []}],
        )  # fmt: skip
        assert read(path) == Camera("OPENCV", *SIZE, (500.0, 510.0, 321.5, 238.5, -0.2, 0.05, 0.001, 0.002))

    def test_fisheye(self, tmp_path: Path) -> None:
        path = self.written(
            tmp_path, camera_model="OPENCV_FISHEYE", fl_x=300.0, fl_y=301.0, cx=320.0, cy=240.0, w=640, h=480,
            k1=0.1, k2=0.02, k3=0.003, k4=0.0004,
        )  # fmt: skip
        assert read(path) == Camera("OPENCV_FISHEYE", *SIZE, (300.0, 301.0, 320.0, 240.0, 0.1, 0.02, 0.003, 0.0004))

    def test_angle_alone(self, tmp_path: Path) -> None:
        path = self.written(tmp_path, camera_angle_x=2 * np.arctan(320 / 500), frames=[])
        assert read(path).params == pytest.approx((500.0, 500.0, 320.0, 240.0))

    def test_lens_in_every_frame(self, tmp_path: Path) -> None:
        lens = {"fl_x": 500.0, "fl_y": 500.0, "cx": 320.0, "cy": 240.0, "w": 640, "h": 480}
        assert read(self.written(tmp_path, frames=[lens, lens])).params == (500.0, 500.0, 320.0, 240.0)
        refused(self.written(tmp_path, frames=[lens, lens | {"fl_x": 501.0}]), "holds 2 cameras")

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"fl_x": "500"}, "fl_x must be a number, got '500'"),
            ({"fl_x": 500.0, "cx": None}, "cx must be a number, got none"),
            ({"fl_x": -1.0}, "positive focal lengths"),
            ({"camera_angle_x": 0.0}, "camera_angle_x must lie between"),
            ({"fl_x": 500.0, "camera_model": "EQUIRECTANGULAR"}, "camera_model EQUIRECTANGULAR"),
            ({"fl_x": 500.0, "w": 640}, "h must be a number, got none"),
        ],
    )
    def test_damaged(self, tmp_path: Path, fields: dict[str, object], words: str) -> None:
        refused(self.written(tmp_path, **fields), "transforms.json", words)

    def test_no_json(self, tmp_path: Path) -> None:
        refused(write(tmp_path / "transforms.json", '{"fl_x": 500,'), "transforms.json", "damaged")


class TestOpencv:
    @pytest.mark.parametrize("suffix", ["yml", "yaml", "xml", "json"])
    def test_file_storage(self, tmp_path: Path, suffix: str) -> None:
        camera = read(file_storage(tmp_path / f"camera.{suffix}", FOUR))
        assert camera.model == "OPENCV"
        np.testing.assert_allclose(projected(camera), as_opencv(FOUR) + 0.5, atol=1e-6)

    def test_without_distortion(self, tmp_path: Path) -> None:
        camera = read(file_storage(tmp_path / "camera.yml", np.zeros(5)))
        assert camera == Camera("PINHOLE", *SIZE, (500.0, 510.0, 322.0, 238.75))

    def test_at_twice_the_size_the_half_pixel_comes_first(self, tmp_path: Path) -> None:
        matrix = np.diag([2.0, 2, 1]) @ MATRIX
        camera = read(file_storage(tmp_path / "camera.yml", np.zeros(5), (1280, 960), matrix))
        assert camera.params == (500.0, 510.0, (643 + 0.5) / 2, (476.5 + 0.5) / 2)

    @pytest.mark.parametrize("more", [[0.01], [0.02, 0.1, 0.01, 0.002]])
    def test_small_further_terms_go_into_the_first(self, tmp_path: Path, more: list[float]) -> None:
        distortion = np.array([*FOUR, *more])
        camera = read(file_storage(tmp_path / "camera.yml", distortion))
        assert np.abs(projected(camera) - as_opencv(distortion) - 0.5).max() < 0.5

    def test_large_further_terms_are_refused(self, tmp_path: Path) -> None:
        path = file_storage(tmp_path / "camera.yml", np.array([-0.3, 0.3, 0, 0, -0.6]))
        refused(path, "camera.yml", "k3", "pixels", "CALIB_FIX_K3")

    @pytest.mark.parametrize(("kind", "fisheye"), [("plumb_bob", False), ("equidistant", True)])
    def test_ros(self, tmp_path: Path, kind: str, fisheye: bool) -> None:
        rows, shape = ", ".join(str(value) for value in MATRIX.ravel()), ", ".join(map(str, FOUR))
        path = write(
            tmp_path / "ost.yaml",
            f"image_width: 640\nimage_height: 480\ncamera_name: narrow_stereo\ncamera_matrix:\n  rows: 3\n  cols: 3\n"
            f"  data: [{rows}]\ndistortion_model: {kind}\ndistortion_coefficients:\n  rows: 1\n  cols: 4\n"
            f"  data: [{shape}]\nrectification_matrix:\n  rows: 3\n  cols: 3\n  data: [1, 0, 0, 0, 1, 0, 0, 0, 1]\n",
        )
        found = projected(read(path))
        np.testing.assert_allclose(found, as_opencv(FOUR, fisheye=fisheye) + 0.5, atol=1e-6)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("camera_matrix: [1, 2, 3]", "camera_matrix needs 9 numbers, got 3"),
            ("camera_matrix: {rows: 3}", "camera_matrix must be a list of numbers"),
            ("K: [500, 3, 320, 0, 500, 240, 0, 0, 1]", "skew of 3"),
            ("K: [500, 0, 320, 0, 500, 240, 0, 0, 1]\nimage_width: wide", "a width and a height in pixels, got wide"),
            ("K: [500, 0, 320, 0, 500, 240, 0, 0, 1]\ndistortion_model: thin_prism", "thin_prism"),
            ("camera_matrix: [1, 2", "damaged"),
            ("%YAML:1.0\n---\nM1: !!opencv-matrix\n   rows: 3\n", "not a supported calibration file"),
            ("a: !!python/object:os.system {}", "damaged"),
            ("<?xml version='1.0'?><opencv_storage><camera_matrix>", "damaged XML"),
            ("500 500 320 wide", "not a supported calibration file"),
        ],
    )
    def test_damaged(self, tmp_path: Path, text: str, words: str) -> None:
        refused(write(tmp_path / "camera.yaml", text), "camera.yaml", words)


KALIBR = """cam0:
  cam_overlaps: [1]
  camera_model: {model}
  distortion_coeffs: [-0.21, 0.06, 0.001, -0.002]
  distortion_model: {distortion}
  intrinsics: [500.0, 510.0, 321.5, 238.25]
  resolution: [640, 480]
  rostopic: /cam0/image_raw
"""


class TestKalibr:
    @pytest.mark.parametrize(("kind", "fisheye"), [("radtan", False), ("equidistant", True)])
    def test_camchain(self, tmp_path: Path, kind: str, fisheye: bool) -> None:
        path = write(tmp_path / "camchain.yaml", KALIBR.format(model="pinhole", distortion=kind))
        np.testing.assert_allclose(projected(read(path)), as_opencv(FOUR, fisheye=fisheye) + 0.5, atol=1e-6)

    def test_one_sensor(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "sensor.yaml",
            "sensor_type: camera\nT_BS:\n  cols: 4\n  rows: 4\n  data: [1.0]\nrate_hz: 20\nresolution: [640, 480]\n"
            "camera_model: pinhole\nintrinsics: [500.0, 510.0, 321.5, 238.25] #fu, fv, cu, cv\n"
            "distortion_model: radial-tangential\ndistortion_coefficients: [-0.21, 0.06, 0.001, -0.002]\n",
        )
        np.testing.assert_allclose(projected(read(path)), as_opencv(FOUR) + 0.5, atol=1e-6)

    def test_two_cameras_of_one_size(self, tmp_path: Path) -> None:
        one = KALIBR.format(model="pinhole", distortion="radtan")
        other = one.replace("cam0:", "cam1:").replace("500.0", "505.0")
        refused(write(tmp_path / "camchain.yaml", one + other), "holds 2 cameras")

    def test_unknown_models(self, tmp_path: Path) -> None:
        omni = KALIBR.format(model="omni", distortion="radtan")
        refused(write(tmp_path / "camchain.yaml", omni), "camera_model omni of cam0")
        fov = KALIBR.format(model="pinhole", distortion="fov")
        refused(write(tmp_path / "camchain.yaml", fov), "distortion_model fov of cam0")


class TestPlausibility:
    @pytest.mark.parametrize(
        ("numbers", "words"),
        [
            ("1500,1500,960,720", ("(960, 720) lies outside", "640x480", "for 1920x1440")),
            ("1000,1000,640,480", ("lies outside", "for 1280x960")),
            ("0.78,1.04,0.5,0.5", ("share of the size", "640x480", "give pixels")),
            ("1,1,320,240", ("focal lengths of 1 and 1 pixels", "640x480")),
            ("500,900,320,240", ("oblong",)),
            ("250,250,160,120", ("far from the middle", "for 320x240")),
            ("750,750,480,360", ("far from the middle", "for 960x720")),
            ("500,500,240,320", ("turned images", "640x480")),
        ],
    )
    def test_numbers_of_other_images(self, numbers: str, words: tuple[str, ...]) -> None:
        refused(numbers, *words)

    @pytest.mark.parametrize("numbers", ["500,500,320,240", "200,205,300,255", "3000,3000,331,236", "500,500,420,230"])
    def test_plausible_numbers(self, numbers: str) -> None:
        assert read(numbers).params == tuple(map(float, numbers.split(",")))

    def test_another_model_than_the_file(self, tmp_path: Path) -> None:
        path = file_storage(tmp_path / "camera.yml", FOUR)
        refused(path, "is of model OPENCV: leave out --camera-model", model="OPENCV_FISHEYE")

    def test_a_binary_file(self, tmp_path: Path) -> None:
        (tmp_path / "cameras.bin").write_bytes(bytes(range(256)))
        refused(tmp_path / "cameras.bin", "cameras.bin cannot be read as text")
