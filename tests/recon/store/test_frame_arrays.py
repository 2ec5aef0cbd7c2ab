from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal

from recon.core.types import Camera, FrameGeometry
from recon.store.frame_arrays import CONFIDENCE_STEPS, pack, unpack
from tests.support import SAMPLE

CAMERA = Camera("PINHOLE", 640, 480, (500.0, 500.0, 320.0, 240.0))
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))
HALVES = arrays(np.float16, SHAPES, elements=st.floats(0, 65504, width=16))


def frame(depth: np.ndarray, confidence: np.ndarray | None = None, colour: np.ndarray | None = None) -> FrameGeometry:
    """Frame 7 with some depth, sure and grey if nothing else is given."""
    sure = np.ones(depth.shape, np.float32) if confidence is None else confidence
    seen = np.full((*depth.shape, 3), 128, np.uint8) if colour is None else colour
    return FrameGeometry(7, np.eye(4), CAMERA, np.eye(3), depth.astype(np.float32), sure, seen)


@given(HALVES)
def test_depth_is_restored_to_the_last_bit_of_half_precision(depth: np.ndarray) -> None:
    assert_array_equal(unpack(pack(frame(depth)), 7).depth, depth.astype(np.float32))


@given(arrays(np.float32, SHAPES, elements=st.floats(0, 1, width=32)))
def test_confidence_is_rounded_but_stays_on_its_side_of_a_half(confidence: np.ndarray) -> None:
    back = unpack(pack(frame(np.ones(confidence.shape), confidence)), 7).confidence
    np.testing.assert_allclose(back, confidence, atol=0.5 / CONFIDENCE_STEPS + 0.5 / 255)
    assert_array_equal(back >= 0.5, confidence >= 0.5)
    assert_array_equal(back[confidence == 1], 1)


def test_depth_beyond_half_precision_is_left_out() -> None:
    back = unpack(pack(frame(np.array([[1.0, 65504, 65600, 1e30]]))), 7)
    assert_array_equal(back.depth, [[1, 65504, 0, 0]])
    assert_array_equal(back.confidence, [[1, 1, 0, 0]])


@pytest.mark.parametrize("propagated", [True, False])
def test_the_origin_of_the_depth_is_restored(propagated: bool) -> None:
    packed = pack(replace(frame(np.ones((2, 2))), propagated=propagated))
    assert unpack(packed, 7).propagated == propagated
    del packed["propagated_7"]
    assert not unpack(packed, 7).propagated  # as in older maps


def test_colour_is_restored_within_the_loss_of_its_jpeg() -> None:
    colour = cv2.cvtColor(cv2.imread(str(SAMPLE / "images" / "000000.jpg")), cv2.COLOR_BGR2RGB)
    back = unpack(pack(frame(np.ones(colour.shape[:2]), colour=colour)), 7).colour
    errors = back.astype(np.float64) - colour
    assert back.dtype == np.uint8
    assert np.sqrt((errors**2).mean()) < 2
    assert np.abs(errors.mean(axis=(0, 1))).max() < 0.2  # a swap of red and blue would be seen


def test_the_arrays_of_smooth_depth_are_mostly_zeros() -> None:
    rows, columns = np.mgrid[:48, :64]
    packed = pack(frame(2 + rows / 100 + columns / 300))["depth_7"]
    assert packed.shape == (2, 48, 64)
    assert (packed[1] == 0).mean() > 0.9


def test_plain_arrays_of_older_maps_are_read() -> None:
    random = np.random.default_rng(0)
    depth, levels = random.uniform(0.5, 9, (6, 8)).astype(np.float16), random.integers(0, 256, (6, 8), np.uint8)
    colour = random.integers(0, 256, (6, 8, 3), np.uint8)
    back = unpack({"depth_7": depth, "confidence_7": levels, "colour_7": colour}, 7)
    assert_array_equal(back.depth, depth.astype(np.float32))
    assert_array_equal(back.confidence, levels / np.float32(255))
    assert_array_equal(back.colour, colour)


WHOLE = pack(frame(np.ones((6, 8))))


@pytest.mark.parametrize(
    ("kind", "damaged"),
    [
        ("colour", np.zeros(20, np.uint8)),
        ("colour", np.zeros(0, np.uint8)),
        ("colour", np.zeros((40, 1), np.uint8)),
        ("colour", WHOLE["colour_7"].astype(np.float32)),
        ("colour", pack(frame(np.ones((4, 4))))["colour_7"]),
        ("confidence", np.uint8(7)),
        ("confidence", np.zeros((6, 7), np.uint8)),
        ("depth", np.zeros((1, 6, 8), np.uint8)),
        ("depth", np.zeros((6, 8), np.uint8)),
    ],
)
def test_damaged_arrays_are_refused(kind: str, damaged: np.ndarray) -> None:
    with pytest.raises(ValueError, match=f"the {kind} of frame 7 is damaged"):
        unpack(WHOLE | {f"{kind}_7": damaged}, 7)


def test_a_frame_without_arrays_is_refused() -> None:
    with pytest.raises(KeyError, match="depth_8"):
        unpack(pack(frame(np.ones((6, 8)))), 8)
