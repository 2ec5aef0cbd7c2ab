"""Poses of views far apart: which pairs are chosen, and how their errors are measured."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.core.types import Camera, FrameGeometry
from recon.lab.benchmark.wide_pairs import NO_POSE, MethodResult, Pair, pose_error
from recon.sfm.matching import Features

LENS = Camera("PINHOLE", 640, 480, (500.0, 500.0, 320.0, 240.0))
MOVED = np.eye(4)
MOVED[:3, :3] = Rotation.from_euler("y", 20, degrees=True).as_matrix()
MOVED[:3, 3] = -1.5, 0.1, 0.4


def view() -> FrameGeometry:
    none = np.zeros((1, 1), np.float32)
    return FrameGeometry(0, np.eye(4), LENS, LENS.matrix(), none, none, np.zeros((1, 1, 3), np.uint8))


def seen(points_cam: np.ndarray) -> Features:
    pixels = points_cam @ LENS.matrix().T
    keypoints = np.column_stack([pixels[:, :2] / pixels[:, 2:], np.ones(len(pixels)), np.zeros(len(pixels))])
    return Features(keypoints.astype(np.float32), np.zeros((len(pixels), 1), np.float32), (640, 480))


def test_the_error_is_the_larger_of_rotation_and_direction() -> None:
    points = np.random.default_rng(0).uniform((-2, -1.5, 4), (2, 1.5, 9), (80, 3))
    first, second = seen(points), seen(points @ MOVED[:3, :3].T + MOVED[:3, 3])
    rows = np.column_stack([np.arange(80), np.arange(80)]).astype(np.uint32)
    assert pose_error(Pair(view(), view(), MOVED, 0.3), first, second, rows) < 0.1
    turned = MOVED.copy()
    turned[:3, :3] = Rotation.from_euler("z", 7, degrees=True).as_matrix() @ MOVED[:3, :3]
    assert pose_error(Pair(view(), view(), turned, 0.3), first, second, rows) == pytest.approx(7, abs=0.1)
    assert pose_error(Pair(view(), view(), MOVED, 0.3), first, second, rows[:7]) == NO_POSE


def test_a_row_of_the_table() -> None:
    result = MethodResult("SIFT", (1.0, 6.0, 15.0, NO_POSE), 40.4, 0.2, 0.0305)
    assert result.row() == "| SIFT | 25% | 50% | 75% | 40 | 200 ms | 30 ms |"
