"""Rotary positions: rotations that depend on differences of positions alone."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from recon.network.layout import frame_layout
from recon.network.rotary import rotate, turn_for

CHANNELS = 16
coordinates = st.tuples(st.integers(0, 40), st.integers(0, 40))


def turned(vector: torch.Tensor, position: tuple[int, int]) -> torch.Tensor:
    turn = turn_for(torch.tensor([position]), CHANNELS, 100.0, torch.float64)
    return rotate(vector.view(1, 1, 1, -1), turn).flatten()


@given(coordinates, coordinates, coordinates)
def test_products_depend_on_the_difference_of_positions(
    first: tuple[int, int], second: tuple[int, int], shift: tuple[int, int]
) -> None:
    query, key = torch.randn(2, CHANNELS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = [(row + shift[0], column + shift[1]) for row, column in (first, second)]
    before = turned(query, first) @ turned(key, second)
    after = turned(query, moved[0]) @ turned(key, moved[1])
    np.testing.assert_allclose(before, after, atol=1e-12)


def test_single_channels_by_hand() -> None:
    """Channel 0 turns with the row into channel 4 at full speed, channel 9 with the column into 13 at a slower one."""
    row, column = 3, 5
    one = torch.zeros(CHANNELS, dtype=torch.float64)
    one[0] = 1
    expected = torch.zeros(CHANNELS, dtype=torch.float64)
    expected[0], expected[4] = np.cos(row), np.sin(row)
    torch.testing.assert_close(turned(one, (row, column)), expected)
    one = torch.zeros(CHANNELS, dtype=torch.float64)
    one[9] = 1
    expected = torch.zeros(CHANNELS, dtype=torch.float64)
    slower = column * 100 ** (-1 / 4)
    expected[9], expected[13] = np.cos(slower), np.sin(slower)
    torch.testing.assert_close(turned(one, (row, column)), expected)


def test_special_tokens_are_not_rotated_and_patches_count_from_one() -> None:
    layout = frame_layout(5, 2, 3, channels=CHANNELS, rope_base=100.0, like=torch.zeros(1))
    assert layout.turn is not None
    assert torch.equal(layout.turn.cos[:5], torch.ones(5, CHANNELS))
    np.testing.assert_allclose(layout.turn.sin[5, [0, 8]], np.sin([1, 1]), rtol=1e-6)
    np.testing.assert_allclose(layout.turn.sin[10, [0, 8]], np.sin([2, 3]), rtol=1e-6)


def test_angles_stay_precise_for_half_precision_tokens() -> None:
    layout = frame_layout(1, 2, 2, channels=CHANNELS, rope_base=100.0, like=torch.zeros(1, dtype=torch.bfloat16))
    assert layout.turn is not None
    assert layout.turn.cos.dtype == torch.float32


def test_no_rotation_without_a_base() -> None:
    layout = frame_layout(1, 2, 2, channels=CHANNELS, rope_base=0.0, like=torch.zeros(1))
    assert layout.turn is None
    assert layout.turn_at(torch.tensor([0])) is None
