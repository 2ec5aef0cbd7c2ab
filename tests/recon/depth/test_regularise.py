"""Smoothing of the cost volume, compared with 3D convolutions and loops."""

import itertools

import torch
from torch import nn

from recon.depth.regularise import Hourglass, SpaceThenDepth, grow_like, halve, peak_position


def test_space_then_depth_equals_two_3d_convolutions() -> None:
    torch.manual_seed(0)
    block = SpaceThenDepth(4).double()
    nn.init.normal_(block.depth.weight)
    volume = torch.randn(2, 5, 3, 6, 4, dtype=torch.float64)
    space = nn.functional.conv3d(
        volume.permute(0, 4, 1, 2, 3), block.space.weight[:, :, None], block.space.bias, padding=(0, 1, 1)
    ).relu()
    depth = nn.functional.conv3d(space, block.depth.weight[..., None], block.depth.bias, padding=(1, 0, 0))
    expected = (volume + depth.permute(0, 2, 3, 4, 1)).relu()
    torch.testing.assert_close(block(volume), expected)


def test_an_untrained_block_changes_only_signs() -> None:
    torch.manual_seed(0)
    block, volume = SpaceThenDepth(4), torch.rand(1, 3, 4, 5, 4)
    nn.init.zeros_(block.depth.bias)
    torch.testing.assert_close(block(volume), volume)


def test_halving_takes_means_and_growing_restores_the_size() -> None:
    volume = torch.rand(1, 5, 3, 6, 2)
    half = halve(volume)
    assert half.shape == (1, 3, 2, 3, 2)
    torch.testing.assert_close(half[0, 1, 0, 2], volume[0, 2:4, 0:2, 4:6].mean((0, 1, 2)))
    torch.testing.assert_close(half[0, 2, 1, 0], volume[0, 4, 2, 0:2].mean(0))  # the remainder at the odd ends
    assert grow_like(half, volume).shape == volume.shape
    torch.testing.assert_close(grow_like(torch.ones_like(half), volume), torch.ones_like(volume))


def test_the_hourglass_scores_every_voxel_of_any_size() -> None:
    net = Hourglass(5, (4, 8, 8), context=6)
    assert net(torch.rand(2, 9, 7, 5, 5), torch.rand(2, 6, 7, 5)).shape == (2, 9, 7, 5)


def test_the_peak_is_the_mean_around_the_best_plane() -> None:
    scores = torch.randn((1, 12, 3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = peak_position(scores, reach=2)
    for row, column in itertools.product(range(3), range(4)):
        line = scores[0, :, row, column]
        middle = min(max(int(line.argmax()), 2), 9)
        shares = line[middle - 2 : middle + 3].softmax(0)
        expected = (shares * torch.arange(middle - 2, middle + 3)).sum()
        assert torch.isclose(found[0, 0, row, column], expected)


def test_a_second_peak_does_not_pull_the_first() -> None:
    scores = torch.zeros(1, 20, 1, 1)
    scores[0, 5], scores[0, 15] = 9.0, 8.9
    assert abs(float(peak_position(scores)) - 5) < 0.01
