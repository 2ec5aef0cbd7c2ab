"""Real sequences with true poses and depth as posed views, to evaluate depth stages, never to train them.

A sequence is a folder: images/, poses.txt (TUM, world_from_cam), intrinsics.txt (fx fy cx cy), depth/ (16-bit PNG in
millimetres named by frame index, 0 = none).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from recon.core.errors import ReconError
from recon.core.similarity import Array
from recon.core.types import DepthMap, Image
from recon.depth.views import PosedView

RATIO = 0.8
EPIPOLAR_PX = 1.5
SMALLEST_ANGLE_DEG = 1.0
PARTNERS = 4


@dataclass(frozen=True, eq=False)
class MeasuredViews:
    """views: of one chunk, with sparse points triangulated from them. depth: true, (h, w) by view index, 0 = none."""

    views: list[PosedView]
    depth: dict[int, DepthMap]


@dataclass(frozen=True, eq=False)
class _Keypoints:
    """pixels: (n, 2). descriptors: (n, 128)."""

    pixels: Array
    descriptors: NDArray[np.float32]


@dataclass(frozen=True)
class MeasuredSet:
    """A sequence and how it is measured. step: frames from one view to the next. image_focal: focal length [px at the
    stored size] of the images, if intrinsics.txt belongs to the depth camera.
    """

    name: str
    step: int
    image_focal: float | None = None


# The intrinsics of seven-scenes are those of the depth camera. Points matched in its images and triangulated with its
# poses agree with its depth at 525 px, the nominal focal length of that colour camera, and are 15% too far at 585.
MEASURED_SETS = (MeasuredSet("seven-scenes", 4, 525.0), MeasuredSet("hololens-000", 5))


def read_chunk(folder: Path, measured: MeasuredSet, count: int, longest_side: int) -> MeasuredViews:
    """Like ``read_views``, with points matched and triangulated under the true poses."""
    read = read_views(folder, measured, count, longest_side)
    return MeasuredViews(with_sparse_points(read.views), read.depth)


def read_views(folder: Path, measured: MeasuredSet, count: int, longest_side: int) -> MeasuredViews:
    """The first ``count`` views (0 = all), scaled down, without points. Raises ReconError if a file is missing."""
    fx, fy, cx, cy = _numbers(folder / "intrinsics.txt")[0]
    of_depth = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    of_images = of_depth.copy()
    if measured.image_focal is not None:
        of_images[0, 0] = of_images[1, 1] = measured.image_focal
    poses = {int(row[0]): row[1:8] for row in _numbers(folder / "poses.txt")}
    images = sorted((folder / "images").iterdir())
    height, width = _read_image(images[0]).shape[:2]
    stored = (width, height)
    indices = range(0, len(images), measured.step)[: count or None]
    views = [_view(images[index], index, poses[index], of_images, longest_side) for index in indices]
    depth = {
        view.index: _true_depth(folder, view, of_depth @ np.linalg.inv(of_images), stored)
        for view in views
        if _depth_path(folder, view.index).exists()
    }
    return MeasuredViews(views, depth)


def _numbers(path: Path) -> Array:
    if not path.exists():
        raise ReconError(f"{path} is missing: a measured sequence needs poses.txt, intrinsics.txt, images and depth.")
    return np.atleast_2d(np.loadtxt(path, dtype=np.float64))


def _read_image(path: Path) -> Image:
    """BGR, as OpenCV reads it."""
    image = cv2.imread(str(path))
    if image is None:
        raise ReconError(f"{path} is not a readable image: fetch the sequence again.")
    return np.asarray(image, dtype=np.uint8)


def _view(path: Path, index: int, pose: Array, intrinsics: Array, longest_side: int) -> PosedView:
    image = _read_image(path)
    height, width = image.shape[:2]
    scale = longest_side / max(height, width)
    size = (round(width * scale), round(height * scale))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    world_from_cam = np.eye(4)
    world_from_cam[:3, :3] = Rotation.from_quat(pose[3:]).as_matrix()
    world_from_cam[:3, 3] = pose[:3]
    return PosedView(
        index=index,
        image=np.asarray(cv2.cvtColor(scaled, cv2.COLOR_BGR2RGB), dtype=np.uint8),
        mask=np.ones(size[::-1], dtype=bool),
        intrinsics=np.diag([size[0] / width, size[1] / height, 1]) @ intrinsics,
        cam_from_chunk=np.asarray(np.linalg.inv(world_from_cam), dtype=np.float64),
        sparse=np.zeros((0, 3)),
        point_ids=np.zeros(0, dtype=np.int64),
    )


def _depth_path(folder: Path, index: int) -> Path:
    return folder / "depth" / f"{index:06d}.png"


def _true_depth(folder: Path, view: PosedView, depth_from_image: Array, stored: tuple[int, int]) -> DepthMap:
    """Depth at the view's pixels; depth_from_image (3, 3) maps pixels of stored images to the depth camera's."""
    millimetres = np.asarray(cv2.imread(str(_depth_path(folder, view.index)), cv2.IMREAD_UNCHANGED), dtype=np.uint16)
    height, width = view.mask.shape
    full_width, full_height = stored
    to_depth = np.diag([millimetres.shape[1] / full_width, millimetres.shape[0] / full_height, 1]) @ depth_from_image
    from_view = to_depth @ np.diag([full_width / width, full_height / height, 1])
    columns, rows = (np.arange(size) + 0.5 for size in (width, height))
    across = (from_view[0, 0] * columns + from_view[0, 2]).astype(np.float32) - np.float32(0.5)
    down = (from_view[1, 1] * rows + from_view[1, 2]).astype(np.float32) - np.float32(0.5)
    across, down = np.meshgrid(across, down)
    found = cv2.remap(millimetres, across, down, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(found / 1000.0, dtype=np.float32)


def with_sparse_points(views: list[PosedView]) -> list[PosedView]:
    """The views with points like those of structure from motion: SIFT matches of nearby pairs that fit the poses."""
    keypoints = [_detect(view) for view in views]
    found: list[list[tuple[float, float, float, int]]] = [[] for _ in views]
    number = 0
    for first in range(len(views)):
        for second in range(first + 1, min(first + 1 + PARTNERS, len(views))):
            pixels = _matches(keypoints[first], keypoints[second])
            points = triangulate(views[first], views[second], *pixels)
            for side, chosen in enumerate((first, second)):
                depth = _depths(views[chosen], points)
                rows = zip(*pixels[side].T, depth, range(number, number + len(points)), strict=True)
                found[chosen].extend(row for row in rows if np.isfinite(row[2]))
            number += len(points)
    return [_with_points(view, rows) for view, rows in zip(views, found, strict=True)]


def sift_matches(first: PosedView, second: PosedView) -> tuple[Array, Array]:
    """Pixels (n, 2) in both views of SIFT features that match."""
    return _matches(_detect(first), _detect(second))


def _with_points(view: PosedView, rows: list[tuple[float, float, float, int]]) -> PosedView:
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return PosedView(**(vars(view) | {"sparse": table[:, :3], "point_ids": table[:, 3].astype(np.int64)}))


def _detect(view: PosedView) -> _Keypoints:
    grey = cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY)
    keypoints, descriptors = cv2.SIFT.create(1500, contrastThreshold=0.02).detectAndCompute(grey, None)
    pixels = np.array([keypoint.pt for keypoint in keypoints], dtype=np.float64).reshape(-1, 2) + 0.5
    return _Keypoints(pixels, np.asarray(np.zeros((0, 128)) if descriptors is None else descriptors, np.float32))


def _matches(first: _Keypoints, second: _Keypoints) -> tuple[Array, Array]:
    """Pixels (n, 2) in both views of mutual nearest descriptors that pass the ratio test (Lowe 2004)."""
    if min(len(first.pixels), len(second.pixels)) < 2:
        return np.zeros((0, 2)), np.zeros((0, 2))
    matcher = cv2.BFMatcher()
    there = matcher.knnMatch(first.descriptors, second.descriptors, k=2)
    back = matcher.match(second.descriptors, first.descriptors)
    home = {match.queryIdx: match.trainIdx for match in back}
    good = [a for a, b in there if a.distance < RATIO * b.distance and home.get(a.trainIdx) == a.queryIdx]
    rows = np.array([(match.queryIdx, match.trainIdx) for match in good], dtype=int).reshape(-1, 2)
    return first.pixels[rows[:, 0]], second.pixels[rows[:, 1]]


def triangulate(first: PosedView, second: PosedView, pixels_first: Array, pixels_second: Array) -> Array:
    """World points (n, 3) of matches (n, 2) each; NaN if they do not fit the poses within 1.5 px."""
    cameras = [view.intrinsics @ view.cam_from_chunk[:3] for view in (first, second)]
    if not len(pixels_first):
        return np.zeros((0, 3))
    homogeneous = cv2.triangulatePoints(cameras[0], cameras[1], pixels_first.T, pixels_second.T)
    with np.errstate(divide="ignore", invalid="ignore"):
        points = (homogeneous[:3] / homogeneous[3]).T
    good = _angles(points, first, second) > SMALLEST_ANGLE_DEG
    for camera, pixels in zip(cameras, (pixels_first, pixels_second), strict=True):
        projected = np.column_stack([points, np.ones(len(points))]) @ camera.T
        error = np.linalg.norm(projected[:, :2] / projected[:, 2:] - pixels, axis=1)
        good &= (projected[:, 2] > 0) & (error < EPIPOLAR_PX)
    return np.asarray(np.where(good[:, None], points, np.nan))


def _angles(points: Array, first: PosedView, second: PosedView) -> Array:
    rays = [points - np.linalg.inv(view.cam_from_chunk)[:3, 3] for view in (first, second)]
    cosine = (rays[0] * rays[1]).sum(1) / np.linalg.norm(rays[0], axis=1) / np.linalg.norm(rays[1], axis=1)
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _depths(view: PosedView, points: Array) -> Array:
    return np.asarray(points @ view.cam_from_chunk[2, :3] + view.cam_from_chunk[2, 3])
