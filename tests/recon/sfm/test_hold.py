"""Frames that too few points hold are left out of a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from recon.core.types import Camera, SparseModel, SparsePoints
from recon.sfm.hold import FEWEST_HOLDING, without_loose

CAMERA = Camera("SIMPLE_RADIAL", 640, 480, (500.0, 320.0, 240.0, 0.0))
PLENTY = [[0, 1, 2, 3]] * 150


def model(tracks: Sequence[Sequence[int]]) -> SparseModel:
    """Points that the given frames see, each at its own place and pixel."""
    where = np.array([index for track in tracks for index in track], dtype=np.int64)
    ids = np.repeat(np.arange(len(tracks)), [len(track) for track in tracks]).astype(np.int64)
    frames = sorted(set(where.tolist()))
    points = SparsePoints(
        positions=np.arange(len(tracks))[:, None] * np.ones(3),
        colours=np.zeros((len(tracks), 3), dtype=np.uint8),
        point_ids=ids,
        frame_indices=where,
        pixels=np.column_stack([ids, where]).astype(np.float64),
    )
    return SparseModel(dict.fromkeys(frames, np.eye(4)), dict.fromkeys(frames, CAMERA), points)


@pytest.mark.parametrize("holding", [0, 8, FEWEST_HOLDING - 1, FEWEST_HOLDING])
def test_a_frame_is_left_out_if_too_few_points_hold_it(holding: int) -> None:
    """Points that only one other frame sees do not count, however many they are."""
    found = without_loose(model([*PLENTY, *[[2, 3, 4]] * holding, *[[3, 4]] * 100]))
    assert (4 in found.cam_from_model) == (holding >= FEWEST_HOLDING)
    assert set(found.cam_from_model) == set(found.cameras) == set(found.points.frame_indices.tolist())


def test_the_points_that_are_left_keep_their_places_and_pixels() -> None:
    found = without_loose(model([[3, 4], *PLENTY, [2, 3, 4], [3, 4]])).points
    assert found.positions[:, 0].tolist() == list(range(1, 152))
    assert found.pixels.tolist() == [
        *([float(point), float(frame)] for point in range(1, 151) for frame in range(4)),
        [151.0, 2.0],
        [151.0, 3.0],
    ]
    assert found.point_ids[-2:].tolist() == [150, 150]


def test_frames_that_hang_on_a_loose_frame_go_with_it() -> None:
    pair = [*[[3, 4, 5]] * 5, *[[4, 5]] * 300]
    assert list(without_loose(model([*PLENTY, *pair])).cam_from_model) == [0, 1, 2, 3]


def test_where_all_frames_see_little_fewer_points_are_enough() -> None:
    assert len(without_loose(model([*[[0, 1, 2, 3]] * 40, *[[2, 3, 4]] * 8])).cam_from_model) == 5


@pytest.mark.parametrize("tracks", [[], [[0, 1]] * 300])
def test_models_of_two_frames_and_none_stay_as_they_are(tracks: list[list[int]]) -> None:
    assert len(without_loose(model(tracks)).cam_from_model) == 2 * bool(tracks)
