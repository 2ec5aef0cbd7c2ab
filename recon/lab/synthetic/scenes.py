"""Scenes: batches of convex solids with materials, lit by one lamp."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from recon.lab.synthetic.textures import Pattern


class Shape(Enum):
    """A convex solid that fills the cube -1..1 in its own frame, then is scaled by its half size.

    The camera may be inside: a room is a box. A ground plane is a box of infinite half size in x and y.
    """

    BOX = "box"
    ELLIPSOID = "ellipsoid"
    CYLINDER = "cylinder"  # along its z axis, with caps


@dataclass(frozen=True, eq=False)
class Scene:
    """A batch of scenes with the same list of shapes.

    shapes: one per solid. centre: (batch, solids, 3) in the world. world_from_solid: (batch, solids, 3, 3) rotations.
    half_size: (batch, solids, 3). pattern: (batch, solids) of Pattern. seed: (batch, solids) int32. cell: (batch,
    solids) size of the pattern's elements. palette: (batch, solids, 4, 3) sRGB in 0..1. light: (batch, 3) centre of a
    horizontal disc-shaped lamp of light_radius (batch,). ambient: (batch,) share of the light that comes from all
    directions, 0..1. background: (batch, 3) sRGB where there is no solid. Lengths are in metres.
    """

    shapes: tuple[Shape, ...]
    centre: Tensor
    world_from_solid: Tensor
    half_size: Tensor
    pattern: Tensor
    seed: Tensor
    cell: Tensor
    palette: Tensor
    light: Tensor
    light_radius: Tensor
    ambient: Tensor
    background: Tensor

    def __len__(self) -> int:
        return self.centre.shape[0]

    def to(self, device: torch.device | str) -> Scene:
        return self._with_each(lambda tensor: tensor.to(device))

    def __getitem__(self, index: int) -> Scene:
        """The scene at ``index`` as a batch of one."""
        return self._with_each(lambda tensor: tensor[index][None])

    def _with_each(self, change: Callable[[Tensor], Tensor]) -> Scene:
        changed: dict[str, Any] = {name: change(value) for name, value in vars(self).items() if name != "shapes"}
        return replace(self, **changed)


@dataclass(frozen=True)
class Solid:
    """One solid of a hand-made scene; angles in radians, lengths in metres; yaw turns about the world's z axis."""

    shape: Shape
    centre: tuple[float, float, float]
    half_size: tuple[float, float, float]
    pattern: Pattern
    palette: tuple[str, str, str, str]
    cell: float
    yaw: float = 0.0


def scene_from_solids(solids: Sequence[Solid], light: tuple[float, float, float], seed: int = 0) -> Scene:
    """A batch of one scene. Palettes are hex colours such as ``"c08040"``; every solid gets its own texture seed."""
    colours = [[[value / 255 for value in bytes.fromhex(hexa)] for hexa in solid.palette] for solid in solids]
    numbers = torch.arange(len(solids), dtype=torch.int32) + 1000 * seed
    return Scene(
        shapes=tuple(solid.shape for solid in solids),
        centre=torch.tensor([[solid.centre for solid in solids]], dtype=torch.float32),
        world_from_solid=yaw_rotation(torch.tensor([[solid.yaw for solid in solids]], dtype=torch.float32)),
        half_size=torch.tensor([[solid.half_size for solid in solids]], dtype=torch.float32),
        pattern=torch.tensor([[solid.pattern for solid in solids]]),
        seed=numbers[None],
        cell=torch.tensor([[solid.cell for solid in solids]], dtype=torch.float32),
        palette=torch.tensor([colours]),
        light=torch.tensor([light], dtype=torch.float32),
        light_radius=torch.tensor([0.25]),
        ambient=torch.tensor([0.5]),
        background=torch.tensor([[0.7, 0.8, 0.9]]),
    )


def yaw_rotation(yaw: Tensor) -> Tensor:
    """Rotations (..., 3, 3) about z by angles (...) in radians."""
    cosine, sine, zero, one = yaw.cos(), yaw.sin(), torch.zeros_like(yaw), torch.ones_like(yaw)
    rows = [cosine, -sine, zero, sine, cosine, zero, zero, zero, one]
    return torch.stack(rows, -1).reshape(*yaw.shape, 3, 3)


def random_room(
    generator: torch.Generator,
    batch: int,
    *,
    boxes: int = 8,
    ellipsoids: int = 4,
    cylinders: int = 4,
    paintings: int = 6,
) -> Scene:
    """Rooms of 5 to 8 m by 4 to 7 m with furniture near the walls, clear of walks in the middle (paths.room_walk).

    Solid 0 is the room; then floor, ceiling, furniture, paintings. The generator is a CPU one.
    """
    furniture = boxes + ellipsoids + cylinders
    solids = 3 + furniture + paintings
    room = _uniform(generator, (batch, 1, 3), (2.5, 2.0, 1.2), (4.0, 3.5, 1.7))
    slabs_centre = torch.cat([_height(0 * room), _height(room)], 1)
    slabs_size = (room * torch.tensor([1.0, 1.0, 0.0]) + torch.tensor([0.0, 0.0, 0.01])).expand(-1, 2, -1)
    size = _uniform(generator, (batch, furniture, 3), (0.08, 0.08, 0.1), (0.4, 0.4, 0.9))
    place = _along_walls(generator, (batch, furniture), inner=0.8, outer=0.95) * room
    picture_size = _uniform(generator, (batch, paintings, 3), (0.03, 0.03, 0.2), (0.5, 0.03, 0.5))
    picture_place, picture_yaw = _on_walls(generator, room, paintings)
    yaw = 2 * math.pi * torch.rand((batch, furniture), generator=generator)
    pattern = torch.randint(len(Pattern), (batch, solids), generator=generator)
    pattern[:, 3 + furniture :] = Pattern.POSTER
    seeds = torch.randint(1 << 30, (batch, solids), generator=generator, dtype=torch.int32)
    lamp = room * _uniform(generator, (batch, 1, 3), (-0.5, -0.5, 1.4), (0.5, 0.5, 1.7))
    return Scene(
        shapes=(Shape.BOX,) * (3 + boxes)
        + (Shape.ELLIPSOID,) * ellipsoids
        + (Shape.CYLINDER,) * cylinders
        + (Shape.BOX,) * paintings,
        centre=torch.cat([_height(room) / 2, slabs_centre, place + _height(size) / 2, picture_place], 1),
        world_from_solid=yaw_rotation(torch.cat([torch.zeros(batch, 3), yaw, picture_yaw], 1)),
        half_size=torch.cat([room, slabs_size, size, picture_size], 1),
        pattern=pattern,
        seed=seeds,
        cell=0.05 + 0.3 * torch.rand((batch, solids), generator=generator),
        palette=0.1 + 0.85 * torch.rand((batch, solids, 4, 3), generator=generator),
        light=lamp[:, 0],
        light_radius=0.3 * torch.rand(batch, generator=generator),
        ambient=0.3 + 0.4 * torch.rand(batch, generator=generator),
        background=torch.rand((batch, 3), generator=generator),
    )


def _uniform(
    generator: torch.Generator, shape: tuple[int, ...], low: tuple[float, ...], high: tuple[float, ...]
) -> Tensor:
    start, end = torch.tensor(low), torch.tensor(high)
    return start + (end - start) * torch.rand(shape, generator=generator)


def _height(size: Tensor) -> Tensor:
    """(0, 0, full height) of half sizes (..., 3)."""
    return size * torch.tensor([0.0, 0.0, 2.0])


def _along_walls(generator: torch.Generator, shape: tuple[int, int], inner: float, outer: float) -> Tensor:
    """Floor points (..., 3) of a room of half size 1 whose larger coordinate lies in inner..outer."""
    side = inner + (outer - inner) * torch.rand(shape, generator=generator)
    side = side * torch.where(torch.rand(shape, generator=generator) < 0.5, -1.0, 1.0)
    along = outer * (2 * torch.rand(shape, generator=generator) - 1)
    swap = torch.rand(shape, generator=generator) < 0.5
    return torch.stack([torch.where(swap, along, side), torch.where(swap, side, along), torch.zeros(shape)], -1)


def _on_walls(generator: torch.Generator, room: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Centres (batch, count, 3) on the walls of rooms (batch, 1, 3) at eye level, and the yaw that faces the wall."""
    place = _along_walls(generator, (room.shape[0], count), inner=1.0, outer=1.0)
    on_x_wall = place[..., 0].abs() == 1
    yaw = torch.where(on_x_wall, math.pi / 2, 0.0)
    inside = torch.where(on_x_wall[..., None], torch.tensor([1.0, 0.75, 1.0]), torch.tensor([0.75, 1.0, 1.0]))
    height = torch.rand((room.shape[0], count, 1), generator=generator) * torch.tensor([0.0, 0.0, 0.5])
    return place * inside * room + height + torch.tensor([0.0, 0.0, 1.3]), yaw
