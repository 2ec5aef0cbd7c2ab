"""Undistorted copies of frames: the right size, the right pixels, and no invented pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recon.core.types import Camera
from recon.depth.views import pinhole, undistort
from tests.support import (
    FISHEYE,
    OPENCV,
    RADIAL,
    frame_of,
    hit_plane,
    pixel_centres,
    placed_frame,
    plane_texture,
    render,
)

LENSES = (RADIAL, OPENCV, FISHEYE)


def test_pinhole_of_a_smaller_copy() -> None:
    camera = Camera("OPENCV", 1920, 1080, (1500.0, 1510.0, 950.0, 545.0, 0.1, 0.0, 0.0, 0.0))
    intrinsics, size = pinhole(camera, 320)
    assert size == (320, 180)
    np.testing.assert_allclose(intrinsics, [[250, 0, 950 / 6], [0, 1510 / 6, 545 / 6], [0, 0, 1]])


def test_small_pictures_are_not_enlarged() -> None:
    intrinsics, size = pinhole(RADIAL, 320)
    assert size == (160, 120)
    np.testing.assert_allclose(intrinsics, RADIAL.matrix())


@pytest.mark.parametrize("camera", LENSES)
@pytest.mark.parametrize("longest_side", [160, 80])
def test_undistorted_pixels_show_what_the_pinhole_sees(camera: Camera, longest_side: int) -> None:
    placed = placed_frame(3, camera)
    frame = replace(frame_of(3), image=render(placed))
    image, mask = undistort(frame, camera, longest_side)
    intrinsics, (width, height) = pinhole(camera, longest_side)
    assert image.shape == (height, width, 3)
    points, _ = hit_plane(placed, pixel_centres(width, height) @ np.linalg.inv(intrinsics).T)
    difference = np.abs(image.astype(int) - plane_texture(points))[mask]
    assert mask.mean() > 0.8
    assert np.percentile(difference, 99) <= 8
    assert np.median(difference) <= 2


def test_pixels_that_the_lens_did_not_see_are_masked() -> None:
    """With pincushion distortion, the pinhole's corners lie outside the picture."""
    pincushion = Camera("SIMPLE_RADIAL", 160, 120, (140.0, 80.0, 60.0, 0.3))
    _, mask = undistort(frame_of(0), pincushion, 160)
    assert not mask[0, 0]
    assert not mask[-1, -1]
    assert mask[60, 80]
    assert 0.7 < mask.mean() < 0.95


def test_masked_pixels_stay_masked_after_undistortion() -> None:
    frame = frame_of(0)
    frame.mask[:, 80:] = False
    _, mask = undistort(frame, RADIAL, 80)
    assert mask[5:-5, 5:39].all()
    assert not mask[:, 41:].any()
