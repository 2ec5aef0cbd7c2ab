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

from recon.sources.kinds import is_image

Frame = tuple[Path, dict[str, Any]]  # a file, and fields as in a transforms.json beside it
POLYCAM = (("corrected_cameras", "corrected_images"), ("cameras", "images"))  # after and before its own adjustment


def is_capture(folder: Path) -> bool:
    """Whether a folder is a raw export of Polycam, or Record3D's export of images with metadata."""
    return (folder / "keyframes" / "images").is_dir() or _is_record3d(folder)


def frames_of_capture(folder: Path) -> Iterator[Frame]:
    """The posed images of a capture, in order. Raises OSError, ValueError, KeyError and TypeError if it is damaged."""
    yield from _record3d(folder) if _is_record3d(folder) else _polycam(folder / "keyframes")


def _is_record3d(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("metadata", "metadata.json")) and (folder / "rgb").is_dir()


def _polycam(folder: Path) -> Iterator[Frame]:
    """A JSON file for each image: fx, fy, cx, cy, width, height, and t_00 to t_23, the upper rows of the pose."""
    cameras, images = next(pair for pair in POLYCAM if (folder / pair[0]).is_dir() or pair == POLYCAM[-1])
    for image in _images(folder / images):
        path = folder / cameras / f"{image.stem}.json"
        fields = json.loads(path.read_text(encoding="utf-8-sig"))
        pose = [[float(fields[f"t_{row}{column}"]) for column in range(4)] for row in range(3)]
        yield path, _frame(image, pose, [fields[name] for name in ("fx", "fy", "cx", "cy", "width", "height")])


def _record3d(folder: Path) -> Iterator[Frame]:
    """One JSON file: the matrix K by columns, w, h, and the poses as qx qy qz qw x y z, one for each image."""
    path = next(folder / name for name in ("metadata", "metadata.json") if (folder / name).is_file())
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    (fx, _, _), (_, fy, _), (cx, cy, _) = np.array(content["K"], dtype=np.float64).reshape(3, 3).tolist()
    images, poses = _images(folder / "rgb"), np.array(content["poses"], dtype=np.float64).reshape(-1, 7)
    if len(images) != len(poses):
        raise ValueError(f"it has {len(poses)} poses for {len(images)} images in {folder / 'rgb'}")
    for image, pose in zip(images, poses, strict=True):
        upper = np.column_stack([Rotation.from_quat(pose[:4]).as_matrix(), pose[4:]])
        yield path, _frame(image, upper.tolist(), [fx, fy, cx, cy, content["w"], content["h"]])


def _images(folder: Path) -> list[Path]:
    return [path for path in natsorted(folder.iterdir(), key=lambda path: path.name) if is_image(path)]


def _frame(image: Path, pose: list[list[float]], lens: list[float]) -> dict[str, Any]:
    names = ("fl_x", "fl_y", "cx", "cy", "w", "h")
    return {"file_path": str(image.absolute()), "transform_matrix": pose, **dict(zip(names, lens, strict=True))}
