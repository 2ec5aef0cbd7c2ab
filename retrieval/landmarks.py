"""What a photo is matched with: the local features of a map's frames, each with its place in the world.

Where the frame observes a triangulated point, the feature lies at that point; elsewhere at the frame's dense depth,
unless that is doubtful or at an edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from recon.core.cameras import colmap_camera, points_at_depth_one
from recon.core.errors import MapError
from recon.core.similarity import Array
from recon.core.types import Frame, FrameGeometry, PlacedFrame
from recon.sfm.matching import Features, Matcher
from recon.sources.base import SourceOptions, working_image
from recon.sources.decoding import UnreadableImage, read_photo
from recon.store.map import ReconstructedMap
from recon.store.masks import resized_mask

NEAR = 1.0  # px of the working image between a feature and the observation of a point
STEEPEST = 0.03  # relative difference of depth beside a feature; more is an edge
MOST = 1024  # landmarks of a frame; those at triangulated points, which several frames have seen, come first
WORKING_SIZE = SourceOptions().size


@dataclass(frozen=True, eq=False)
class Landmarks:
    """The features of one frame that have a place.

    pixels: (n, 2) in the original. descriptors: (n, 128), see ``SiftMatcher``. points: (n, 3) in the world.
    """

    pixels: NDArray[np.float32]
    descriptors: NDArray[np.uint8]
    points: NDArray[np.float32]

    @property
    def features(self) -> Features:
        """For a matcher."""
        keypoints = np.zeros((len(self.pixels), 4), np.float32)
        keypoints[:, :2], keypoints[:, 2] = self.pixels, 1.0
        return Features(keypoints, self.descriptors)


def image_of(reconstruction: ReconstructedMap, placed: PlacedFrame) -> Frame:
    """A frame of the map with its image at the working size and the mask of the run.

    Raises MapError if the image is missing or damaged.
    """
    path = reconstruction.images / placed.name
    try:
        pixels = read_photo(path).pixels
    except (UnreadableImage, OSError) as error:
        raise MapError(f"{path}, an image of the map, cannot be read: {error}. Restore it.") from error
    image = working_image(pixels, WORKING_SIZE)
    mask = resized_mask(reconstruction.folder, placed.index, (image.shape[0], image.shape[1]))
    size = (pixels.shape[1], pixels.shape[0])
    return Frame(placed.index, placed.timestamp, image, placed.name, size, "", 0.0, mask)


class LandmarkFinder:
    """Finds the landmarks of a map's frames."""

    def __init__(self, reconstruction: ReconstructedMap, matcher: Matcher) -> None:
        self._points, self._matcher = reconstruction.points, matcher
        self._rows = reconstruction.points.rows_by_frame()

    def landmarks(self, frame: Frame, placed: PlacedFrame, geometry: FrameGeometry) -> Landmarks:
        """The features of a frame with its image, see ``image_of``, that have a place."""
        features = self._matcher.describe(frame)
        pixels = features.keypoints[:, :2].astype(np.float64)
        points = _points_by_depth(pixels, placed, geometry)
        ids = self._observed(frame, pixels)
        points[ids >= 0] = self._points.positions[ids[ids >= 0]]
        order = np.lexsort((-features.keypoints[:, 2], ids < 0))
        kept = order[np.isfinite(points[order]).all(axis=1)][:MOST]
        return Landmarks(features.keypoints[kept, :2], features.descriptors[kept], points[kept].astype(np.float32))

    def _observed(self, frame: Frame, pixels: Array) -> NDArray[np.int64]:
        """The sparse point (n,) that the frame observes at each pixel (n, 2), -1 for none."""
        rows = self._rows.get(frame.index, np.zeros(0, np.int64))
        ids = np.full(len(pixels), -1, dtype=np.int64)
        if len(rows) and len(pixels):
            pixel = frame.original_size[0] / frame.image.shape[1]
            distances, nearest = map(np.asarray, cKDTree(self._points.pixels[rows]).query(pixels))
            near = distances <= NEAR * pixel
            ids[near] = self._points.point_ids[rows[nearest[near]]]
        return ids


def _points_by_depth(pixels: Array, placed: PlacedFrame, geometry: FrameGeometry) -> Array:
    """World points (n, 3) of pixels (n, 2) of a frame's original by its depth, NaN without certain depth."""
    depth, (height, width) = geometry.sure().depth, geometry.depth.shape
    rays = np.column_stack([points_at_depth_one(colmap_camera(placed.camera), pixels), np.ones(len(pixels))])
    with np.errstate(invalid="ignore"):  # beyond the reach of the lens
        columns, rows = np.floor((rays @ geometry.intrinsics.T)[:, :2]).T
        inside = (columns >= 0) & (rows >= 0) & (columns < width) & (rows < height)
    at = rows[inside].astype(np.int64), columns[inside].astype(np.int64)
    found = np.full((len(pixels), 3), np.nan)
    found[inside] = placed.world_from_cam.apply(rays[inside] * _smooth(depth)[at][:, None])
    return found


def _smooth(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Depth (h, w), NaN where it is missing or has an edge in the 3x3 around."""
    around = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(depth, around), cv2.dilate(depth, around)
    return np.where((low > 0) & (high <= (1 + STEEPEST) * low), depth, np.float32(np.nan))
