"""Random scenes for training: furnished rooms, piles of clutter, open ground with a far background, thin poles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recon.lab.synthetic.paths import inverse_rigid, look_at, room_walk
from recon.lab.synthetic.render import render_depth
from recon.lab.synthetic.scenes import Scene, Shape, random_room

PROBE = 24  # pixels, side of the depth image by which a camera's place is judged
CANDIDATES = 4
NEAREST_SHARE = 0.3  # cameras keep this share of the median depth free in front of them if possible


@dataclass(frozen=True, eq=False)
class ScenesWithCameras:
    """scene: a batch. world_from_cam: (batch, views, 4, 4). intrinsics: (3, 3) of width x height images."""

    scene: Scene
    world_from_cam: Tensor
    intrinsics: Tensor
    height: int
    width: int


def random_scenes(generator: torch.Generator, batch: int, views: int, height: int, width: int) -> ScenesWithCameras:
    """A batch of one kind of scene, with cameras along a short path through each. The generator is a CPU one."""
    make = _KINDS[int(torch.randint(len(_KINDS), (), generator=generator))]
    scene, start = make(generator, batch)
    focal = width * (0.6 + 0.7 * float(torch.rand((), generator=generator)))
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    base, depth = _best_start(scene, start, intrinsics, height, width)
    return ScenesWithCameras(scene, short_path(generator, base, depth, views), intrinsics, height, width)


def short_path(generator: torch.Generator, world_from_cam: Tensor, depth: Tensor, views: int) -> Tensor:
    """world_from_cam (batch, views, 4, 4) near poses (batch, 4, 4) that see surfaces at depth (batch,). Steps are 1.5%
    to 10% of the depth, mostly sideways; cameras keep looking at about the same place, turn a little and roll.
    """
    batch = len(depth)
    step = depth * (0.015 + 0.085 * torch.rand(batch, generator=generator).square())
    direction = torch.nn.functional.normalize(
        torch.randn((batch, 1, 3), generator=generator) * torch.tensor([1.0, 0.5, 0.5]), dim=-1
    )
    wander = 0.4 * torch.randn((batch, views, 3), generator=generator)
    along = torch.arange(views)[None, :, None] - (views - 1) / 2
    position = step[:, None, None] * (along * direction + wander)
    follow = torch.rand((batch, 1), generator=generator)  # 1: keeps looking at the point ahead, 0: only translates
    jitter = 0.05 * torch.randn((batch, views, 3), generator=generator) * torch.tensor([1.0, 1.0, 2.0])
    yaw = -follow * position[..., 0] / depth[:, None] + jitter[..., 0]
    pitch = follow * position[..., 1] / depth[:, None] + jitter[..., 1]
    moved = torch.eye(4).repeat(batch, views, 1, 1)
    moved[..., :3, :3] = euler(pitch, yaw, jitter[..., 2])
    moved[..., :3, 3] = position
    return world_from_cam[:, None] @ moved


def euler(pitch: Tensor, yaw: Tensor, roll: Tensor) -> Tensor:
    """Rotations (..., 3, 3) by angles (...) in radians: about z by roll, then x by pitch, then y by yaw."""
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
    about_y = [yaw.cos(), zero, yaw.sin(), zero, one, zero, -yaw.sin(), zero, yaw.cos()]
    about_x = [one, zero, zero, zero, pitch.cos(), -pitch.sin(), zero, pitch.sin(), pitch.cos()]
    about_z = [roll.cos(), -roll.sin(), zero, roll.sin(), roll.cos(), zero, zero, zero, one]
    y, x, z = (torch.stack(rows, -1).reshape(*yaw.shape, 3, 3) for rows in (about_y, about_x, about_z))
    return y @ x @ z


def _best_start(scene: Scene, candidates: Tensor, intrinsics: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Of the candidates (batch, n, 4, 4) the one that sees most depths but nothing very near, and its median depth."""
    scale = torch.tensor([[PROBE / width], [PROBE / height], [1.0]])
    depth = render_depth(scene, inverse_rigid(candidates), intrinsics * scale, PROBE, PROBE).flatten(2)
    depth = torch.where(depth > 0, depth, 1e3)
    median = depth.median(2).values
    variety = depth.log().std(2)
    room = (depth.quantile(0.02, 2) / median).clamp(max=NEAREST_SHARE)
    best = (variety.clamp(max=0.6) + 10 * room).argmax(1)
    rows = torch.arange(len(best))
    return candidates[rows, best], median[rows, best]


def _uniform(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _room(generator: torch.Generator, batch: int) -> tuple[Scene, Tensor]:
    """The furnished room, stretched at random, seen from its middle."""
    counts = torch.randint(3, 12, (4,), generator=generator).tolist()
    scene = random_room(
        generator, batch, boxes=counts[0] + 4, ellipsoids=counts[1], cylinders=counts[2], paintings=counts[3]
    )
    scene = replace(scene, cell=scene.cell * _uniform(generator, (batch, 1), 0.3, 1.0))
    start = room_walk(generator, scene.half_size[:, 0], 4 * CANDIDATES)[:, ::4]
    return scene, start


def _solids(
    generator: torch.Generator, shapes: tuple[Shape, ...], centre: Tensor, rotation: Tensor, half_size: Tensor
) -> Scene:
    """A scene of solids with random materials and light; a lamp hangs above the origin at the height of the first."""
    batch, solids = centre.shape[:2]
    reach = half_size[:, :1].amin(-1)
    scale = half_size.clamp(max=50).mean(-1)
    lamp = torch.cat([_uniform(generator, (batch, 2), -0.6, 0.6) * reach, 0.8 * reach], 1)
    return Scene(
        shapes=shapes,
        centre=centre,
        world_from_solid=rotation,
        half_size=half_size,
        pattern=torch.zeros((batch, solids), dtype=torch.int64),
        seed=torch.randint(1 << 30, (batch, solids), generator=generator, dtype=torch.int32),
        cell=scale * _uniform(generator, (batch, solids), 0.03, 0.25),
        palette=torch.zeros(batch, solids, 4, 3),
        light=lamp,
        light_radius=torch.zeros(batch),
        ambient=_uniform(generator, (batch,), 0.3, 0.8),
        background=torch.rand((batch, 3), generator=generator),
    )


def _random_rotations(generator: torch.Generator, shape: tuple[int, ...], tilt: float) -> Tensor:
    """Rotations (..., 3, 3) by any angle about z and by up to about ``tilt`` radians about x and y."""
    turn = _uniform(generator, shape, -math.pi, math.pi)
    lean = tilt * torch.randn((2, *shape), generator=generator)
    return euler(lean[0], lean[1], turn)


def _clutter(generator: torch.Generator, batch: int) -> tuple[Scene, Tensor]:
    """Solids of all sizes and orientations, in front of the walls and above the floor of a box."""
    count = int(torch.randint(12, 36, (), generator=generator))
    shapes = (Shape.BOX,) + (Shape.BOX, Shape.ELLIPSOID, Shape.CYLINDER, Shape.BOX) * (count // 4 + 1)
    solids = len(shapes) - 1
    room = _uniform(generator, (batch, 1, 3), 1.5, 4.0)
    size = (0.04 + 0.3 * _uniform(generator, (batch, solids, 1), 0.0, 1.0).square()) * room
    size = size * _uniform(generator, (batch, solids, 3), 0.3, 1.0)
    place = _uniform(generator, (batch, solids, 3), -1.0, 1.0) * torch.tensor([0.9, 0.9, 1.0]) * room
    above_floor = place[..., 2].abs() * torch.rand((batch, 1), generator=generator)
    place[..., 2] = above_floor - room[..., 2]
    tilt = float(torch.rand((), generator=generator).square())
    centre = torch.cat([torch.zeros(batch, 1, 3), place], 1)
    rotation = _random_rotations(generator, (batch, solids + 1), tilt)
    rotation[:, 0] = torch.eye(3)
    scene = _solids(generator, shapes, centre, rotation, torch.cat([room, size], 1))
    eyes = _uniform(generator, (batch, CANDIDATES, 3), -0.7, 0.7) * room
    targets = _uniform(generator, (batch, CANDIDATES, 3), -0.6, 0.6) * room - 0.3 * torch.tensor([0.0, 0.0, 1.0]) * room
    return scene, look_at(eyes, targets + 0.01)


def _open_ground(generator: torch.Generator, batch: int) -> tuple[Scene, Tensor]:
    """Ground to the horizon in a huge box, with houses, poles, bushes and people-sized things to 40 m away."""
    houses, poles, bushes = (int(number) for number in torch.randint(2, 9, (3,), generator=generator))
    things = houses + poles + bushes
    shapes = (Shape.BOX, Shape.BOX, *[Shape.BOX] * houses, *[Shape.CYLINDER] * poles, *[Shape.ELLIPSOID] * bushes)
    world = torch.tensor([60.0, 60.0, 30.0]).expand(batch, 1, 3)
    ground = torch.tensor([60.0, 60.0, 0.05]).expand(batch, 1, 3)
    house = _uniform(generator, (batch, houses, 3), 0.4, 4.0)
    radius = _uniform(generator, (batch, poles, 1), 0.02, 0.15)
    pole = torch.cat([radius, radius, _uniform(generator, (batch, poles, 1), 0.8, 3.0)], 2)
    bush = _uniform(generator, (batch, bushes, 3), 0.2, 1.5)
    size = torch.cat([house, pole, bush], 1)
    bearing = _uniform(generator, (batch, things), -0.7, 0.7)
    distance = 3 * (14.0 ** torch.rand((batch, things), generator=generator))
    distance[:, :houses] += 4
    place = torch.stack([distance * bearing.cos(), distance * bearing.sin(), size[..., 2] * 0.95], -1)
    centre = torch.cat([torch.zeros(batch, 2, 3), place], 1)
    rotation = _random_rotations(generator, (batch, things + 2), 0.0)
    rotation[:, :2] = torch.eye(3)
    scene = _solids(generator, shapes, centre, rotation, torch.cat([world, ground, size], 1))
    scene = replace(scene, cell=scene.cell * torch.tensor([1.0, 0.2] + [1.0] * things), light=scene.light * 0.5)
    height = _uniform(generator, (batch, CANDIDATES, 1), 0.8, 2.5)
    eyes = torch.cat([_uniform(generator, (batch, CANDIDATES, 2), -1.0, 1.0), height], 2)
    ahead = torch.cat([torch.ones(batch, CANDIDATES, 1), _uniform(generator, (batch, CANDIDATES, 2), -0.25, 0.1)], 2)
    return scene, look_at(eyes, eyes + ahead)


def _relief(generator: torch.Generator, batch: int) -> tuple[Scene, Tensor]:
    """A wall or ground with boxes and balls half sunk into it, seen from the front or at a slant."""
    count = int(torch.randint(4, 24, (), generator=generator))
    shapes = (Shape.BOX, Shape.BOX) + (Shape.BOX, Shape.ELLIPSOID) * (count // 2)
    solids = len(shapes) - 2
    size = _uniform(generator, (batch, solids, 3), 0.05, 0.6) * torch.tensor([1.0, 1.0, 0.5])
    place = _uniform(generator, (batch, solids, 3), -2.0, 2.0) * torch.tensor([1.0, 1.0, 0.0])
    centre = torch.cat([torch.zeros(batch, 2, 3), place], 1)
    world = torch.tensor([12.0, 12.0, 12.0]).expand(batch, 1, 3)
    wall = torch.tensor([6.0, 6.0, 0.02]).expand(batch, 1, 3)
    rotation = _random_rotations(generator, (batch, solids + 2), 0.2)
    rotation[:, 0] = torch.eye(3)
    scene = _solids(generator, shapes, centre, rotation, torch.cat([world, wall, size], 1))
    scene = replace(scene, cell=scene.cell * torch.tensor([0.5, 0.15] + [1.0] * solids))
    eyes = _uniform(generator, (batch, CANDIDATES, 3), -2.0, 2.0)
    eyes[..., 2] = _uniform(generator, (batch, CANDIDATES), 1.2, 4.0)
    targets = _uniform(generator, (batch, CANDIDATES, 3), -1.0, 1.0) * torch.tensor([1.0, 1.0, 0.0])
    return scene, look_at(eyes, targets)


_KINDS: tuple[Callable[[torch.Generator, int], tuple[Scene, Tensor]], ...] = (
    _room,
    _room,
    _clutter,
    _clutter,
    _open_ground,
    _relief,
)
