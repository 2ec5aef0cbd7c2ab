"""Images of unusual depth, type and name, and calibrations that do not belong to them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pillow_heif

from tests.cases.case import Case, Input, picture, sample_truth, write

COUNT = 16
pillow_heif.register_heif_opener()


def thermal(folder: Path) -> Input:
    """Temperatures in 16 bits that use a twentieth of the range."""
    folder.mkdir(parents=True)
    for index in range(COUNT):
        grey = cv2.cvtColor(picture(index), cv2.COLOR_BGR2GRAY) / 255
        cv2.imwrite(str(folder / f"{index:03d}.tiff"), (27000 + grey * 2500).astype(np.uint16))
    return Input(folder, sample_truth(range(COUNT)))


def celsius(folder: Path) -> Input:
    """Temperatures as floating point numbers, on both sides of zero."""
    folder.mkdir(parents=True)
    for index in range(COUNT):
        grey = cv2.cvtColor(picture(index), cv2.COLOR_BGR2GRAY) / np.float32(255)
        PIL.Image.fromarray(grey * 20 - 8).save(folder / f"{index:03d}.tif")
    return Input(folder, sample_truth(range(COUNT)))


def without_suffix(folder: Path) -> Input:
    """Photos with meaningless names, as in a web cache, beside other files."""
    write(folder, [picture(index) for index in range(COUNT)])
    for path in sorted(folder.iterdir()):
        path.rename(path.with_suffix(""))
    (folder / "index.json").write_text("{}")
    return Input(folder, sample_truth(range(COUNT)))


def brackets(folder: Path) -> Input:
    """A pattern in a folder whose name has brackets, spaces and umlauts."""
    photos = write(folder / "Küche [1] (alt)", [picture(index) for index in range(COUNT)])
    return Input(photos / "*.jpg", sample_truth(range(COUNT)))


def doubles(folder: Path) -> Input:
    """Every photo as HEIC and JPEG."""
    write(folder, [picture(index) for index in range(10)])
    for path in sorted(folder.iterdir()):
        with PIL.Image.open(path) as image:
            image.save(path.with_suffix(".heic"), quality=85)
    return Input(folder, sample_truth([index // 2 for index in range(20)]))


def calibration_of_other_size(folder: Path) -> Input:
    """A camera's numbers at twice the size."""
    write(folder, [picture(index) for index in range(4)])
    return Input(folder, options=("--intrinsics", "1000,1000,640,480"))


def calibration_file_of_other_size(folder: Path) -> Input:
    """OpenCV's file for twice the size, which it states."""
    photos = write(folder / "photos", [picture(index) for index in range(COUNT)])
    storage = cv2.FileStorage(str(folder / "camera.yml"), cv2.FILE_STORAGE_WRITE)
    storage.write("image_width", 1280)
    storage.write("image_height", 960)
    storage.write("camera_matrix", np.array([[1000, 0, 639.5], [0, 1000, 479.5], [0, 0, 1]]))
    storage.write("distortion_coefficients", np.zeros((5, 1)))
    storage.release()
    return Input(photos, sample_truth(range(COUNT)), ("--intrinsics", str(folder / "camera.yml")))


CASES = (
    Case("thermal", thermal, "contrast is stretched", placed=COUNT, ate=0.03),
    Case("celsius", celsius, "contrast is stretched", placed=COUNT, ate=0.03),
    Case("without suffix", without_suffix, "read by content", placed=COUNT, ate=0.02),
    Case("brackets", brackets, "the folder is found", placed=COUNT, ate=0.02),
    Case("doubles", doubles, "all placed, and a note", placed=20, ate=0.03, says="images of several types"),
    Case(
        "calibration of another size", calibration_of_other_size, "refused", exit_code=2,
        says="is the calibration for 1280x960?",
    ),
    Case(
        "calibration file of another size", calibration_file_of_other_size, "scaled, and a note", placed=COUNT,
        ate=0.01, says="is for 1280x960: scaled to the images' 640x480",
    ),
)  # fmt: skip
