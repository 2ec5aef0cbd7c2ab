"""Reads the models of other programs: posed images with their lenses, and sparse points."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from recon.core.cameras import rigid_matrix
from recon.core.errors import SourceError
from recon.core.quantities import counted
from recon.core.similarity import Array
from recon.core.types import CAMERA_MODELS, Camera, SparsePoints
from recon.exports.colmap import model_is_whole
from recon.imports.phones import frames_of_capture, is_capture
from recon.sources.calibration import nerfstudio_camera
from recon.sources.decoding import UnreadableImage, upright_size

OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
ASPECT = 0.01  # relative difference of the sides' ratio between an image and its camera
UNDISTORT = "Undistort the images first, with colmap image_undistorter, say, and import that model."


@dataclass(frozen=True, eq=False)
class PosedImage:
    """An image of a model. cam_from_world: (4, 4) rigid, OpenCV axes. camera: at the size of the image."""

    path: Path
    camera: Camera
    cam_from_world: Array


@dataclass(frozen=True, eq=False)
class PosedImages:
    """A model of another program. images: by name, or in the order of the file. points: with the rows of the images as
    frames; empty if the model does not say which image sees which point."""

    images: tuple[PosedImage, ...]
    points: SparsePoints


def read_model(source: Path, images: Path | None = None) -> PosedImages:
    """The COLMAP model (binary or text) or the transforms.json at ``source``, or in that folder, or the capture of an
    iPhone that is that folder, see ``recon.imports.phones``.

    images: folder of the images of a COLMAP model, if it is not beside the model. Raises SourceError for anything else,
    and for a model that is damaged, has fewer than two posed images, lacks an image, or has an unknown lens.
    """
    if not source.exists():
        raise SourceError(f"{source} does not exist. Give the folder of a COLMAP model, or a transforms.json.")
    transforms = source if source.is_file() else source / "transforms.json"
    folder = next((one for one in (source, source / "sparse" / "0", source / "sparse") if _is_colmap(one)), None)
    if folder:
        found = _read_colmap(folder, images)
    elif transforms.name.endswith(".json") and transforms.is_file():
        found = _read_nerfstudio(transforms)
    elif is_capture(source):
        found = _read_capture(source)
    else:
        raise SourceError(
            f"{source} holds neither a COLMAP model (cameras, images, points3D, as .bin or .txt), nor a "
            "transforms.json, nor a capture of Polycam or Record3D."
        )
    if len(found.images) < 2:
        raise SourceError(f"{source} has {counted(len(found.images), 'image')} with a pose; a map needs two or more.")
    return found


def _is_colmap(folder: Path) -> bool:
    return any((folder / f"images{suffix}").is_file() for suffix in (".bin", ".txt"))


def _read_colmap(folder: Path, images: Path | None) -> PosedImages:
    if (folder / "images.bin").is_file() and not model_is_whole(folder):
        raise SourceError(f"images.bin or points3D.bin in {folder} is missing or truncated. Export the model again.")
    try:
        model = pycolmap.Reconstruction(folder)
    except (RuntimeError, ValueError, IndexError) as error:
        raise SourceError(
            f"pycolmap cannot read the model in {folder} ({_first_line(error)}). Export it again."
        ) from error
    posed = sorted((one for one in model.images.values() if one.has_pose), key=lambda one: one.name)
    beside = images or _images_beside(folder, [one.name for one in posed])
    cameras = {number: _colmap_camera(camera) for number, camera in model.cameras.items()}
    found = tuple(
        _sized(PosedImage(beside / one.name, cameras[one.camera_id], rigid_matrix(one.cam_from_world())))
        for one in posed
    )
    stated = [cameras[one.camera_id] for one in posed]
    scales = [
        (one.camera.width / old.width, one.camera.height / old.height) for one, old in zip(found, stated, strict=True)
    ]
    return PosedImages(found, _colmap_points(model, posed, scales))


def _images_beside(folder: Path, names: Sequence[str]) -> Path:
    """The folder of a model's images: ``images`` in the model's folder, or in one or two above it."""
    if not names:
        raise SourceError(f"The model in {folder} has no images with a pose.")
    candidates = [above / "images" for above in (folder, folder.parent, folder.parent.parent)]
    found = next((one for one in candidates if (one / names[0]).is_file()), None)
    if found is None:
        spaces = "" if (folder / "images.bin").is_file() else " Text models cannot hold names with spaces."
        raise SourceError(
            f"The images of the model in {folder} are not beside it: there is no images/{names[0]}.{spaces} Give their "
            "folder with --images."
        )
    return found


def _colmap_camera(camera: pycolmap.Camera) -> Camera:
    known = CAMERA_MODELS.get(camera.model.name)
    if known is None:
        raise SourceError(
            f"Camera {camera.camera_id} is of COLMAP's model {camera.model.name}, but the program knows only "
            f"{', '.join(CAMERA_MODELS)}. {UNDISTORT}"
        )
    if not (np.isfinite(camera.params).all() and min(camera.params[index] for index in camera.focal_length_idxs()) > 0):
        raise SourceError(f"Camera {camera.camera_id} of the model has no usable focal length. Export the model again.")
    return Camera(known, camera.width, camera.height, tuple(float(value) for value in camera.params))


def _colmap_points(
    model: pycolmap.Reconstruction, posed: Sequence[pycolmap.Image], scales: Sequence[tuple[float, float]]
) -> SparsePoints:
    """scales: of each image's pixels, along x and y."""
    rows = {number: row for row, number in enumerate(sorted(model.points3D))}
    seen = [
        (rows[point.point3D_id], frame, *(point.xy * scale))
        for frame, (image, scale) in enumerate(zip(posed, scales, strict=True))
        for point in image.get_observation_points2D()
    ]
    if not seen:
        return SparsePoints.empty()
    table = np.array(seen, dtype=np.float64)
    return SparsePoints(
        positions=np.array([model.points3D[number].xyz for number in rows]),
        colours=np.array([model.points3D[number].color for number in rows], dtype=np.uint8),
        point_ids=table[:, 0].astype(np.int64),
        frame_indices=table[:, 1].astype(np.int64),
        pixels=table[:, 2:].copy(),
    )


def _read_nerfstudio(path: Path) -> PosedImages:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
        frames = content["frames"]
        images = tuple(_nerfstudio_image(path, content | frame) for frame in frames)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path} is no transforms.json of nerfstudio: {_first_line(error)}.") from error
    return PosedImages(images, SparsePoints.empty())


def _read_capture(folder: Path) -> PosedImages:
    try:
        images = tuple(_nerfstudio_image(path, frame) for path, frame in frames_of_capture(folder))
    except (OSError, ValueError) as error:
        raise SourceError(f"The capture in {folder} is damaged: {_first_line(error)}.") from error
    return PosedImages(images, SparsePoints.empty())


def _nerfstudio_image(path: Path, frame: dict[str, Any]) -> PosedImage:
    world_from_opengl = np.array(frame["transform_matrix"], dtype=np.float64)
    if world_from_opengl.shape == (3, 4):
        world_from_opengl = np.vstack([world_from_opengl, [0, 0, 0, 1]])
    rotation = world_from_opengl[:3, :3]
    is_rotation = rotation.shape == (3, 3) and np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3)
    if not (is_rotation and np.linalg.det(rotation) > 0 and np.isfinite(world_from_opengl).all()):
        raise ValueError(f"the transform_matrix of {frame['file_path']} is not a rotation with a translation")
    left, _, right = np.linalg.svd(rotation)  # without the rounding of the file
    world_from_opengl[:3, :3] = left @ right
    image = path.parent / frame["file_path"]
    camera = nerfstudio_camera(frame, _size_of(image), path)
    cam_from_world = np.asarray(OPENCV_FROM_OPENGL @ np.linalg.inv(world_from_opengl))
    return _sized(PosedImage(image, camera, cam_from_world))


def _sized(image: PosedImage) -> PosedImage:
    """The image with its camera at the size of the file. Raises SourceError if their sides have another ratio."""
    camera, (width, height) = image.camera, _size_of(image.path)
    if abs(width * camera.height / (height * camera.width) - 1) > ASPECT:
        raise SourceError(
            f"{image.path} is {width}x{height} when upright, its camera {camera.width}x{camera.height}. "
            "Import the model with the images that it was made from."
        )
    return PosedImage(image.path, camera.resized(width, height), image.cam_from_world)


def _size_of(path: Path) -> tuple[int, int]:
    try:
        return upright_size(path)
    except (UnreadableImage, OSError) as error:
        raise SourceError(f"The image {path} of the model cannot be read: {error}.") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
