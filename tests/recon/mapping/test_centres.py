"""Principal points that move from frame to frame show in the errors that poses leave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recon.core.cameras import colmap_camera
from recon.core.similarity import Array, Sim3
from recon.core.types import Camera, PlacedFrame, SparsePoints
from recon.mapping.centres import FEWEST_FRAMES, View, centres_move
from recon.mapping.sanity import examine
from tests.recon.mapping.test_sanity import DEPTHS, FRAMES
from tests.support import sparse_points

CAMERA = Camera("SIMPLE_RADIAL", 640, 480, (500.0, 320.0, 240.0, 0.0))
NOISE = 0.3  # px


def views_of(shifts: Array) -> tuple[list[View], SparsePoints]:
    """Frames that see all points through principal points shifted by ``shifts`` (n, 2) [px], which turning the
    camera makes up for as far as it can.
    """
    random = np.random.default_rng(0)
    positions = random.uniform([-2.4, -1.7, 3], [2.4, 1.7, 6], (300, 3))
    views, pixels = [], []
    for index, shift in enumerate(shifts):
        (right, down), pose = shift / 500, np.eye(4)
        turn = np.array([[1, 0, right], [0, 1, down], [-right, -down, 1]])
        pose[:3, :3] = np.linalg.svd(turn)[0] @ np.linalg.svd(turn)[2]
        pose[0, 3] = 0.1 * index
        seen = positions + np.array([0.1 * index, 0, 0])
        pixels.append(np.asarray(colmap_camera(CAMERA).img_from_cam(seen)) + shift)
        views.append((index, CAMERA, pose))
    observed = np.vstack(pixels)
    return views, SparsePoints(
        positions=positions,
        colours=np.zeros((300, 3), dtype=np.uint8),
        point_ids=np.tile(np.arange(300), len(shifts)),
        frame_indices=np.repeat(np.arange(len(shifts)), 300),
        pixels=observed + random.normal(0, NOISE, observed.shape),
    )


@pytest.mark.parametrize(("most", "moves"), [(0, False), (1, False), (15, True), (38, True)])
def test_a_moving_centre_is_told_from_noise(most: int, *, moves: bool) -> None:
    shifts = np.random.default_rng(1).uniform(-most, most, (12, 2))
    assert centres_move(*views_of(shifts)) == moves


def test_too_few_frames_or_points_show_nothing() -> None:
    views, points = views_of(np.full((FEWEST_FRAMES, 2), 38.0))
    assert centres_move(views, points)
    assert not centres_move(views[1:], points)
    assert not centres_move(views, SparsePoints.empty())


def test_a_centre_that_moves_is_a_doubt() -> None:
    found = views_of(np.random.default_rng(1).uniform(-38, 38, (8, 2)))[1]
    exact = sparse_points(tuple(FRAMES.values()))
    assert examine(FRAMES, exact, DEPTHS) == ()
    assert any("the centre of the image moves" in why for why in examine(_placed(8), found, DEPTHS))


def _placed(count: int) -> dict[int, PlacedFrame]:
    views, _ = views_of(np.random.default_rng(1).uniform(-38, 38, (count, 2)))
    return {
        index: replace(FRAMES[0], index=index, camera=CAMERA, world_from_cam=Sim3.from_matrix(pose).inverse())
        for index, _, pose in views
    }
