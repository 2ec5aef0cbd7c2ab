"""Verification by geometry, on rendered places whose similarity is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.core.similarity import Sim3
from recon.core.types import Frame, FrameGeometry
from recon.sfm.matching import Features, SiftMatcher
from retrieval import verification
from retrieval.verification import VerificationSettings, Verifier, verify
from tests.retrieval.scenes import photograph

SETTINGS = VerificationSettings()
FIRST = Sim3(0.4, Rotation.from_euler("xyz", [0.3, -0.2, 1.0]).as_matrix(), np.array([1.0, 2.0, -1.0]))
SECOND = Sim3(3.0, Rotation.from_euler("xyz", [-1.0, 0.5, 0.1]).as_matrix(), np.array([-5.0, 0.5, 4.0]))


@pytest.fixture(scope="module")
def here() -> list[FrameGeometry]:
    return photograph([8, 10], FIRST)


@pytest.fixture(scope="module")
def again() -> list[FrameGeometry]:
    return photograph([9, 11], SECOND)


def test_scale_gap_of_two_chunks_is_found(here: list[FrameGeometry], again: list[FrameGeometry]) -> None:
    # An optimiser that starts at the identity cannot bridge this gap; the loop must bring the scale with it.
    found = verify(here, again, SETTINGS)
    assert found.reason == ""
    assert found.first_from_second is not None
    true = FIRST @ SECOND.inverse()
    difference = true.inverse() @ found.first_from_second
    assert found.first_from_second.scale == pytest.approx(true.scale, rel=0.01)
    assert Rotation.from_matrix(difference.rotation).magnitude() < np.radians(0.5)
    assert np.linalg.norm(difference.translation) < 0.05 * SECOND.scale  # 5 cm in the room
    assert found.inliers >= SETTINGS.min_inliers
    assert found.residual < 0.005
    assert found.agreement > 0.9


def test_order_of_the_places_only_inverts_the_similarity(here: list[FrameGeometry], again: list[FrameGeometry]) -> None:
    forth, back = verify(here, again, SETTINGS), verify(again, here, SETTINGS)
    assert forth.first_from_second is not None
    assert back.first_from_second is not None
    both = forth.first_from_second @ back.first_from_second
    assert both.scale == pytest.approx(1, abs=0.02)
    assert Rotation.from_matrix(both.rotation).magnitude() < np.radians(1)


def test_same_input_gives_the_same_answer(here: list[FrameGeometry], again: list[FrameGeometry]) -> None:
    once, twice = verify(here, again, SETTINGS), verify(here, again, SETTINGS)
    assert once.first_from_second is not None
    assert twice.first_from_second is not None
    assert np.array_equal(once.first_from_second.matrix(), twice.first_from_second.matrix())


@pytest.mark.parametrize(("kept", "described"), [(256, 4), (3, 8)])
def test_frames_that_are_compared_again_are_described_once(
    kept: int, described: int, here: list[FrameGeometry], again: list[FrameGeometry], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(SiftMatcher):
        def describe(self, frame: Frame) -> Features:
            seen.append(frame.index)
            return super().describe(frame)

    seen = list[int]()
    monkeypatch.setattr(verification, "FRAMES_IN_MEMORY", kept)
    verifier = Verifier(replace(SETTINGS, matcher=Counting(max_features=1000, contrast=0.02)))
    first, second = (verifier.in_turn([(here, again)], 1)[0] for _ in range(2))
    assert len(seen) == described and set(seen) == {8, 9, 10, 11}
    assert (first.inliers, first.residual) == (second.inliers, second.residual) and not first.reason


def test_another_part_of_the_room_is_rejected(here: list[FrameGeometry]) -> None:
    found = verify(here, photograph([38, 40], SECOND), SETTINGS)
    assert found.first_from_second is None
    assert found.reason


def test_mirrored_place_is_rejected(here: list[FrameGeometry]) -> None:
    mirrored = [
        replace(
            frame, colour=np.ascontiguousarray(frame.colour[:, ::-1]), depth=np.ascontiguousarray(frame.depth[:, ::-1])
        )
        for frame in photograph([9, 11], SECOND)
    ]
    assert verify(here, mirrored, SETTINGS).first_from_second is None


def test_the_same_picture_at_another_depth_is_rejected(here: list[FrameGeometry], again: list[FrameGeometry]) -> None:
    # A poster of the place, flat on a wall: every feature matches, but the surfaces differ.
    poster = [replace(frame, depth=np.full_like(frame.depth, 2.0)) for frame in again]
    assert verify(here, poster, SETTINGS).first_from_second is None


def test_frames_without_depth_or_texture_are_rejected(here: list[FrameGeometry], again: list[FrameGeometry]) -> None:
    blind = [replace(frame, depth=np.zeros_like(frame.depth)) for frame in again]
    blank = [replace(frame, colour=np.full_like(frame.colour, 90)) for frame in again]
    for frames in (blind, blank):
        found = verify(here, frames, SETTINGS)
        assert found.first_from_second is None
        assert "features" in found.reason
