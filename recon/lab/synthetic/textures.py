"""Procedural surface colours. Every surface has its own seed, so no two look alike and none repeats.

All randomness is a hash of integer lattice coordinates and the seed: it needs no state and is the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum

import torch
from torch import Tensor

DETAIL_STRENGTH = 0.16
DETAIL_OCTAVES = 4
DETAIL_FREQUENCY = 16.0  # cycles per metre of the coarsest octave: the finest has 128, so 8 mm
POSTER_SHAPES = 14
LATTICE_PRIMES = (73856093, 19349663, 83492791)


class Pattern(IntEnum):
    """The pattern of a surface."""

    PLASTER = 0
    TILES = 1
    BRICKS = 2
    WOOD = 3
    TERRAZZO = 4
    POSTER = 5
    BOOKS = 6
    RUG = 7


@dataclass(frozen=True, eq=False)
class SurfacePoints:
    """Points on surfaces, and the material there.

    position: (n, 3) in the solid's own frame, metres. uv: (n, 2) on the face, metres, v upwards on upright faces.
    extent: (n, 2) half size of the face, metres. seed: (n,) int32, one per face. pattern: (n,) of Pattern.
    cell: (n,) size of a tile, plank or blot, metres. palette: (n, 4, 3) colours in 0..1 as displayed (sRGB).
    footprint: (n,) size of a sample on the surface, metres; detail finer than that is left out.
    """

    position: Tensor
    uv: Tensor
    extent: Tensor
    seed: Tensor
    pattern: Tensor
    cell: Tensor
    palette: Tensor
    footprint: Tensor

    def __getitem__(self, selected: Tensor) -> SurfacePoints:
        return SurfacePoints(**{field.name: getattr(self, field.name)[selected] for field in fields(self)})


def albedo(points: SurfacePoints) -> Tensor:
    """Colour (n, 3) in 0..1, as displayed (sRGB), of every point."""
    colour = torch.empty_like(points.position)
    for pattern, paint in _PAINTERS.items():
        selected = (points.pattern == pattern).nonzero().squeeze(1)
        if selected.numel():
            colour[selected] = paint(points[selected])
    frequency = torch.full_like(points.cell, DETAIL_FREQUENCY)
    detail = fractal_noise(points.position, points.seed, frequency, DETAIL_OCTAVES, points.footprint)
    return (colour * (1 + DETAIL_STRENGTH * detail[:, None])).clamp(0, 1)


def fractal_noise(position: Tensor, seed: Tensor, frequency: Tensor, octaves: int, footprint: Tensor) -> Tensor:
    """Sum of ``octaves`` of value noise, about -1..1, (n,). position (n, 3), frequency (n,) in cycles per unit.

    Octaves whose wavelength nears two footprints (n,) fade out, as in a mip-mapped texture.
    """
    total = torch.zeros_like(frequency)
    amplitude = 1.0
    for octave in range(octaves):
        fade = (0.5 / (frequency * footprint) - 1).clamp(0, 1)
        noise = value_noise(position * frequency[:, None], mix(seed, octave))
        total = total + amplitude * fade * (2 * noise - 1)
        frequency = frequency * 2
        amplitude *= 0.75
    return total


def value_noise(position: Tensor, seed: Tensor) -> Tensor:
    """Smooth noise (n,) in 0..1 with one random value per unit cube's corner. position (n, 3), seed (n,) int32."""
    floor = position.floor()
    x, y, z = (floor.to(torch.int32) * position.new_tensor(LATTICE_PRIMES, dtype=torch.int32)).unbind(1)
    fraction = position - floor
    weight_x, weight_y, weight_z = (fraction * fraction * (3 - 2 * fraction)).unbind(1)
    step_x, step_y, step_z = LATTICE_PRIMES
    planes = []
    for hash_x in (seed ^ x, seed ^ (x + step_x)):
        edges = []
        for hash_xy in (hash_x ^ y, hash_x ^ (y + step_y)):
            edges.append(torch.lerp(_scramble(hash_xy ^ z), _scramble(hash_xy ^ (z + step_z)), weight_z))
        planes.append(torch.lerp(edges[0], edges[1], weight_y))
    return torch.lerp(planes[0], planes[1], weight_x)


def _scramble(hashed: Tensor) -> Tensor:
    """Weak hashes int32 as random floats in [0, 1)."""
    return unit_interval(((hashed ^ (hashed >> 15)) * -2048144777) >> 8)


def mix(seed: Tensor, value: Tensor | int) -> Tensor:
    """A new int32 hash from a hash and another int32; products wrap around."""
    spread = value * -1640531535 + 374761393
    if isinstance(spread, int):
        spread = (spread + (1 << 31)) % (1 << 32) - (1 << 31)
    mixed = (seed ^ spread) * -2048144777
    mixed = (mixed ^ ((mixed >> 15) & 0x1FFFF)) * -1028477379
    return mixed ^ ((mixed >> 13) & 0x7FFFF)


def unit_interval(hashed: Tensor) -> Tensor:
    """Hashes int32 as floats in [0, 1)."""
    return (hashed & 0xFFFFFF) * (1 / (1 << 24))


def _random(seed: Tensor, number: int) -> Tensor:
    return unit_interval(mix(seed, 7919 + number))


def _pick(palette: Tensor, seed: Tensor) -> Tensor:
    """One of the palette's colours for every point."""
    row = (_random(seed, 0) * palette.shape[1]).long()
    return palette[torch.arange(len(row), device=row.device), row]


def _blend(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    return torch.lerp(start, end, weight[:, None])


def _coverage(distance: Tensor, footprint: Tensor) -> Tensor:
    """Share of a sample on the positive side of an edge at signed ``distance``."""
    return (distance / footprint + 0.5).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class _Tiling:
    """The rectangle around each point: its hash (n,), and the point's distance to its nearest edge (n,), metres."""

    seed: Tensor
    edge: Tensor


def _tiling(points: SurfacePoints, width: Tensor, height: Tensor, stagger: float) -> _Tiling:
    """Rows of rectangles; row k is shifted by k * stagger of a width."""
    row = (points.uv[:, 1] / height).floor()
    across = points.uv[:, 0] / width + row * stagger
    column = across.floor()
    edge_u = (0.5 - (across - column - 0.5).abs()) * width
    edge_v = (0.5 - (points.uv[:, 1] / height - row - 0.5).abs()) * height
    seed = mix(mix(points.seed, column.to(torch.int32)), row.to(torch.int32))
    return _Tiling(seed, torch.minimum(edge_u, edge_v))


def _plaster(points: SurfacePoints) -> Tensor:
    noise = fractal_noise(points.position, mix(points.seed, 1), 1 / points.cell, 4, points.footprint)
    return _blend(points.palette[:, 0], points.palette[:, 1], (0.5 + 0.5 * noise).clamp(0, 1))


def _tiles(points: SurfacePoints) -> Tensor:
    tiling = _tiling(points, points.cell, points.cell, stagger=0.0)
    tint = 0.8 + 0.4 * _random(tiling.seed, 1)
    face = _pick(points.palette[:, :3], tiling.seed) * tint[:, None]
    return _blend(points.palette[:, 3], face, _coverage(tiling.edge - 0.02 * points.cell, points.footprint))


def _bricks(points: SurfacePoints) -> Tensor:
    tiling = _tiling(points, points.cell, 0.32 * points.cell, stagger=0.5)
    tint = 0.75 + 0.5 * _random(tiling.seed, 1)
    face = _blend(points.palette[:, 0], points.palette[:, 1], _random(tiling.seed, 2)) * tint[:, None]
    return _blend(points.palette[:, 3], face, _coverage(tiling.edge - 0.025 * points.cell, points.footprint))


def _wood(points: SurfacePoints) -> Tensor:
    tiling = _tiling(points, 9 * points.cell, points.cell, stagger=0.37)
    along, across = points.uv.unbind(1)
    fibres = torch.stack([1.5 * along, 22 * across, 50 * _random(tiling.seed, 1)], 1)
    grain = fractal_noise(fibres, tiling.seed, torch.ones_like(along), 3, 22 * points.footprint)
    tint = 0.75 + 0.4 * _random(tiling.seed, 2)
    face = _blend(points.palette[:, 0], points.palette[:, 1], (0.5 + 0.5 * grain).clamp(0, 1)) * tint[:, None]
    gap = _coverage(tiling.edge - 0.015 * points.cell, points.footprint)
    return face * (0.45 + 0.55 * gap)[:, None]


def _terrazzo(points: SurfacePoints) -> Tensor:
    colour = _plaster(points)
    for layer, size in enumerate((1.0, 0.55, 0.3)):
        grid = points.uv / (size * points.cell)[:, None] + 0.37 * layer
        lattice = grid.floor()
        column, row = lattice.to(torch.int32).unbind(1)
        seed = mix(mix(mix(points.seed, layer), column), row)
        radius = 0.12 + 0.25 * _random(seed, 1)
        centre = radius[:, None] + (1 - 2 * radius)[:, None] * torch.stack([_random(seed, 2), _random(seed, 3)], 1)
        distance = (radius - (grid - lattice - centre).norm(dim=1)) * size * points.cell
        colour = _blend(colour, _pick(points.palette, seed), _coverage(distance, points.footprint))
    return colour


def _poster(points: SurfacePoints) -> Tensor:
    """Overlapping discs, bars and rings on a mottled ground, inside a frame of the last palette colour."""
    size = points.extent.amin(1)
    colour = _blend(points.palette[:, 0], _plaster(points), torch.full_like(size, 0.35))
    for number in range(POSTER_SHAPES):
        seed = mix(points.seed, 100 + number)
        centre = (2 * torch.stack([_random(seed, 1), _random(seed, 2)], 1) - 1) * points.extent
        angle = 2 * math.pi * _random(seed, 3)
        offset = points.uv - centre
        along = offset[:, 0] * angle.cos() + offset[:, 1] * angle.sin()
        across = offset[:, 1] * angle.cos() - offset[:, 0] * angle.sin()
        radius = (0.5 - 0.03 * number) * size * (0.5 + _random(seed, 4))
        disc = radius - offset.norm(dim=1)
        bar = torch.minimum(radius - along.abs(), 0.3 * radius - across.abs())
        ring = 0.15 * radius - disc.abs()
        kind = _random(seed, 5)
        distance = torch.where(kind < 0.35, disc, torch.where(kind < 0.75, bar, ring))
        colour = _blend(colour, _pick(points.palette, seed), _coverage(distance, points.footprint))
    inset = (points.extent - points.uv.abs()).amin(1) - 0.09 * size
    return _blend(points.palette[:, 3] * 0.6, colour, _coverage(inset, points.footprint))


def _books(points: SurfacePoints) -> Tensor:
    """Shelves of books: rows of a board (last palette colour) and spines of hashed width, height and colour."""
    shelf_height = 7 * points.cell
    along, up = points.uv.unbind(1)
    row = (up / shelf_height).floor()
    height = up - row * shelf_height
    # Bending the axis by a smooth function makes spines of different widths without searching for neighbours.
    bent = along / points.cell + 0.35 * torch.sin(2.1 * along / points.cell + row)
    column = bent.floor()
    seed = mix(mix(points.seed, column.to(torch.int32)), row.to(torch.int32))
    top = (0.62 + 0.3 * _random(seed, 1)) * shelf_height
    spine = _pick(points.palette[:, :3], seed) * (0.5 + 0.8 * _random(seed, 2))[:, None]
    band = (height / top - 0.2 - 0.6 * _random(seed, 3)).abs() < 0.05
    spine = torch.where(band[:, None], 1 - 0.6 * spine, spine)
    edge = (0.5 - (bent - column - 0.5).abs()) * points.cell
    spine = spine * (0.4 + 0.6 * _coverage(edge - 0.05 * points.cell, points.footprint))[:, None]
    shelf = _blend(0.25 * points.palette[:, 3], spine, _coverage(top - height, points.footprint))
    board = torch.maximum(0.08 * shelf_height - height, points.cell - (points.extent - points.uv.abs()).amin(1))
    return _blend(shelf, points.palette[:, 3], _coverage(board, points.footprint))


def _rug(points: SurfacePoints) -> Tensor:
    """Bands along the border and a field of diamonds."""
    inset = (points.extent - points.uv.abs()).amin(1)
    band = (inset / (0.5 * points.cell)).floor()
    border = _pick(points.palette, mix(points.seed, band.to(torch.int32)))
    diagonal = torch.stack([points.uv.sum(1), points.uv[:, 0] - points.uv[:, 1]], 1) / points.cell[:, None]
    column, row = diagonal.floor().to(torch.int32).unbind(1)
    field = _pick(points.palette, mix(mix(points.seed, column), row))
    return _blend(border, field, _coverage(inset - 2.5 * points.cell, points.footprint))


_PAINTERS: dict[Pattern, Callable[[SurfacePoints], Tensor]] = {
    Pattern.PLASTER: _plaster,
    Pattern.TILES: _tiles,
    Pattern.BRICKS: _bricks,
    Pattern.WOOD: _wood,
    Pattern.TERRAZZO: _terrazzo,
    Pattern.POSTER: _poster,
    Pattern.BOOKS: _books,
    Pattern.RUG: _rug,
}
