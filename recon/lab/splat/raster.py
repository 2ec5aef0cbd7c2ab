"""Draws splats tile by tile.

In a tile, the exponent of a splat is a polynomial of the pixel's place: six coefficients of the splat times six powers
of x and y. So all splats of a tile at all its pixels are one product of matrices, forward and backward. Tiles with
about as many splats are drawn together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recon.lab.splat.gaussians import Splats

TILE = 4  # px
LEAST_ALPHA = 1 / 255  # a splat ends where it covers less
MOST_ALPHA = 0.99
BATCH = 250_000  # splats times pixels that are drawn together, as many as a processor's cache holds


def draw(splats: Splats, size: tuple[int, int], background: Tensor) -> Tensor:
    """The picture (height, width, 3) of splats over a background (3,). size: (width, height)."""
    width, height = size
    columns, rows = -(-width // TILE), -(-height // TILE)
    tiles, members, counts = _tiles_of(splats, columns, rows)
    coefficients = splats.precisions * torch.tensor([-0.5, -1.0, -0.5], dtype=splats.precisions.dtype)
    drawn, order = [], []
    for group in _groups(counts):
        longest = int(counts[group].max())
        slots = torch.arange(longest)
        held = slots < counts[group][:, None]
        chosen = members[(tiles[group][:, None] + slots).clamp(max=len(members) - 1)]
        drawn.append(
            _blended(
                splats, coefficients, (chosen, held), torch.stack([group % columns, group // columns], 1), background
            )
        )
        order.append(group)
    if not drawn:
        return background.expand(height, width, 3)
    whole = background.expand(rows * columns, TILE * TILE, 3).index_put((torch.cat(order),), torch.cat(drawn))
    picture = whole.reshape(rows, columns, TILE, TILE, 3).transpose(1, 2).reshape(rows * TILE, columns * TILE, 3)
    return picture[:height, :width]


def _tiles_of(splats: Splats, columns: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which splats touch a tile. Returns the first row of each tile (tiles,) in the splats (pairs,) of all tiles,
    nearest first, and their counts (tiles,).
    """
    with torch.no_grad():
        reach = (2 * (splats.opacities / LEAST_ALPHA).log()).clamp(min=0)[:, None].mul(splats.spread).sqrt()
        limit = torch.tensor([columns, rows])
        first = ((splats.centres - reach) / TILE).floor().long().clamp(min=0)
        last = torch.minimum(((splats.centres + reach) / TILE).floor().long(), limit - 1)
        spans = (last - first + 1).clamp(min=0)
        spans[(splats.opacities < LEAST_ALPHA) | ~torch.isfinite(splats.centres).all(1)] = 0
        copies = spans.prod(1)
        members = torch.repeat_interleave(torch.arange(len(copies)), copies)
        place = torch.arange(len(members)) - torch.repeat_interleave(copies.cumsum(0) - copies, copies)
        across = spans[members, 0]
        tile = (first[members, 1] + place // across) * columns + first[members, 0] + place % across
        tile, order = torch.sort(tile, stable=True)  # splats come by depth, and stay so in each tile
        counts = torch.bincount(tile, minlength=columns * rows)
        return counts.cumsum(0) - counts, members[order], counts


def _groups(counts: Tensor) -> list[Tensor]:
    """Tiles with splats, those with about as many together."""
    order = torch.argsort(counts, descending=True)
    order, groups = order[counts[order] > 0], []
    while len(order):
        together = max(1, BATCH // (TILE * TILE * int(counts[order[0]])))
        groups.append(order[:together])
        order = order[together:]
    return groups


def _blended(
    splats: Splats, coefficients: Tensor, members: tuple[Tensor, Tensor], places: Tensor, background: Tensor
) -> Tensor:
    """The pixels (tiles, TILE * TILE, 3) of some tiles. coefficients: (splats, 3) of x^2, x y and y^2 in the exponent.

    members: splats (tiles, most) and which of them are there. places: column and row (tiles, 2) of the tiles.
    """
    chosen, held = members
    exponents = _moved(coefficients[chosen], splats.centres[chosen] - TILE * places[:, None]) @ _pixels(
        coefficients.dtype
    )
    alphas = (splats.opacities[chosen, None] * exponents.exp()).clamp(max=MOST_ALPHA)
    alphas = torch.where((alphas >= LEAST_ALPHA) & held[..., None], alphas, torch.zeros_like(alphas))
    passed = torch.log1p(-alphas).cumsum(dim=1)
    weights = alphas * (passed - torch.log1p(-alphas)).exp()
    colours = weights.transpose(1, 2) @ splats.colours[chosen]
    return colours + passed[:, -1, :, None].exp() * background


def _moved(coefficients: Tensor, centres: Tensor) -> Tensor:
    """Coefficients (..., 6) of x^2, x y, y^2, x, y and 1 of a polynomial around ``centres`` (..., 2)."""
    (a, b, c), (x, y) = coefficients.unbind(-1), centres.unbind(-1)
    linear = (-2 * a * x - b * y, -2 * c * y - b * x)
    return torch.stack([a, b, c, *linear, a * x * x + b * x * y + c * y * y], dim=-1)


def _pixels(dtype: torch.dtype) -> Tensor:
    """The same powers (6, TILE * TILE) of the centres of the pixels of a tile."""
    row, column = torch.meshgrid(torch.arange(TILE, dtype=dtype), torch.arange(TILE, dtype=dtype), indexing="ij")
    x, y = (column + 0.5).reshape(-1), (row + 0.5).reshape(-1)
    return torch.stack([x * x, x * y, y * y, x, y, torch.ones_like(x)])
