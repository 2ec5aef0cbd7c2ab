"""Scenes with places that look the same, and walks through them: a map that lays two of them together is folded.

Every scene has a control, the same one with a texture of its own on every surface.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from PIL import Image as Pillow
from torch import Tensor

from recon.lab.synthetic.paths import inverse_rigid, look_at, orbit
from recon.lab.synthetic.render import Rendering, render_single
from recon.lab.synthetic.sample import (
    BOOKS,
    BRICK,
    CANDY,
    LAMP,
    NIGHT,
    OAK,
    PAPER,
    RUG,
    SEA,
    SOFA,
    STEEL,
    WALL,
    WALNUT,
    box,
    upright,
    write_poses,
)
from recon.lab.synthetic.scenes import Scene, Solid, scene_from_solids
from recon.lab.synthetic.textures import Pattern

FRAMES = 40
HEIGHT, WIDTH, FOCAL = 240, 320, 250.0
JPEG_QUALITY = 90
DOOR_EVERY = 1.7  # metres
Walk = tuple[Scene, Tensor]  # a batch of one scene, and world_from_cam (FRAMES, 4, 4)
Group = list[Solid]  # solids with the same texture


def printed_mug(seed: int, *, alike: bool) -> Walk:
    """A mug with the same print on two sides, on a table, seen from all around."""
    generator = torch.Generator().manual_seed(seed)
    body = upright((0, 0, 0), (0.45, 1.1), Pattern.TERRAZZO, SEA, 0.25)
    prints = [
        box((side - 0.03, -0.32, 0.1), (side + 0.03, 0.32, 1.0), Pattern.POSTER, CANDY, 0.1, yaw=yaw)
        for side, yaw in ((-0.45, math.pi), (0.45, 0.0))
    ]
    handle = box((-0.05, 0.4, 0.3), (0.05, 0.75, 0.8), Pattern.PLASTER, STEEL, 0.3)
    table = box((-2, -2, -0.1), (2, 2, 0.0), Pattern.PLASTER, OAK, 0.8)
    scene = _scene([[body], prints if alike else prints[:1], [] if alike else prints[1:], [handle], [table]], seed)
    height, radius = (low + (high - low) * _random(generator) for low, high in ((0.35, 0.6), (1.8, 2.2)))
    return scene, orbit(torch.tensor([0.0, 0.0, 0.5], dtype=torch.float64), radius, height, FRAMES)


def corridor_of_doors(seed: int, *, alike: bool) -> Walk:
    """A corridor with the same door and sign every DOOR_EVERY metres, seen by a camera that looks at them obliquely."""
    generator = torch.Generator().manual_seed(seed)
    length, half_width = 9 * DOOR_EVERY, 1.0 + 0.3 * _random(generator)
    places = [DOOR_EVERY * number for number in range(9)]
    walls = [
        box((0, -half_width, 0), (length, half_width, 2.6), Pattern.PLASTER, WALL, 0.5),
        box((0, -half_width, -0.01), (length, half_width, 0.01), Pattern.PLASTER, OAK, 0.5),
    ]
    doors = [
        box((x + 0.3, half_width - 0.04, 0), (x + 1.2, half_width, 2.05), Pattern.WOOD, WALNUT, 0.3) for x in places
    ]
    signs = [
        box((x + 1.3, half_width - 0.03, 1.2), (x + 1.6, half_width, 1.6), Pattern.POSTER, PAPER, 0.06) for x in places
    ]
    posters = [
        box((x + 0.5, half_width - 0.05, 1.2), (x + 1.0, half_width, 1.8), Pattern.POSTER, NIGHT, 0.1) for x in places
    ]
    groups = [doors, signs, posters]
    scene = _scene([*([wall] for wall in walls), *(groups if alike else _apart(groups))], seed)
    share = torch.linspace(0, 1, FRAMES, dtype=torch.float64)
    eyes = torch.stack([1.0 + 8.5 * share, -0.5 + 0.1 * torch.sin(9 * share + seed), 1.5 + 0 * share], 1)
    return scene, look_at(eyes, eyes + torch.tensor([0.7, 1.0, -0.1], dtype=torch.float64))


def equal_rooms(seed: int, *, alike: bool) -> Walk:
    """Two rooms with the same furniture and walls, one turned by 180 degrees, joined by a passage. The camera walks
    through both and back, turning steadily, so that every view has a twin in the other room.
    """
    generator = torch.Generator().manual_seed(seed)
    apart = 2.9 + 0.3 * _random(generator)
    room = _room(apart)
    pairs = [[solid, _opposite(solid)] for solid in room]
    partitions = [
        box((-0.2, low, 0), (0.2, high, 2.7), Pattern.BRICKS, BRICK, 0.2) for low, high in ((-2.5, -0.9), (0.9, 2.5))
    ]
    hall = box((-apart - 2.9, -2.5, 0), (apart + 2.9, 2.5, 2.7), Pattern.PLASTER, WALL, 0.5)
    scene = _scene(
        [[hall], *([wall] for wall in partitions), *(pairs if alike else _apart(pairs))], seed, (0.0, 0.0, LAMP[2])
    )
    angle = 2 * math.pi * torch.arange(FRAMES, dtype=torch.float64) / FRAMES
    eyes = torch.stack([(apart + 1.0) * angle.cos(), 0.6 * angle.sin(), 1.5 + 0.1 * (4 * angle).sin()], 1)
    towards = angle - math.radians(225)
    ahead = torch.stack([towards.cos(), towards.sin(), torch.full_like(angle, -0.2)], 1)
    return scene, look_at(eyes, eyes + ahead)


TWINS: Mapping[str, Callable[..., Walk]] = MappingProxyType(
    {"mug": printed_mug, "corridor": corridor_of_doors, "rooms": equal_rooms}
)


def write_twins(folder: Path, seeds: int, *, alike: bool = True) -> None:
    """Write images, true poses and intrinsics of every scene with each of ``seeds`` seeds into folders of its own."""
    for seed in range(seeds):
        for name, make in TWINS.items():
            scene, poses = make(seed, alike=alike)
            own = folder / (f"{name}-{seed}" if alike else f"{name}-{seed}-control")
            (own / "images").mkdir(parents=True, exist_ok=True)
            (own / "intrinsics.txt").write_text(f"{FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}\n")
            for index, pose in enumerate(poses):
                image = (255 * photograph(scene, pose).colour[0, 0].clamp(0, 1)).round().to(torch.uint8).numpy()
                Pillow.fromarray(image).save(own / "images" / f"{index:06d}.jpg", quality=JPEG_QUALITY)
            write_poses(own / "poses.txt", poses)


@torch.inference_mode()
def photograph(scene: Scene, world_from_cam: Tensor, shrink: int = 1) -> Rendering:
    """The image and depth, (1, 1, HEIGHT / shrink, WIDTH / shrink), at a pose (4, 4)."""
    intrinsics = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, shrink]]) / shrink
    cam_from_world = inverse_rigid(world_from_cam).float()[None, None]
    return render_single(scene, cam_from_world, intrinsics, HEIGHT // shrink, WIDTH // shrink)


def _room(x: float) -> Group:
    """Floor, one wall, pictures and furniture of a room around (x, 0)."""
    return [
        box((x - 2.7, -2.5, -0.01), (x + 2.9, 2.5, 0.01), Pattern.WOOD, OAK, 0.14),
        box((x - 1.2, -1.0, 0.0), (x + 1.2, 1.0, 0.02), Pattern.RUG, RUG, 0.16),
        box((x - 2.5, 2.46, 0), (x + 2.9, 2.5, 2.7), Pattern.BRICKS, BRICK, 0.24),
        box((x - 1.4, 2.42, 1.0), (x - 0.3, 2.46, 1.9), Pattern.POSTER, SEA, 0.2),
        box((x + 0.4, 2.42, 1.2), (x + 1.2, 2.46, 2.0), Pattern.POSTER, PAPER, 0.15),
        box((x - 1.6, -2.5, 1.0), (x - 0.4, -2.46, 1.9), Pattern.POSTER, NIGHT, 0.2),
        box((x + 0.2, -2.5, 0.0), (x + 1.6, -2.1, 1.9), Pattern.BOOKS, BOOKS, 0.05),
        box((x + 2.86, -1.0, 0.9), (x + 2.9, 0.6, 2.0), Pattern.POSTER, CANDY, 0.2),
        box((x - 1.8, -2.4, 0.0), (x - 0.2, -1.8, 0.7), Pattern.TERRAZZO, SOFA, 0.05),
        box((x - 0.4, 1.3, 0.0), (x + 0.4, 1.9, 0.6), Pattern.TERRAZZO, CANDY, 0.08),
    ]


def _opposite(solid: Solid) -> Solid:
    """The solid turned about the world's z axis by 180 degrees."""
    x, y, z = solid.centre
    return replace(solid, centre=(-x, -y, z), yaw=solid.yaw + math.pi)


def _apart(groups: Sequence[Group]) -> list[Group]:
    return [[solid] for group in groups for solid in group]


def _random(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _scene(groups: Sequence[Group], seed: int, lamp: tuple[float, float, float] = LAMP) -> Scene:
    """A scene in which the solids of a group have the same texture."""
    scene = scene_from_solids([solid for group in groups for solid in group], lamp, seed)
    numbers = [1000 * seed + row for row, group in enumerate(groups) for _ in group]
    return replace(scene, seed=torch.tensor([numbers], dtype=torch.int32))
