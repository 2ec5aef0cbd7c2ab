"""Building blocks compared with loops."""

import itertools

import torch

from recon.depth.layers import Residual, convex_upsample


def test_convex_upsample_equals_the_sum_written_out() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn((1, 1, 3, 4), generator=generator, dtype=torch.float64)
    weights = torch.randn((1, 9 * 4, 3, 4), generator=generator, dtype=torch.float64)
    fine = convex_upsample(values, weights, 2)
    assert fine.shape == (1, 1, 6, 8)
    for row, column, down, right in itertools.product(range(3), range(4), range(2), range(2)):
        shares = weights[0, :, row, column].reshape(9, 2, 2)[:, down, right].softmax(0)
        expected = sum(
            shares[3 * dy + dx] * values[0, 0, min(max(row + dy - 1, 0), 2), min(max(column + dx - 1, 0), 3)]
            for dy, dx in itertools.product(range(3), range(3))
        )
        assert torch.isclose(fine[0, 0, 2 * row + down, 2 * column + right], expected, rtol=1e-12)


def test_convex_upsample_keeps_a_constant() -> None:
    weights = torch.randn((2, 9 * 16, 3, 4), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(convex_upsample(torch.full((2, 1, 3, 4), 2.5), weights, 4), torch.tensor(2.5))


def test_a_strided_residual_halves_the_size() -> None:
    assert Residual(8, 16, stride=2)(torch.zeros(1, 8, 5, 6)).shape == (1, 16, 3, 3)
