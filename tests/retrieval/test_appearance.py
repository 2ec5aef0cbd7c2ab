"""The comparison of a photo with the map from its pose, on a rendered room."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recon.core.similarity import Sim3
from recon.core.types import FrameGeometry
from recon.lab.synthetic.look_alikes import redecorated
from recon.mapping.appearance import SIDE, View
from retrieval.appearance import agreement
from tests.retrieval.maps import mapped_frame, take_photo


@pytest.fixture(scope="module")
def frames() -> list[FrameGeometry]:
    return [mapped_frame(4), mapped_frame(6)]


def between(frames: list[FrameGeometry]) -> Sim3:
    """From the first frame's camera to the second's, in the unit of both."""
    return Sim3.from_matrix(frames[1].cam_from_chunk @ np.linalg.inv(frames[0].cam_from_chunk))


def test_the_same_place_looks_alike(frames: list[FrameGeometry]) -> None:
    view = View.of(frames[0])
    assert max(view.grey.shape) == SIDE
    alike, overlap = agreement(frames[1].colour, frames[1].camera, between(frames), view)
    assert alike > 0.85
    assert 0.6 < overlap < 1
    brighter = (128 + frames[1].colour // 2).astype(np.uint8)
    assert agreement(brighter, frames[1].camera, between(frames), view)[0] == pytest.approx(alike, abs=0.05)


def test_a_wrong_pose_or_another_room_looks_different(frames: list[FrameGeometry]) -> None:
    view, camera = View.of(frames[0]), frames[1].camera
    shifted = Sim3(1.0, np.eye(3), np.array([0.6, 0.0, 0.0])) @ between(frames)
    assert agreement(frames[1].colour, camera, shifted, view)[0] < 0.5
    assert agreement(take_photo(6, redecorated(1)), camera, between(frames), view)[0] < 0.5


def test_nothing_is_compared_without_depth_or_detail(frames: list[FrameGeometry]) -> None:
    blind = View.of(replace(frames[0], depth=np.zeros_like(frames[0].depth)))
    assert agreement(frames[1].colour, frames[1].camera, between(frames), blind) == (0, 0)
    blank = np.full_like(frames[1].colour, 90)
    flat = View.of(replace(frames[0], colour=blank))
    assert agreement(blank, frames[1].camera, between(frames), flat)[0] == 0
