"""Surface colours for training scenes: square tiles, photographs or procedural, looked up at the right sharpness.

Everything about a surface (tile, colours, contrast, rotation, dirt) is a hash of its seed, so a few numbers define a
scene.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recon.core.errors import ReconError
from recon.lab.synthetic.textures import Pattern, SurfacePoints, albedo, mix, unit_interval

SIDE = 128
LEVELS = 5  # down to 8 pixels a side
WHITE_MARGIN = 250
TILE_SIZE = 8.0  # a tile spans this many of a surface's cells
DIRT_SIZE = 6.3  # scale of a second, dim tile on top, which makes repetitions differ


@dataclass(frozen=True, eq=False)
class Atlas:
    """Tiles with their smaller versions in one flat array: texels (n, 3) uint8, the levels of a tile side by side."""

    texels: Tensor
    tiles: int

    @classmethod
    def of(cls, tiles: Tensor) -> Atlas:
        """tiles: (n, SIDE, SIDE, 3) float sRGB in 0..1."""
        image, levels = tiles.permute(0, 3, 1, 2), []
        for _ in range(LEVELS):
            levels.append(image.permute(0, 2, 3, 1).flatten(1, 2))
            image = torch.nn.functional.avg_pool2d(image, 2)
        texels = (255 * torch.cat(levels, 1)).round().to(torch.uint8)
        return cls(texels.flatten(0, 1), len(tiles))

    def to(self, device: torch.device | str) -> Atlas:
        return Atlas(self.texels.to(device), self.tiles)

    def paint(self, points: SurfacePoints) -> Tensor:
        """sRGB (n, 3) in 0..1; a ``Painter`` of the renderer. The points' pattern and palette are not used."""
        seed, size = points.seed, TILE_SIZE * points.cell
        tile = (_random(seed, 0) * self.tiles).long()
        colour = self.look_up(tile, _turned(points.uv, seed) / size[:, None], points.footprint / size)
        other = (_random(seed, 1) * self.tiles).long()
        wide = DIRT_SIZE * size
        dirt = self.look_up(other, points.uv / wide[:, None] + _pair(seed, 2), points.footprint / wide).mean(1)
        strength = 0.6 * _random(seed, 4).square()
        return (_recoloured(colour, seed) * (1 + strength * (2 * dirt - 1))[:, None]).clamp(0, 1)

    def look_up(self, tile: Tensor, position: Tensor, footprint: Tensor) -> Tensor:
        """Bilinear colours (n, 3) in 0..1 of mirrored tiles (n,) at positions (n, 2); lengths in tiles."""
        level = (footprint * SIDE).clamp(min=1).log2().round().clamp(max=LEVELS - 1).long()
        side = SIDE >> level
        start = tile * self._texels_per_tile() + _level_starts(tile.device)[level]
        scaled = (1 - (position.remainder(2) - 1).abs()) * side[:, None] - 0.5
        low = scaled.floor()
        weight, low = scaled - low, low.long()
        rows = [(low[:, 1] + step).clamp(min=0).minimum(side - 1) * side for step in (0, 1)]
        columns = [(low[:, 0] + step).clamp(min=0).minimum(side - 1) for step in (0, 1)]
        upper, lower = (
            torch.lerp(self._at(start + row + columns[0]), self._at(start + row + columns[1]), weight[:, :1])
            for row in rows
        )
        return torch.lerp(upper, lower, weight[:, 1:]) / 255

    def _at(self, index: Tensor) -> Tensor:
        return self.texels[index].float()

    def _texels_per_tile(self) -> int:
        return len(self.texels) // self.tiles


def _level_starts(device: torch.device) -> Tensor:
    sizes = torch.tensor([(SIDE >> level) ** 2 for level in range(LEVELS)], device=device)
    return sizes.cumsum(0) - sizes


def _random(seed: Tensor, number: int) -> Tensor:
    return unit_interval(mix(seed, 31 + number))


def _pair(seed: Tensor, number: int) -> Tensor:
    return torch.stack([_random(seed, number), _random(seed, number + 1)], 1)


def _turned(uv: Tensor, seed: Tensor) -> Tensor:
    """uv (n, 2) rotated by a random angle, mostly a multiple of 90 degrees, and shifted."""
    angle = 2 * math.pi * _random(seed, 5)
    quarter = math.pi / 2
    angle = torch.where(_random(seed, 6) < 0.7, (angle / quarter).floor() * quarter, angle)
    cosine, sine = angle.cos(), angle.sin()
    turned = torch.stack([cosine * uv[:, 0] - sine * uv[:, 1], sine * uv[:, 0] + cosine * uv[:, 1]], 1)
    return turned + 10 * _pair(seed, 7)


def _recoloured(colour: Tensor, seed: Tensor) -> Tensor:
    """Half of the surfaces keep their tile's colours; the others are tinted, and a quarter lose most contrast."""
    tint = torch.stack([_random(seed, 10 + channel) for channel in range(3)], 1)
    plain, tinted = _random(seed, 13) < 0.25, _random(seed, 14) < 0.5
    contrast = torch.where(plain, 0.02 + 0.25 * _random(seed, 15), 0.5 + 0.8 * _random(seed, 15))[:, None]
    grey = colour.mean(1, keepdim=True) - 0.5
    new = 0.15 + 0.7 * tint + contrast * (grey + 0.4 * (colour - 0.5 - grey))
    return torch.where((plain | tinted)[:, None], new, colour).clamp(0, 1)


def read_photos(folder: Path) -> Tensor:
    """The material photographs of a folder as tiles (n, SIDE, SIDE, 3); white margins are cut off. Raises ReconError if
    the folder has no JPEG file, or if one cannot be read.
    """
    tiles = [_read_photo(path) for path in sorted(folder.glob("*.jpg"))]
    if not tiles:
        raise ReconError(f"{folder} has no .jpg files: name a folder of material photographs.")
    return torch.from_numpy(np.stack(tiles)).float() / 255


def _read_photo(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    import cv2  # noqa: PLC0415 (only photographs need it)

    image = cv2.imread(str(path))
    if image is None:
        raise ReconError(f"{path} is not a readable image: remove it or fetch it again.")
    inked = image.min(2) < WHITE_MARGIN
    rows, columns = np.flatnonzero(inked.mean(1) > 0.1), np.flatnonzero(inked.mean(0) > 0.1)
    if len(rows) > SIDE // 4 and len(columns) > SIDE // 4:
        image = image[rows[0] + 2 : rows[-1] - 1, columns[0] + 2 : columns[-1] - 1]
    resized = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(resized[:, :, ::-1], dtype=np.uint8)


def procedural_tiles(generator: torch.Generator, count: int) -> Tensor:
    """Tiles (count, SIDE, SIDE, 3) of the sample's procedural patterns with random colours and sizes."""
    axis = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    uv = torch.stack([u, v], -1).reshape(-1, 2)
    return torch.stack([_procedural_tile(generator, uv) for _ in range(count)])


def _procedural_tile(generator: torch.Generator, uv: Tensor) -> Tensor:
    count = len(uv)
    random = torch.rand(3, generator=generator)
    seed = int(torch.randint(1 << 30, (), generator=generator))
    points = SurfacePoints(
        position=torch.cat([uv, torch.zeros(count, 1)], 1),
        uv=uv,
        extent=torch.ones(count, 2),
        seed=torch.full((count,), seed, dtype=torch.int32),
        pattern=torch.full((count,), int(random[0] * len(Pattern))),
        cell=torch.full((count,), float(0.06 + 0.5 * random[1].square())),
        palette=torch.rand((4, 3), generator=generator).expand(count, 4, 3),
        footprint=torch.full((count,), 2 / SIDE),
    )
    return albedo(points).reshape(SIDE, SIDE, 3)
