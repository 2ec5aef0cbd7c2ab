"""Doubts about a submap: lost and jumping scale, low confidence, blur."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recon.core.similarity import Sim3
from recon.core.types import FrameGeometry
from recon.mapping.doubts import Doubts, find_doubts, link, warnings
from tests.support import WALK, chunk_geometry

SOUND = Doubts(carried=0.4, carried_frame=3, scale_jump=0.01, jump_frame=5, confidence=0.5, sharpness=20.0)


@pytest.fixture(scope="module")
def frames() -> list[FrameGeometry]:
    return list(chunk_geometry(range(WALK), Sim3.identity()).frames)


def farther(frames: list[FrameGeometry], first: int, factor: float) -> list[FrameGeometry]:
    """The frames from ``first`` on, with motion and depth enlarged by ``factor``."""
    pivot = np.linalg.inv(frames[first - 1].cam_from_chunk)[:3, 3]
    stretched = []
    for frame in frames[first:]:
        pose = frame.cam_from_chunk.copy()
        centre = np.linalg.inv(pose)[:3, 3]
        pose[:3, 3] = -pose[:3, :3] @ (pivot + factor * (centre - pivot))
        stretched.append(replace(frame, cam_from_chunk=pose, depth=frame.depth * np.float32(factor)))
    return frames[:first] + stretched


def test_exact_geometry_raises_no_doubt(frames: list[FrameGeometry]) -> None:
    doubts = find_doubts(frames)
    assert doubts.carried > 0.5
    assert doubts.scale_jump < 0.005
    assert doubts.confidence == pytest.approx(0.8 * 58 / 60)  # two of sixty rows have no depth
    assert warnings([doubts, doubts]) == [[], []]


def test_a_jump_of_scale_is_located(frames: list[FrameGeometry]) -> None:
    doubts = find_doubts(farther(frames, 6, 1.5))
    assert doubts.scale_jump == pytest.approx(np.log(1.5), abs=0.05)
    assert doubts.jump_frame == 6
    ((warning,),) = warnings([doubts])
    assert "before frame 6" in warning


def test_a_blank_wall_carries_no_scale(frames: list[FrameGeometry]) -> None:
    blank = replace(frames[4], depth=np.zeros_like(frames[4].depth))
    doubts = find_doubts([*frames[:4], blank, *frames[5:]])
    assert (doubts.carried, doubts.carried_frame) == (0.0, 4)
    assert doubts.scale_jump < 0.005  # a jump that nothing shows is not guessed
    ((warning,),) = warnings([doubts])
    assert "frame 4" in warning


def test_filled_depth_is_no_evidence(frames: list[FrameGeometry]) -> None:
    guessed = [
        replace(
            frame, depth=frame.depth * np.float32(1 + 0.5 * (number % 2)), confidence=np.full_like(frame.depth, 0.4)
        )
        for number, frame in enumerate(frames)
    ]
    doubts = find_doubts(guessed)
    assert (doubts.carried, doubts.scale_jump) == (0.0, 0.0)
    half = frames[0].depth.shape[1] // 2
    mixed = [
        replace(
            frame,
            depth=np.where(np.arange(2 * half) < half, frame.depth, guess.depth),
            confidence=np.where(np.arange(2 * half) < half, frame.confidence, guess.confidence),
        )
        for frame, guess in zip(frames, guessed, strict=True)
    ]
    assert find_doubts(mixed).scale_jump < 0.005


def test_frames_that_face_away_from_each_other_share_nothing(frames: list[FrameGeometry]) -> None:
    behind = np.diag([-1.0, 1, -1, 1]) @ frames[1].cam_from_chunk
    assert link(frames[0], replace(frames[1], cam_from_chunk=behind)) == (0.0, 0.0)


def test_the_other_cameras_of_a_rig_carry_no_scale(frames: list[FrameGeometry]) -> None:
    back = np.diag([-1.0, 1, -1, 1])
    rig = [
        replace(one, index=2 * one.index + number, cam_from_chunk=pose)
        for one in frames
        for number, pose in enumerate((one.cam_from_chunk, back @ one.cam_from_chunk))
    ]
    assert find_doubts(rig).carried == 0.0
    assert find_doubts(rig, views=2).carried == find_doubts(frames).carried > 0.5


def test_a_single_frame_has_no_link_to_doubt(frames: list[FrameGeometry]) -> None:
    doubts = find_doubts(frames[:1])
    assert (doubts.carried, doubts.scale_jump) == (1.0, 0.0)


def test_confidence_and_sharpness_are_compared_with_the_run() -> None:
    unsure, blurred = replace(SOUND, confidence=0.2), replace(SOUND, sharpness=6.0)
    found = warnings([SOUND, unsure, SOUND, blurred])
    assert [len(sentences) for sentences in found] == [0, 1, 0, 1]
    assert "confidence" in found[1][0]
    assert "blurred" in found[3][0]
    assert warnings([]) == []


def test_blur_lowers_sharpness(frames: list[FrameGeometry]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 1), dtype=np.uint8).repeat(3, axis=2)
    smooth = (noise.astype(np.float32) + np.roll(noise, 1, axis=0) + np.roll(noise, 1, axis=1)) / 3
    sharp, soft = (find_doubts([replace(frames[0], colour=image.astype(np.uint8))]) for image in (noise, smooth))
    assert soft.sharpness < 0.6 * sharp.sharpness
