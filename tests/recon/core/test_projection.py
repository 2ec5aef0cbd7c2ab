"""Points from pixels with depth, compared with a projection by hand."""

from __future__ import annotations

import numpy as np

from recon.core.projection import back_project, moved_to_chunk, points_in_camera, points_in_chunk
from recon.core.similarity import Sim3
from tests.support import chunk_geometry

INTRINSICS = np.array([[500.0, 0, 320], [0, 400, 240], [0, 0, 1]])


def test_points_project_back_onto_their_pixels_at_their_depth() -> None:
    pixels, depth = np.array([[320.0, 240], [820, 240], [320, 640]]), np.array([2.0, 3, 0.5])
    found = back_project(pixels, depth, INTRINSICS)
    assert np.allclose(found, [[0, 0, 2], [3, 0, 3], [0, 0.5, 0.5]])


def test_points_of_a_depth_map_come_from_pixel_centres() -> None:
    frame = chunk_geometry(range(2), Sim3.identity()).frames[1]
    rows, columns = np.nonzero(frame.depth > 0)
    points = points_in_camera(frame, rows, columns)
    projected = points @ frame.intrinsics.T
    assert np.allclose(projected[:, :2] / projected[:, 2:], np.column_stack([columns + 0.5, rows + 0.5]))
    assert np.array_equal(points[:, 2].astype(np.float32), frame.depth[rows, columns])
    in_chunk = points_in_chunk(frame, rows, columns)
    assert np.allclose(Sim3.from_matrix(frame.cam_from_chunk).apply(in_chunk), points)
    assert np.array_equal(in_chunk, moved_to_chunk(points, frame.cam_from_chunk))
