"""Matches for a solver: a shifted image gives its shift, and images that do not match give nothing."""

import torch
from torch.nn import functional

from recon.lab.compact.matches import MutualCells, between_cells, cell_centres, mutual_cells, refine
from recon.lab.compact.matching import cosines

ROWS, COLUMNS = 5, 6


def texture(channels: int, scale: int, seed: int = 0) -> torch.Tensor:
    """A smooth random map (channels, rows, columns), of ``scale`` pixels per cell, and a band to shift by."""
    noise = torch.randn(
        (1, channels, ROWS * scale, (COLUMNS + 4) * scale), generator=torch.Generator().manual_seed(seed)
    )
    return functional.normalize(functional.avg_pool2d(noise, 3, 1, 1)[0], dim=0)


def test_mutual_cells_equal_the_loops() -> None:
    scores = 6 * torch.randn((12, 15), generator=torch.Generator().manual_seed(1))
    found = mutual_cells(scores, 0.2)
    dual = scores.softmax(1) * scores.softmax(0)
    expected = [
        (cell, other, float(dual[cell, other]))
        for cell in range(12)
        for other in range(15)
        if dual[cell, other] >= 0.2
        and dual[cell, other] == max(dual[cell])
        and dual[cell, other] == max(dual[:, other])
    ]
    assert 2 < len(expected) < 12
    assert list(zip(found.first.tolist(), found.second.tolist(), found.confidence.tolist(), strict=True)) == expected


def test_a_map_shifted_by_a_cell_matches_the_next_cell() -> None:
    whole = texture(32, 1)
    first, second = whole[:, :, 1 : 1 + COLUMNS], whole[:, :, :COLUMNS]
    scores = cosines(first[None], second[None])[0] * 20
    found = mutual_cells(scores, 0.1)
    assert len(found.first) >= ROWS * (COLUMNS - 1) - 2
    moved = cell_centres(found.second, COLUMNS) - cell_centres(found.first, COLUMNS)
    assert (moved == torch.tensor([8.0, 0.0])).float().mean() > 0.9


def test_two_equal_cells_give_the_point_between_them() -> None:
    scores = torch.full((1, ROWS * COLUMNS), -50.0)
    scores[0, [7, 8, 20]] = torch.tensor([3.0, 3.0, 9.0])  # cell 20 is far away and does not count
    cells = MutualCells(torch.tensor([0]), torch.tensor([7]), torch.tensor([1.0]))
    assert torch.allclose(between_cells(scores, cells, (ROWS, COLUMNS)), torch.tensor([[16.0, 12.0]]))


def test_refinement_finds_a_shift_of_a_few_pixels() -> None:
    whole = texture(16, 2)[None]
    first, second = whole[..., 2 : 2 + 2 * COLUMNS], whole[..., 1 : 1 + 2 * COLUMNS]  # 4 pixels to the right
    pixels = torch.tensor([[[14.0, 22.0], [26.0, 18.0]]])  # centres of pixels of the fine map
    for guess in ([0.0, 0.0], [4.0, 0.0], [8.0, 4.0]):
        found = refine(first, second, pixels, pixels + torch.tensor(guess), torch.tensor(60.0))
        torch.testing.assert_close(found - pixels, torch.tensor([4.0, 0.0]).expand(1, 2, 2), atol=0.7, rtol=0)
