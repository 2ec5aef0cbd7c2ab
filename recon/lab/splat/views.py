"""The views of a COLMAP model, at a small size and without distortion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import torch
from numpy.typing import NDArray

from recon.core.cameras import rigid_matrix
from recon.core.errors import SourceError
from recon.core.similarity import Array
from recon.core.sizes import scaled
from recon.exports.colmap import model_is_whole
from recon.lab.splat.gaussians import View

FEWEST = 2  # views


@dataclass(frozen=True, eq=False)
class Scene:
    """views: in the order of their names. positions, colours: (n, 3) of the points, RGB.

    Lengths are divided by the median distance from the cameras to the points that they see.
    """

    views: tuple[View, ...]
    positions: Array
    colours: NDArray[np.uint8]


def read_scene(folder: Path, images: Path, side: int) -> Scene:
    """A COLMAP model, with its images reduced to ``side`` pixels.

    folder: holds the model, or has it in ``sparse/0``. Raises SourceError for one without points, or whose images are
    missing.
    """
    place = folder / "sparse" / "0" if (folder / "sparse" / "0").is_dir() else folder
    if not model_is_whole(place):
        raise SourceError(f"{place} holds no complete COLMAP model. Give a folder with images.bin and points3D.bin.")
    model = pycolmap.Reconstruction(place)
    posed = sorted((image for image in model.images.values() if image.has_pose), key=lambda image: image.name)
    if len(posed) < FEWEST or not model.num_points3D():
        raise SourceError(f"{place} has {len(posed)} images and {model.num_points3D()} points, too few to train from.")
    unit = float(np.median([_distance(model, image) for image in posed if image.num_points3D]))
    views = tuple(_view(image, model.cameras[image.camera_id], images, side, unit) for image in posed)
    points = list(model.points3D.values())
    colours = np.array([point.color for point in points], dtype=np.uint8)
    return Scene(views, np.array([point.xyz for point in points]) / unit, colours)


def _distance(model: pycolmap.Reconstruction, image: pycolmap.Image) -> float:
    """The median depth of the points that an image sees."""
    pose = rigid_matrix(image.cam_from_world())
    seen = np.array([model.points3D[point.point3D_id].xyz for point in image.points2D if point.has_point3D()])
    return float(np.median(seen @ pose[2, :3] + pose[2, 3]))


def _view(image: pycolmap.Image, camera: pycolmap.Camera, images: Path, side: int, unit: float) -> View:
    stored = cv2.imread(str(images / image.name), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if stored is None:
        raise SourceError(f"OpenCV cannot read the image {images / image.name}. Give its folder with --images.")
    size = scaled((camera.width, camera.height), side)
    scale = size[0] / camera.width
    focal, centre = scale * camera.mean_focal_length(), np.array(size) / 2
    small = cv2.resize(stored, size, interpolation=cv2.INTER_AREA)
    places = _places(camera, size, focal) * (size / np.array([camera.width, camera.height]))
    x, y = np.moveaxis((places - 0.5).astype(np.float32), -1, 0)
    picture = cv2.remap(small, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[..., ::-1] / 255
    seen = (x >= 0) & (y >= 0) & (x <= size[0] - 1) & (y <= size[1] - 1)
    pose = rigid_matrix(image.cam_from_world())
    pose[:3, 3] /= unit
    return View(
        image.name,
        torch.tensor(pose, dtype=torch.float32),
        (focal, focal, *centre.tolist()),
        torch.tensor(picture, dtype=torch.float32),
        torch.from_numpy(seen),
    )


def _places(camera: pycolmap.Camera, size: tuple[int, int], focal: float) -> Array:
    """Where the pixels of a pinhole picture lie in the photograph, (height, width, 2)."""
    width, height = size
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([(column - width / 2) / focal, (row - height / 2) / focal, np.ones_like(row)], axis=-1)
    return np.asarray(camera.img_from_cam(rays.reshape(-1, 3))).reshape(height, width, 2)
