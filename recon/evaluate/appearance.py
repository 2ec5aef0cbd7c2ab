"""Whether exported points have the colours of exported images, seen by the exported cameras.

A wrong convention (an axis turned, a pose inverted, a row of pixels from the other end) moves the points in the images,
so that their colours no longer match.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
from numpy.typing import NDArray

from recon.core.cameras import rigid_matrix
from recon.core.similarity import Array
from recon.exports.readers import CheckError

VIEWS = 12
GRID = 160  # longest side of the compared images [px]
FEWEST_SEEN = 200  # px of it with a point
Grey = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ExportedView:
    """An image with its camera. cam_from_world: (4, 4), OpenCV axes."""

    image: Path
    camera: pycolmap.Camera
    cam_from_world: Array


@dataclass(frozen=True)
class Agreement:
    """Correlation of the points' grey values with the images', the median over the images.

    turned: the same with the images turned by 180 degrees or mirrored, whichever correlates best.
    """

    correlation: float
    turned: float

    def require(self, what: str) -> str:
        """A sentence with the figures. Raises CheckError if another orientation of the images fits as well."""
        figures = f"correlation {self.correlation:.2f}, turned or mirrored {self.turned:.2f}"
        if not self.correlation > self.turned:
            raise CheckError(f"The cameras of {what} do not see the cloud as their images do: {figures}.")
        return f"The cameras of {what} see the cloud in the colours of their images: {figures}."


def agreement(positions: Array, colours: Array, views: Sequence[ExportedView]) -> Agreement:
    """How well points (n, 3) with colours (n, 3) in 0..1 match at most VIEWS of the images.

    Raises CheckError if no image can be compared.
    """
    finite = np.isfinite(positions).all(axis=1)
    positions, colours = positions[finite], colours[finite]
    rows = np.unique(np.linspace(0, len(views) - 1, min(VIEWS, len(views))).round().astype(int))
    grey = colours @ np.array([0.299, 0.587, 0.114])
    found = [scores for row in rows if (scores := _scores(positions, grey, views[row])) is not None]
    if not found:
        raise CheckError("No camera sees enough of the cloud to compare its colours.")
    medians = np.median(found, axis=0)
    return Agreement(float(medians[0]), float(medians[1:].max()))


def model_views(model: pycolmap.Reconstruction, images: Path) -> list[ExportedView]:
    """The views of a COLMAP model, by name."""
    return [
        ExportedView(images / image.name, model.cameras[image.camera_id], rigid_matrix(image.cam_from_world()))
        for image in sorted(model.images.values(), key=lambda image: image.name)
    ]


def nerfstudio_views(content: dict[str, Any], folder: Path) -> list[ExportedView]:
    """The views of nerfstudio's transforms.json in ``folder``."""
    return [
        ExportedView(folder / frame["file_path"], _nerfstudio_camera(content | frame), _from_opengl(frame))
        for frame in content["frames"]
    ]


def _nerfstudio_camera(lens: dict[str, Any]) -> pycolmap.Camera:
    names = ("k1", "k2", "k3", "k4") if lens["camera_model"] == "OPENCV_FISHEYE" else ("k1", "k2", "p1", "p2")
    params = [lens[name] for name in ("fl_x", "fl_y", "cx", "cy", *names)]
    return pycolmap.Camera(model=lens["camera_model"], width=lens["w"], height=lens["h"], params=params)


def _from_opengl(frame: dict[str, Any]) -> Array:
    """cam_from_world (4, 4) of a frame whose camera looks along -z, with y up."""
    return np.linalg.inv(np.array(frame["transform_matrix"]) @ np.diag([1.0, -1.0, -1.0, 1.0]))


def _scores(positions: Array, grey: Grey, view: ExportedView) -> list[float] | None:
    """Correlations with the image as it is, turned, and mirrored both ways; None if too few points are seen."""
    size = view.camera.width, view.camera.height
    grid = np.maximum(np.round(np.multiply(size, GRID / max(size))), 1).astype(int)
    seen = _nearest(positions, grey, view, grid)
    stored = cv2.imread(str(view.image), cv2.IMREAD_GRAYSCALE)
    known = np.isfinite(seen)
    if stored is None or known.sum() < FEWEST_SEEN:
        return None
    image = cv2.resize(stored, grid.tolist(), interpolation=cv2.INTER_AREA).astype(np.float64)
    return [_correlation(seen[known], one[known]) for one in _orientations(image)]


def _orientations(image: Grey) -> Iterable[Grey]:
    return image, image[::-1, ::-1], image[::-1], image[:, ::-1]


def _nearest(positions: Array, grey: Grey, view: ExportedView, grid: NDArray[np.int64]) -> Grey:
    """Grey value of the nearest point in each pixel of a grid (width, height); nan where there is none."""
    points_cam = positions @ view.cam_from_world[:3, :3].T + view.cam_from_world[:3, 3]
    pixels = np.asarray(view.camera.img_from_cam(points_cam))
    places = np.floor(pixels * grid / (view.camera.width, view.camera.height))
    inside = (points_cam[:, 2] > 0) & (places >= 0).all(axis=1) & (places < grid).all(axis=1)
    columns, rows = places[inside].astype(int).T
    far_to_near = np.argsort(-points_cam[inside, 2])
    seen = np.full(grid[::-1], np.nan)
    seen[rows[far_to_near], columns[far_to_near]] = grey[inside][far_to_near]
    return seen


def _correlation(first: Grey, second: Grey) -> float:
    """Pearson's; 0 if one of them does not vary."""
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norm if norm else 0.0
