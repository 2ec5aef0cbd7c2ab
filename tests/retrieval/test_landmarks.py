"""Places of features in exact maps of a plane, with distorted lenses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.core.types import Camera, Frame, PlacedFrame, SparsePoints
from recon.sfm.matching import Features
from recon.store.map import ReconstructedMap
from retrieval.landmarks import LandmarkFinder, Landmarks, image_of
from tests.support import FISHEYE, OPENCV, PLANE_DEPTH, RADIAL, colmap_camera, hit_plane, make_map, pixel_centres

STEP = 7  # px between features


class Grid:
    """Features on a grid of the original, the later ones larger."""

    def describe(self, frame: Frame) -> Features:
        width, height = frame.original_size
        pixels = pixel_centres(width, height)[::STEP, ::STEP, :2].reshape(-1, 2)
        keypoints = np.column_stack([pixels, np.arange(len(pixels)), np.zeros(len(pixels))]).astype(np.float32)
        return Features(keypoints, np.zeros((len(pixels), 128), np.uint8), (width, height))

    def match(self, first: Features, second: Features) -> np.ndarray:
        raise NotImplementedError


def landmarks_of(reconstruction: ReconstructedMap, points: SparsePoints) -> tuple[Landmarks, PlacedFrame]:
    finder = LandmarkFinder(replace(reconstruction, points=points), Grid())
    placed, geometry = next(reconstruction.geometry())
    return finder.landmarks(image_of(reconstruction, placed), placed, geometry), placed


@pytest.mark.parametrize("camera", [RADIAL, OPENCV, FISHEYE])
def test_features_without_a_point_lie_at_the_depth(tmp_path: Path, camera: Camera) -> None:
    marks, placed = landmarks_of(make_map(tmp_path, (camera,)), SparsePoints.empty())
    assert len(marks.points) > 200
    rays = np.ones((len(marks.pixels), 3))
    rays[:, :2] = np.asarray(colmap_camera(camera).cam_from_img(marks.pixels.astype(np.float64)))
    true, _ = hit_plane(placed, rays)
    assert np.linalg.norm(marks.points - true, axis=1).max() < 0.03  # a pixel of depth is 0.06 wide


def test_features_at_an_observation_lie_at_its_point_and_come_first(tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path)
    frame = reconstruction.frames[0]
    pixels = np.array([[STEP + 0.8, 2 * STEP + 0.4], [80.9, 63.5]])  # near a feature, and near none
    anywhere = np.array([[7.0, 8.0, 9.0], [1.0, 1.0, 1.0]])
    points = SparsePoints(anywhere, np.zeros((2, 3), np.uint8), np.array([0, 1]), np.full(2, frame.index), pixels)
    marks, _ = landmarks_of(reconstruction, points)
    assert np.array_equal(marks.pixels[0], [STEP + 0.5, 2 * STEP + 0.5])
    assert np.array_equal(marks.points[0], anywhere[0])
    assert np.allclose(marks.points[1:, 2], PLANE_DEPTH, atol=0.03)
