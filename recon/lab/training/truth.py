"""The true positions of one view's cells in another view, from depth and poses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from recon.depth.stem import EIGHTH
from recon.lab.training.pool import SAME_SURFACE


@dataclass(frozen=True, eq=False)
class Seen:
    """Depth (n, 1, h, w), 0 = unknown; intrinsics (n, 3, 3) in its pixels; cam_from_world (n, 4, 4)."""

    depth: Tensor
    intrinsics: Tensor
    cam_from_world: Tensor

    def __getitem__(self, rows: Tensor) -> Seen:
        return Seen(self.depth[rows], self.intrinsics[rows], self.cam_from_world[rows])


@dataclass(frozen=True, eq=False)
class Correspondence:
    """For the cells of first views: pixels (n, cells, 2) in the second ones; known: (n, cells), whether there is depth.

    covisible: (n, cells), whether the second view sees the same surface there. columns: cells in a row.
    """

    pixels: Tensor
    known: Tensor
    covisible: Tensor
    columns: int


def correspondence(first: Seen, second: Seen) -> Correspondence:
    """Every cell of the first views in the second ones. Depth is known at pixel centres, but the middle of a cell is a
    corner of four pixels; the motion used is that of the pixel below and to the right.
    """
    height, width = first.depth.shape[-2:]
    middle = EIGHTH // 2
    depth = first.depth[:, 0, middle::EIGHTH, middle::EIGHTH].flatten(1)
    rows = torch.arange(middle, height, EIGHTH, device=depth.device) + 0.5
    columns = torch.arange(middle, width, EIGHTH, device=depth.device) + 0.5
    own = torch.stack([grid.flatten() for grid in torch.meshgrid(columns, rows, indexing="xy")], -1)
    pixels, z = _moved(first, second, own.expand(len(depth), -1, 2), depth)
    known = depth > 0
    inside = (z > 1e-6) & (pixels >= 0).all(2) & (pixels < pixels.new_tensor([width, height])).all(2)
    there = _depth_at(second.depth, pixels)
    covisible = known & inside & (there > 0) & ((there - z).abs() < SAME_SURFACE * z)
    return Correspondence(pixels - 0.5, known, covisible, len(columns))


def round_trip(first: Seen, second: Seen) -> Tensor:
    """Errors [px] (m,) of all covisible cells after projection into the second views and, by the depth there, back."""
    there = correspondence(first, second)
    pixels = there.pixels + 0.5
    back, _ = _moved(second, first, pixels, _depth_at(second.depth, pixels))
    # Projecting from the first views into themselves gives the starting points.
    own = correspondence(first, first).pixels + 0.5
    errors: Tensor = (back - own).norm(dim=2)[there.covisible]
    return errors


def _moved(first: Seen, second: Seen, pixels: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Projects pixels (n, points, 2) of the first views with depth (n, points) into the second ones; also gives the
    depth there.
    """
    rays = torch.linalg.inv(first.intrinsics) @ torch.cat([pixels, torch.ones_like(pixels[..., :1])], 2).mT
    second_from_first = second.cam_from_world @ torch.linalg.inv(first.cam_from_world)
    points = second_from_first[:, :3, :3] @ (rays * depth[:, None]) + second_from_first[:, :3, 3:]
    x, y, z = (second.intrinsics @ points).unbind(1)
    return torch.stack([x, y], -1) / z.clamp(min=1e-6)[..., None], z


def _depth_at(depth: Tensor, pixels: Tensor) -> Tensor:
    """Depth (n, points) of the pixels that contain the positions (n, points, 2)."""
    extent = pixels.new_tensor([depth.shape[3], depth.shape[2]])
    grid = (2 * pixels / extent - 1)[:, None]
    return functional.grid_sample(depth, grid, mode="nearest", padding_mode="border", align_corners=False)[:, 0, 0]
