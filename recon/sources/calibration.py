"""Known lenses from the files of calibration programs.

A reader takes a document and returns its lenses in this project's convention: the centre of the first pixel is
(0.5, 0.5), as in COLMAP and nerfstudio. In OpenCV, ROS and Kalibr it is (0, 0), so half a pixel is added.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from recon.core.errors import SettingsError
from recon.core.types import CAMERA_MODELS, Camera, CameraModel

Size = tuple[int, int]
Document = Mapping[str, Any]
T = TypeVar("T")

FIELDS: dict[CameraModel, int] = {
    "SIMPLE_PINHOLE": 3, "PINHOLE": 4, "SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8, "OPENCV_FISHEYE": 8,
}  # fmt: skip
FIRST_PIXEL = 0.5  # from OpenCV's pixels to ours
FIT_ERROR = 0.5  # largest error of a fit with fewer distortion terms [px]
FORMATS = "COLMAP's cameras.txt, nerfstudio's transforms.json, and YAML or XML of OpenCV, ROS or Kalibr"


class Fault(Exception):  # noqa: N818 - becomes a SettingsError that names the file
    """A fault of a document."""


@dataclass(frozen=True)
class Lens:
    """A lens in a file. size: (width, height) of its calibration, None if the file does not say."""

    model: CameraModel
    params: tuple[float, ...]
    size: Size | None


def read_lenses(path: Path, image_size: Size) -> list[Lens]:
    """The lenses of a calibration file. image_size: (width, height) of the images, for files that give only an angle.

    Raises SettingsError, which names the file and the field.
    """

    def lenses(text: str) -> list[Lens] | None:
        if (rows := _colmap_rows(text)) is not None:
            return [_colmap_lens(row) for row in rows]
        document = read_document(text)
        return next((read(document, image_size) for fits, read in READERS if fits(document)), None)

    found = read_option_file("--intrinsics", path, lenses)
    if found is None:
        raise SettingsError(f"--intrinsics: {path} is not a supported calibration file. Supported: {FORMATS}.")
    return found


def read_option_file(option: str, path: Path, read: Callable[[str], T]) -> T:
    """What ``read``, which may raise Fault, makes of the text of an option's file.

    Raises SettingsError, which names the option and the file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{option}: the file {path} cannot be read as text ({error}).") from error
    try:
        return read(text)
    except (Fault, OverflowError, json.JSONDecodeError) as fault:
        raise SettingsError(f"{option}: {path}: {fault}.") from fault
    except RecursionError as error:
        raise SettingsError(f"{option}: {path}: it is nested too deeply.") from error


def lens_of_info(info: Document, image_size: Size, where: str) -> Lens:
    """The lens of a ROS ``camera_info``. Raises SettingsError, which names ``where`` it comes from and the field."""
    try:
        return _opencv(info, image_size)[0]
    except (Fault, OverflowError) as fault:
        raise SettingsError(f"{where}: {fault}.") from fault


def _colmap_rows(text: str) -> list[list[str]] | None:
    """The words of the lines of a cameras.txt, None if the text is not one."""
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    is_one = bool(rows) and all(
        len(row) > 1 and row[0].isdecimal() and re.fullmatch("[A-Z_]{3,}", row[1]) for row in rows
    )
    return rows if is_one or (not rows and "CAMERA_ID" in text) else None


def _colmap_lens(row: Sequence[str]) -> Lens:
    camera_id, model, *words = row
    where = f"camera {camera_id}"
    known = CAMERA_MODELS.get(model)
    if known is None:
        raise Fault(f"{where} is of model {model}; known are {', '.join(CAMERA_MODELS)}")
    try:
        width, height, *params = (float(word) for word in words)
    except ValueError:
        raise Fault(f"{where} needs a width, a height and numbers, got {' '.join(words) or 'none'}") from None
    if len(params) != FIELDS[known]:
        raise Fault(f"{where} of model {model} needs {FIELDS[known]} numbers, got {len(params)}")
    return Lens(known, tuple(params), _size(width, height, where))


class _Loader(yaml.SafeLoader):
    """YAML in which OpenCV's matrices are mappings."""


def _matrix(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", _matrix)


def read_document(text: str) -> Document:
    """The top level of JSON, YAML, or OpenCV's XML; empty if that is not a mapping. Raises Fault."""
    start = text.lstrip()
    try:
        if start.startswith("<"):
            return _xml(text)
        # Other readers reject OpenCV's first line, %YAML:1.0.
        found = json.loads(text) if start.startswith("{") else yaml.load(re.sub(r"\A%YAML.*\n", "", start), _Loader)  # noqa: S506
    except (json.JSONDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise Fault(f"it is damaged ({' '.join(str(error).split())})") from error
    return found if isinstance(found, dict) else {}


def _xml(text: str) -> Document:
    """The top level of an XML file of OpenCV."""
    found: dict[str, Any] = {}
    try:
        storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY | cv2.FILE_STORAGE_FORMAT_XML)
        for name in storage.root().keys():  # noqa: SIM118 - not a dict
            node = storage.getNode(name)
            if node.isMap():
                matrix = node.mat()
                found[name] = {"data": None if matrix is None else matrix.ravel().tolist()}
            elif node.isSeq():
                found[name] = [node.at(row).real() for row in range(node.size())]
            else:
                found[name] = node.string() if node.isString() else node.real()
    except (cv2.error, SystemError) as error:
        raise Fault("it is damaged XML, or none of OpenCV") from error
    return found


def _nerfstudio(document: Document, image_size: Size) -> list[Lens]:
    """nerfstudio and instant-ngp; values missing at the top level are in every frame."""
    frames = _frames(document)
    each = [{**document, **frame} for frame in frames] if _own_lens(frames) else [document]
    return list(dict.fromkeys(_nerfstudio_lens(fields, image_size) for fields in each))


def _frames(document: Document) -> list[Document]:
    found = document.get("frames")
    return [frame for frame in found if isinstance(frame, dict)] if isinstance(found, list) else []


def _own_lens(frames: Sequence[Document]) -> bool:
    return any("fl_x" in frame or "camera_angle_x" in frame for frame in frames)


def _nerfstudio_lens(fields: Document, image_size: Size) -> Lens:
    size = _size(_number(fields, "w"), _number(fields, "h"), "w, h") if "w" in fields or "h" in fields else None
    width, height = size or image_size
    fx = _number(fields, "fl_x") if "fl_x" in fields else width / 2 / math.tan(_angle(fields) / 2)
    fy = _number(fields, "fl_y", fx)
    cx, cy = _number(fields, "cx", width / 2), _number(fields, "cy", height / 2)
    kind = str(fields.get("camera_model", "OPENCV_FISHEYE" if fields.get("is_fisheye") else "OPENCV"))
    if kind not in ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE"):
        raise Fault(f"camera_model {kind} is not known; known are OPENCV, OPENCV_FISHEYE and simpler ones")
    fisheye = kind == "OPENCV_FISHEYE"
    names = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2", "k3", "k4")
    distortion = [_number(fields, name, 0.0) for name in names]
    return _opencv_lens((fx, fy, cx, cy), distortion, (width, height), stated=size, fisheye=fisheye)


def nerfstudio_camera(fields: Document, image_size: Size, path: Path) -> Camera:
    """The lens of one frame of a transforms.json, with the fields of the top level.

    Raises SettingsError, which names the file and the field.
    """
    try:
        lens = _nerfstudio_lens(fields, image_size)
    except (Fault, OverflowError) as fault:
        raise SettingsError(f"{path}: {fault}.") from fault
    return Camera(lens.model, *(lens.size or image_size), lens.params)


def _angle(fields: Document) -> float:
    angle = _number(fields, "camera_angle_x")
    if not 0 < angle < math.pi:
        raise Fault(f"camera_angle_x must lie between 0 and pi, got {angle:g}")
    return angle


def _opencv(document: Document, image_size: Size) -> list[Lens]:
    """OpenCV's FileStorage and ROS's camera_info."""
    matrix = _values(document, *MATRIX)
    if len(matrix) != 9:
        raise Fault(f"camera_matrix needs 9 numbers, got {len(matrix)}")
    fx, skew, cx, _, fy, cy, *_ = matrix
    if abs(skew) > 1e-6 * abs(fx):
        raise Fault(f"camera_matrix has a skew of {skew:g}, which no lens here has")
    coefficients = _values(document, *COEFFICIENTS) if _find(document, *COEFFICIENTS) is not None else []
    size = _stated_size(document)
    kind = str(document.get("distortion_model", document.get("camera_model", ""))).lower()
    fisheye = kind in ("equidistant", "fisheye") or bool(document.get("fisheye_model"))
    if kind not in ("", "plumb_bob", "rational_polynomial", "equidistant", "fisheye", "pinhole", "radtan"):
        raise Fault(f"distortion_model {kind} is not known; known are plumb_bob, rational_polynomial and equidistant")
    pinhole = (fx, fy, cx + FIRST_PIXEL, cy + FIRST_PIXEL)
    return [_opencv_lens(pinhole, coefficients, size or image_size, stated=size, fisheye=fisheye)]


def _kalibr(document: Document, image_size: Size) -> list[Lens]:
    """Kalibr's camchain, or one camera of it, as EuRoC's sensor.yaml."""
    if "intrinsics" in document:
        return [kalibr_lens(document, image_size, "the camera")]
    cameras = {name: fields for name, fields in document.items() if re.fullmatch(r"cam\d+", str(name))}
    return [kalibr_lens(fields, image_size, name) for name, fields in cameras.items()]


def kalibr_lens(fields: Any, image_size: Size, name: str) -> Lens:
    """The lens of a camera in Kalibr's camchain. Raises Fault."""
    if not isinstance(fields, dict):
        raise Fault(f"{name} holds no fields")
    kind, distortion_kind = str(fields.get("camera_model", "pinhole")), str(fields.get("distortion_model", "none"))
    if kind != "pinhole":
        raise Fault(f"camera_model {kind} of {name} is not known; calibrate with pinhole")
    if distortion_kind not in ("radtan", "radial-tangential", "plumb_bob", "equidistant", "none", "None"):
        raise Fault(f"distortion_model {distortion_kind} of {name} is not known; calibrate with radtan or equidistant")
    intrinsics = _values(fields, "intrinsics")
    if len(intrinsics) != 4:
        raise Fault(f"intrinsics of {name} need 4 numbers, got {len(intrinsics)}")
    fx, fy, cx, cy = intrinsics
    names = ("distortion_coeffs", "distortion_coefficients")
    coefficients = _values(fields, *names) if _find(fields, *names) is not None else []
    size = _stated_size(fields)
    pinhole = (fx, fy, cx + FIRST_PIXEL, cy + FIRST_PIXEL)
    fisheye = distortion_kind == "equidistant"
    return _opencv_lens(pinhole, coefficients, size or image_size, stated=size, fisheye=fisheye)


def _opencv_lens(
    pinhole: tuple[float, float, float, float],
    distortion: Sequence[float],
    size: Size,
    *,
    stated: Size | None,
    fisheye: bool,
) -> Lens:
    """OpenCV's model from k1, k2, p1, p2 and further terms, or k1 to k4 of a fisheye lens."""
    if not (all(map(math.isfinite, (*pinhole, *distortion))) and min(pinhole[:2]) > 0):
        raise Fault("it needs positive focal lengths and finite numbers")
    most = 4 if fisheye else 14
    if len(distortion) > most:
        raise Fault(f"at most {most} distortion coefficients are known, got {len(distortion)}")
    if not any(distortion) and not fisheye:
        return Lens("PINHOLE", pinhole, stated)
    if any(distortion[4:]):
        distortion = _fewer_terms(pinhole, distortion, size)
    padded = (*distortion[:4], *(0.0,) * (4 - len(distortion)))
    return Lens("OPENCV_FISHEYE" if fisheye else "OPENCV", (*pinhole, *padded), stated)


def _fewer_terms(pinhole: tuple[float, ...], distortion: Sequence[float], size: Size) -> tuple[float, ...]:
    """k1, k2, p1, p2 that approximate more coefficients over the image, by least squares.

    Raises Fault if the error exceeds FIT_ERROR.
    """
    fx, fy, cx, cy = pinhole
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    count = 4 if len(distortion) <= 4 else next(usual for usual in (5, 8, 12, 14) if usual >= len(distortion))
    coefficients = np.array([*distortion, *(0.0,) * (count - len(distortion))])
    grid = np.stack(np.meshgrid(*(np.linspace(0, side, 25) for side in size)), axis=-1).reshape(-1, 1, 2)
    points = np.asarray(cv2.undistortPoints(grid, matrix, coefficients), dtype=np.float64).reshape(-1, 2)
    x, y = points.T
    r2 = x * x + y * y
    basis = np.stack(
        [np.stack([x * r2, x * r2**2, 2 * x * y, r2 + 2 * x * x], axis=1),
         np.stack([y * r2, y * r2**2, r2 + 2 * y * y, 2 * x * y], axis=1)], axis=1
    )  # fmt: skip
    offsets = _distorted(points, coefficients) - points
    focal = np.array([fx, fy])
    rows, wanted = (basis * focal[:, None]).reshape(-1, 4), (offsets * focal).reshape(-1)
    if not np.isfinite(rows).all():
        raise Fault("its distortion cannot be inverted over the whole image")
    found = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    error = float(np.abs(rows @ found - wanted).max())
    if error > FIT_ERROR:
        raise Fault(
            f"without k3 and later terms its distortion is off by up to {error:.1f} pixels, and only k1, k2, p1, p2 "
            "are known. Calibrate with these alone (OpenCV: CALIB_FIX_K3), or undistort the images first"
        )
    return tuple(found.tolist())


def _distorted(points: NDArray[np.float64], coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    rays = np.column_stack([points, np.ones(len(points))])
    nothing = np.zeros(3)
    projected, _ = cv2.projectPoints(rays, nothing, nothing, np.eye(3), coefficients)
    return np.asarray(projected, dtype=np.float64).reshape(-1, 2)


MATRIX = ("camera_matrix", "k", "mtx", "intrinsic_matrix")
COEFFICIENTS = ("distortion_coefficients", "distortion_coeffs", "dist_coeffs", "d", "dist", "distortion")


def _find(fields: Document, *names: str) -> Any:
    """The value of a field by any of its usual names; case and underscores are ignored."""
    by_name = {_plain(str(key)): value for key, value in fields.items()}
    return next((by_name[_plain(name)] for name in names if _plain(name) in by_name), None)


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _values(fields: Document, *names: str) -> list[float]:
    """The numbers of a list, a list of lists, or a matrix with ``data``."""
    found = _find(fields, *names)
    found = found.get("data") if isinstance(found, dict) else found
    try:
        if not isinstance(found, list):
            raise TypeError
        return np.asarray(found, dtype=np.float64).ravel().tolist()
    except (TypeError, ValueError):
        raise Fault(f"{names[0]} must be a list of numbers") from None


def _number(fields: Document, name: str, default: float | None = None) -> float:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Fault(f"{name} must be a number, got {'none' if value is None else repr(value)}")
    return float(value)


def _stated_size(fields: Document) -> Size | None:
    both = _find(fields, "resolution", "image_size", "size")
    if both is None:
        both = [_find(fields, "image_width", "width", "w"), _find(fields, "image_height", "height", "h")]
    if both == [None, None]:
        return None
    if not (isinstance(both, list | tuple) and len(both) == 2):
        raise Fault(f"the image size must be a width and a height, got {both}")
    return _size(both[0], both[1], "the image size")


def _size(width: Any, height: Any, where: str) -> Size:
    try:
        size = (int(width), int(height))
        if min(size) < 1 or (float(width), float(height)) != size:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise Fault(f"{where} must be a width and a height in pixels, got {width} and {height}") from None
    return size


def _is_nerfstudio(document: Document) -> bool:
    return _own_lens([document, *_frames(document)])


def _is_opencv(document: Document) -> bool:
    return _find(document, *MATRIX) is not None


def _is_kalibr(document: Document) -> bool:
    return "intrinsics" in document or any(re.fullmatch(r"cam\d+", str(name)) for name in document)


READERS: tuple[tuple[Callable[[Document], bool], Callable[[Document, Size], list[Lens]]], ...] = (
    (_is_nerfstudio, _nerfstudio),
    (_is_opencv, _opencv),
    (_is_kalibr, _kalibr),
)
