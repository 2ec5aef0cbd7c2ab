"""The map as a nerfstudio data set: ``transforms.json``, images and the sparse points."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from recon.core.errors import OutputError
from recon.core.files import write_atomically
from recon.core.similarity import Array
from recon.core.types import Camera, PlacedFrame
from recon.exports.folders import new_folder, share_images
from recon.exports.ply import CloudPoints, write_points
from recon.store.map import ReconstructedMap

OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def write_nerfstudio(reconstruction: ReconstructedMap, folder: Path) -> None:
    """Write a new ``folder`` with ``images``, ``sparse_pc.ply`` and ``transforms.json``, which refers to both.

    Poses are camera-to-world with OpenGL axes (x right, y up, z backward); the world is the map's. The lens is global
    if all frames share one, otherwise it is given for each frame.
    Raises OutputError if fisheye and other lenses are mixed, which the format does not allow, or ``folder`` is in use
    or cannot be written, and MapError if an original is missing.
    """
    text = json.dumps(_transforms(reconstruction), indent=1)
    points = reconstruction.points
    cloud = CloudPoints(points.positions, points.colours, np.ones(len(points.positions)))
    with new_folder(folder) as output:
        share_images(reconstruction, output / "images")
        write_atomically(output / "sparse_pc.ply", lambda file: write_points(file, cloud))
        write_atomically(output / "transforms.json", lambda file: file.write(text.encode()))


def _transforms(reconstruction: ReconstructedMap) -> dict[str, Any]:
    cameras = dict.fromkeys(frame.camera for frame in reconstruction.frames)
    fisheye = [camera.model == "OPENCV_FISHEYE" for camera in cameras]
    if any(fisheye) and not all(fisheye):
        raise OutputError(
            "A nerfstudio data set has one kind of lens, but this map has fisheye and other lenses. "
            "Export undistorted images instead: --to colmap --undistort."
        )
    shared = _lens(next(iter(cameras))) if len(cameras) == 1 else {}
    return {
        "camera_model": "OPENCV_FISHEYE" if any(fisheye) else "OPENCV",
        **shared,
        "ply_file_path": "sparse_pc.ply",
        "metric": reconstruction.metric and asdict(reconstruction.metric),
        "frames": [_frame(frame) | ({} if shared else _lens(frame.camera)) for frame in reconstruction.frames],
    }


def _frame(frame: PlacedFrame) -> dict[str, Any]:
    world_from_opencv = np.eye(4)
    world_from_opencv[:3, :3] = frame.world_from_cam.rotation
    world_from_opencv[:3, 3] = frame.world_from_cam.translation
    world_from_opengl: Array = world_from_opencv @ OPENCV_FROM_OPENGL
    return {"file_path": f"images/{frame.name}", "transform_matrix": world_from_opengl.tolist()}


def _lens(camera: Camera) -> dict[str, Any]:
    matrix = camera.matrix()
    return {
        "w": camera.width,
        "h": camera.height,
        "fl_x": matrix[0, 0],
        "fl_y": matrix[1, 1],
        "cx": matrix[0, 2],
        "cy": matrix[1, 2],
        **_distortion(camera),
    }


def _distortion(camera: Camera) -> dict[str, float]:
    match camera.model:
        case "SIMPLE_PINHOLE" | "PINHOLE":
            values: tuple[float, ...] = ()
        case "SIMPLE_RADIAL" | "RADIAL":
            values = camera.params[3:]
        case _:
            values = camera.params[4:]
    names = ("k1", "k2", "k3", "k4") if camera.model == "OPENCV_FISHEYE" else ("k1", "k2", "p1", "p2")
    return dict(zip(names, (*values, 0.0, 0.0, 0.0, 0.0), strict=False))
