"""Frames between the keyframes of an exact map of a plane, rendered at known poses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.core.similarity import Sim3
from recon.core.types import Camera, Frame, PlacedFrame, SkippedFrame, SparsePoints
from recon.mapping.between import NO_POINTS, TOO_LITTLE, FrameLocaliser, to_original, to_small
from recon.store.map import ReconstructedMap
from tests.support import FISHEYE, OPENCV, RADIAL, forget_depth, make_map, render


def halfway(reconstruction: ReconstructedMap, row: int) -> PlacedFrame:
    """A camera between a frame of the map and the next."""
    first, second = (frame.world_from_cam for frame in reconstruction.frames[row : row + 2])
    left, _, right = np.linalg.svd((first.rotation + second.rotation) / 2)
    pose = Sim3(1.0, left @ right, (first.translation + second.translation) / 2)
    return PlacedFrame(2 * row + 1, 0.1 * row + 0.05, f"{row}.jpg", reconstruction.frames[row].camera, pose)


def frame_at(place: PlacedFrame) -> Frame:
    image = render(place)
    size, mask = (image.shape[1], image.shape[0]), np.ones(image.shape[:2], dtype=bool)
    return Frame(place.index, place.timestamp, image, place.name, size, "lens", 0.0, mask)


@pytest.mark.parametrize("camera", [RADIAL, OPENCV, FISHEYE], ids=lambda camera: camera.model)
def test_passed_over_frames_get_their_true_poses(camera: Camera, tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path, (camera,))
    localiser = FrameLocaliser(reconstruction)
    for row in range(len(reconstruction.frames) - 1):
        truth = halfway(reconstruction, row)
        found = localiser.place(frame_at(truth))
        assert isinstance(found, PlacedFrame), found
        assert (found.index, found.timestamp, found.name) == (truth.index, truth.timestamp, truth.name)
        assert found.camera == camera
        moved = found.cam_from_world @ np.linalg.inv(truth.cam_from_world)
        assert np.linalg.norm(moved[:3, 3]) < 0.02  # of a step of 0.4 between keyframes
        assert np.abs(moved[:3, :3] - np.eye(3)).max() < 0.005


@pytest.mark.parametrize("row", [1, 3])
def test_across_a_zoom_a_frame_gets_the_lens_of_the_neighbour_that_fits(tmp_path: Path, row: int) -> None:
    """Of two equally near neighbours, the first has the wrong lens."""
    tele = replace(RADIAL, params=(182.0, *RADIAL.params[1:]))
    reconstruction = make_map(tmp_path, (RADIAL, tele))
    truth = replace(halfway(reconstruction, row), camera=RADIAL)
    found = FrameLocaliser(reconstruction).place(frame_at(truth))
    assert isinstance(found, PlacedFrame), found
    assert found.camera == RADIAL
    assert np.linalg.norm(found.world_from_cam.translation - truth.world_from_cam.translation) < 0.05


def test_a_frame_of_another_scene_gets_no_place(tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path)
    truth = halfway(reconstruction, 1)
    frame = frame_at(truth)
    noise = np.random.default_rng(0).integers(0, 256, frame.image.shape).astype(np.uint8)
    other = Frame(3, 0.1, noise, "noise.jpg", frame.original_size, "lens", 0.0, frame.mask)
    localiser = FrameLocaliser(reconstruction)
    assert localiser.place(other) == SkippedFrame(3, "noise.jpg", TOO_LITTLE, "passed")
    assert isinstance(localiser.place(frame), PlacedFrame)  # the next frame still gets a pose


def test_a_map_without_points_places_frames_by_its_depth(tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path)
    localiser = FrameLocaliser(replace(reconstruction, points=SparsePoints.empty()))
    for row in range(len(reconstruction.frames) - 1):
        truth = halfway(reconstruction, row)
        found = localiser.place(frame_at(truth))
        assert isinstance(found, PlacedFrame), found
        moved = found.cam_from_world @ np.linalg.inv(truth.cam_from_world)
        assert np.linalg.norm(moved[:3, 3]) < 0.03


def test_a_map_without_points_and_depth_is_reported(tmp_path: Path) -> None:
    reconstruction = make_map(tmp_path)
    forget_depth(tmp_path)
    empty = ReconstructedMap(tmp_path, reconstruction.frames, (), SparsePoints.empty(), complete=True)
    found = FrameLocaliser(empty).place(frame_at(halfway(reconstruction, 0)))
    assert found == SkippedFrame(1, "0.jpg", NO_POINTS, "passed")


def test_pixel_centres_are_converted_exactly() -> None:
    grey = np.zeros((60, 80), np.uint8)
    assert np.allclose(to_small(np.array([[1.0, 1.0], [159.0, 119.0]]), RADIAL, grey), [[0, 0], [79, 59]])
    pixels = np.array([[3.25, 7.75]])
    assert np.allclose(to_original(to_small(pixels, RADIAL, grey), RADIAL, grey), pixels)
