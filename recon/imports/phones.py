"""Captures of the iPhone apps Polycam and Record3D, with the poses that ARKit gave them, as frames of nerfstudio.

Both state camera-to-world poses with OpenGL axes in ARKit's world: metres, y up. Their depth is not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from natsort import natsorted
from scipy.spatial.transform import Rotation

from recon.core.similarity import Array
from recon.sources.kinds import is_image

Frame = tuple[Path, dict[str, Any]]  # a file, and fields as in a transforms.json beside it
POLYCAM = (("corrected_cameras", "corrected_images"), ("cameras", "images"))  # after and before its own adjustment


def is_capture(folder: Path) -> bool:
    """Whether a folder is a raw export of Polycam, or Record3D's export of images with metadata."""
    return (folder / "keyframes" / "images").is_dir() or _is_record3d(folder)


def frames_of_capture(folder: Path) -> Iterator[Frame]:
    """The posed images of a capture, in order. Raises OSError and ValueError if it is damaged."""
    yield from _record3d(folder) if _is_record3d(folder) else _polycam(folder / "keyframes")


def _is_record3d(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("metadata", "metadata.json")) and (folder / "rgb").is_dir()


def _polycam(folder: Path) -> Iterator[Frame]:
    """A JSON file for each image: fx, fy, cx, cy, width, height, and t_00 to t_23, the upper rows of the pose."""
    cameras, images = next(pair for pair in POLYCAM if (folder / pair[0]).is_dir() or pair == POLYCAM[-1])
    for image in _images(folder / images):
        path = folder / cameras / f"{image.stem}.json"
        fields = _fields(path)
        pose = [[float(_numbers(fields, f"t_{row}{column}", path)) for column in range(4)] for row in range(3)]
        lens = [float(_numbers(fields, name, path)) for name in ("fx", "fy", "cx", "cy", "width", "height")]
        yield path, _frame(image, pose, lens)


def _record3d(folder: Path) -> Iterator[Frame]:
    """One JSON file: the matrix K by columns, w, h, and the poses as qx qy qz qw x y z, one for each image."""
    path = next(folder / name for name in ("metadata", "metadata.json") if (folder / name).is_file())
    fields = _fields(path)
    (fx, _, _), (_, fy, _), (cx, cy, _) = _numbers(fields, "K", path, 9).reshape(3, 3).tolist()
    width, height = (float(_numbers(fields, name, path)) for name in ("w", "h"))
    images, listed = _images(folder / "rgb"), fields.get("poses", ())
    if not isinstance(listed, list):
        raise ValueError(f"poses in {path.name} is no list")
    poses = _numbers(fields, "poses", path, len(listed), 7) if listed else np.zeros((0, 7))
    if len(images) != len(poses):
        raise ValueError(f"it has {len(poses)} poses for {len(images)} images in {folder / 'rgb'}")
    for image, pose in zip(images, poses, strict=True):
        if not pose[:4].any():
            raise ValueError(f"the pose of {image.name} in {path.name} has no rotation")
        upper = np.column_stack([Rotation.from_quat(pose[:4]).as_matrix(), pose[4:]])
        yield path, _frame(image, upper.tolist(), [fx, fy, cx, cy, width, height])


def _fields(path: Path) -> dict[str, Any]:
    """The fields of a JSON file. Raises OSError, and ValueError with the reason in plain words."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no JSON, or cut short") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no fields")
    return found


def _numbers(fields: dict[str, Any], name: str, path: Path, *shape: int) -> Array:
    """The numbers of a field, of this shape. Raises ValueError with the reason in plain words."""
    if name not in fields:
        raise ValueError(f"{path.name} has no {name}")
    try:
        found = np.array(fields[name], dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        found = np.array(np.nan)
    if found.shape != shape or not np.isfinite(found).all():
        wanted = " x ".join(map(str, shape)) + " numbers" if shape else "a number"
        raise ValueError(f"{name} in {path.name} is not {wanted}")
    return found


def _images(folder: Path) -> list[Path]:
    return [path for path in natsorted(folder.iterdir(), key=lambda path: path.name) if is_image(path)]


def _frame(image: Path, pose: list[list[float]], lens: list[float]) -> dict[str, Any]:
    names = ("fl_x", "fl_y", "cx", "cy", "w", "h")
    return {"file_path": str(image.absolute()), "transform_matrix": pose, **dict(zip(names, lens, strict=True))}
