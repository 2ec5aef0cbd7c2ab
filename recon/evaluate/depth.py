"""Errors of a map's depth and cloud against true depth images, after alignment with the reference poses.

A true depth image shows the same picture as its frame, at any resolution: its pixel (x, y) is the frame's pixel
(x * frame width / depth width, y * frame height / depth height), with the frame's lens distortion.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from recon.core.cameras import colmap_camera, points_at_depth_one
from recon.core.errors import SettingsError, SourceError
from recon.core.similarity import Array, Sim3
from recon.core.types import Camera, DepthMap, FrameGeometry
from recon.exports.ply import read_points
from recon.exports.trajectory import Trajectory
from recon.store.map import ReconstructedMap

MILLIMETRES = 1000.0
MAX_SURFACE_POINTS = 2_000_000
MAX_CLOUD_POINTS = 200_000


@dataclass(frozen=True)
class TrueDepth:
    """True depth images on disk. paths: by frame index. scale: the stored value of one unit of length.

    Raises SettingsError if the scale is not positive.
    """

    paths: dict[int, Path]
    scale: float = MILLIMETRES

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise SettingsError(f"--depth-scale must be positive, got {self.scale:g}.")

    def read(self, index: int) -> DepthMap:
        """Depth (h, w) along z, 0 = none. Raises SourceError for a file that is not a 16-bit image with one channel."""
        path = self.paths[index]
        stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if stored is None or stored.dtype != np.uint16 or stored.ndim != 2:
            found = "cannot be read" if stored is None else f"has {stored.dtype} values of shape {stored.shape}"
            raise SourceError(f"The depth image {path} {found}, expected a 16-bit PNG with one channel.")
        return np.asarray(stored / self.scale, dtype=np.float32)


@dataclass(frozen=True)
class DepthEvaluation:
    """Errors of depth relative to the true depth, over the pixels kept: those where map and truth both have depth.

    frames: depth images compared. median_error: after the alignment of the trajectory. median_error_frame_scaled: after
    scaling every frame by its median ratio of true to estimated depth. kept: share of the pixels with true depth that
    have depth in the map; those of frames that the run read but could not place count as not kept.
    """

    frames: int
    median_error: float
    median_error_frame_scaled: float
    kept: float


@dataclass(frozen=True)
class CloudEvaluation:
    """Distance from the cloud's points to the nearest true surface point, in the reference's unit.

    The surface is sampled by the pixels of the true depth images. Where no image shows the surface, the distance is
    that to the nearest point that one does show, so the figure is an upper bound. scene_size: diagonal of the box that
    holds 98% of the true points along each axis.
    """

    points: int
    median_distance: float
    scene_size: float

    @property
    def share(self) -> float:
        """Median distance as a share of the scene's size."""
        return self.median_distance / self.scene_size


def find_true_depth(folder: Path, scale: float = MILLIMETRES) -> TrueDepth:
    """The PNG files of ``folder``; the last number in a file's name is the index of its frame.

    Raises SourceError if the folder holds none, or two for one frame.
    """
    paths: dict[int, Path] = {}
    for path in sorted(folder.glob("*.png")):
        numbers = re.findall(r"\d+", path.stem)
        if not numbers:
            continue
        if int(numbers[-1]) in paths:
            raise SourceError(f"{paths[int(numbers[-1])]} and {path.name} both belong to frame {numbers[-1]}.")
        paths[int(numbers[-1])] = path
    if not paths:
        raise SourceError(f"{folder} holds no depth images: 16-bit PNG files with the frame's index in the name.")
    return TrueDepth(paths, scale)


def evaluate_depth(reconstruction: ReconstructedMap, truth: TrueDepth, reference_from_world: Sim3) -> DepthEvaluation:
    """Compare the map's depth with the truth, at every pixel of the true depth images of all frames that were read.

    Raises SourceError if the truth cannot be read, or if no pixel has depth both there and in the map.
    """
    errors, scaled_errors, expected = [], [], 0
    for frame, geometry in reconstruction.geometry():
        if frame.index not in truth.paths:
            continue
        true_depth = truth.read(frame.index)
        found = depth_at_truth(geometry, true_depth) * (frame.world_from_cam.scale * reference_from_world.scale)
        kept = found > 0
        ratio = found[kept] / true_depth[kept]
        errors.append(np.abs(ratio - 1))
        scaled_errors.append(np.abs(ratio / np.median(ratio) - 1) if len(ratio) else ratio)
        expected += int(np.count_nonzero(true_depth))
    if not sum(map(len, errors)):
        raise SourceError(
            f"No pixel has depth both in the map and in the {len(truth.paths)} true depth images. The last number in a "
            "depth image's name must be the index of its frame in the source."
        )
    lost = [truth.read(frame.index) for frame in reconstruction.skipped if frame.index in truth.paths]
    expected += sum(int(np.count_nonzero(depth)) for depth in lost)
    return DepthEvaluation(
        frames=len(errors) + len(lost),
        median_error=float(np.median(np.concatenate(errors))),
        median_error_frame_scaled=float(np.median(np.concatenate(scaled_errors))),
        kept=sum(map(len, errors)) / expected,
    )


def depth_at_truth(geometry: FrameGeometry, true_depth: DepthMap) -> DepthMap:
    """The frame's stored depth (h, w) at the pixels of the true depth image, 0 where either has none."""
    rows, columns = np.nonzero(true_depth)
    rays = image_rays(geometry.camera, rows, columns, true_depth.shape)
    pixels = rays @ geometry.intrinsics.T
    height, width = geometry.depth.shape
    inside = ((pixels[:, :2] >= 0) & (pixels[:, :2] < (width, height))).all(axis=1)  # also false for nan
    found_columns, found_rows = pixels[inside, :2].astype(np.int64).T
    found = np.zeros_like(true_depth)
    found[rows[inside], columns[inside]] = geometry.depth[found_rows, found_columns]
    return found


def evaluate_cloud(
    cloud: Path, truth: TrueDepth, reference: Trajectory, lens: Camera, reference_from_world: Sim3
) -> CloudEvaluation:
    """Distance of the cloud's points, aligned, from the surface that the true depth images show.

    reference: true poses, whose timestamps are frame indices. lens: the true one, of the frames at original size.
    At most MAX_CLOUD_POINTS evenly chosen points of the PLY file ``cloud`` are measured.
    Raises SourceError if the truth cannot be read or has no pose, and MapError if the cloud cannot be read.
    """
    surface = true_surface(truth, reference, lens)
    positions = read_points(cloud).positions
    positions = reference_from_world.apply(positions[:: 1 + len(positions) // MAX_CLOUD_POINTS])
    distances = KDTree(surface).query(positions, workers=-1)[0]
    low, high = np.percentile(surface, [1, 99], axis=0)
    return CloudEvaluation(len(positions), float(np.median(distances)), float(np.linalg.norm(high - low)))


def true_surface(truth: TrueDepth, reference: Trajectory, lens: Camera) -> Array:
    """At most MAX_SURFACE_POINTS points (n, 3) in the reference's frame, evenly chosen from the pixels of all depth
    images.

    Raises SourceError if no depth image has a pose with its index as timestamp.
    """
    poses = dict(zip(np.round(reference.timestamps).astype(int).tolist(), reference.world_from_cam, strict=True))
    posed = [index for index in truth.paths if index in poses]
    if not posed:
        raise SourceError(
            f"None of the {len(truth.paths)} depth images has a reference pose whose timestamp is its frame's index."
        )
    points = np.concatenate([_unproject(truth.read(index), poses[index], lens) for index in posed])
    return points[:: 1 + len(points) // MAX_SURFACE_POINTS]


def image_rays(lens: Camera, rows: NDArray[np.int64], columns: NDArray[np.int64], shape: tuple[int, ...]) -> Array:
    """Rays (n, 3) with z = 1 through pixel centres of an image (h, w) with the same view as the frame of ``lens``."""
    height, width = shape
    pixels = np.stack([(columns + 0.5) * (lens.width / width), (rows + 0.5) * (lens.height / height)], axis=1)
    rays = np.ones((len(pixels), 3))
    rays[:, :2] = points_at_depth_one(colmap_camera(lens), pixels)
    return rays


def _unproject(depth: DepthMap, world_from_cam: Array, lens: Camera) -> Array:
    """Points (n, 3) of the world at all pixels that have depth."""
    rows, columns = np.nonzero(depth)
    points_cam = image_rays(lens, rows, columns, depth.shape) * depth[rows, columns, None].astype(np.float64)
    return np.asarray(points_cam @ world_from_cam[:3, :3].T + world_from_cam[:3, 3])
