"""The bundled sample: a walk around the table of a furnished room that returns to its start.

data/README.md describes the files.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor

from recon.lab.synthetic.paths import closed_spline, inverse_rigid, look_at
from recon.lab.synthetic.render import render_colour, render_depth
from recon.lab.synthetic.scenes import Scene, Shape, Solid, scene_from_solids
from recon.lab.synthetic.textures import Pattern

FRAMES = 60
HEIGHT, WIDTH, FOCAL = 480, 640, 500.0
DEPTH_EVERY = 6
JPEG_QUALITY = 82
ROOM = (3.0, 2.5, 1.35)  # half size, metres
LAMP = (0.3, 0.2, 2.45)

Vector = tuple[float, float, float]
Palette = tuple[str, str, str, str]

WALL: Palette = ("ece4d4", "dad0bc", "c8bca8", "ffffff")
CEILING: Palette = ("f6f4f0", "ebe9e4", "ffffff", "ffffff")
BRICK: Palette = ("a8583c", "c47850", "8c4430", "d8d0c4")
OAK: Palette = ("c89860", "a87840", "b88850", "d0a870")
WALNUT: Palette = ("80583a", "5a3a24", "6c4a30", "7c5838")
WHITE: Palette = ("f0eee8", "dcd8d0", "ffffff", "e8e4dc")
STEEL: Palette = ("c0c4c8", "a0a4a8", "b0b4b8", "d0d4d8")
SOFA: Palette = ("3c6878", "2c5464", "508090", "204050")
BOOKS: Palette = ("b04038", "2c5880", "d8b050", "8a6440")
RUG: Palette = ("a03838", "e0d0a8", "284868", "c88048")
LEAF: Palette = ("3c7838", "6aa850", "2c5c2c", "a0c870")
CLAY: Palette = ("c07048", "a85c38", "d08860", "8c4c30")
PAPER: Palette = ("f0e8d8", "e0a040", "c84838", "2c3c58")
SEA: Palette = ("58a0c0", "e8f0f0", "204878", "f0c860")
MEADOW: Palette = ("a8c070", "f0e0a0", "d86848", "4c3828")
NIGHT: Palette = ("283058", "6850a0", "f0d080", "d0d0e8")
CANDY: Palette = ("e86880", "60b8b0", "f8d860", "fff4e8")


def box(low: Vector, high: Vector, pattern: Pattern, palette: Palette, cell: float, *, yaw: float = 0.0) -> Solid:
    """A box by two opposite corners; yaw turns it about its middle."""
    centre, half_size = _between(low, high)
    return Solid(Shape.BOX, centre, half_size, pattern, palette, cell, yaw)


def upright(foot: Vector, size: tuple[float, float], pattern: Pattern, palette: Palette, cell: float) -> Solid:
    """A standing cylinder; size is its radius and its height."""
    (x, y, z), (radius, height) = foot, size
    return Solid(Shape.CYLINDER, (x, y, z + height / 2), (radius, radius, height / 2), pattern, palette, cell)


def blob(centre: Vector, half_size: Vector, pattern: Pattern, palette: Palette, cell: float) -> Solid:
    """An ellipsoid."""
    return Solid(Shape.ELLIPSOID, centre, half_size, pattern, palette, cell)


def furnished_room() -> Scene:
    """The sample's room, a batch of one: 6 x 5 x 2.7 m, origin in the middle of the floor."""
    return scene_from_solids([*_shell(), *_pictures(), *_table(), *_sofa(), *_storage(), *_corners()], LAMP)


def walk(count: int = FRAMES) -> Tensor:
    """world_from_cam (count, 4, 4) float64 of the walk; frame ``count`` would be frame 0 again."""
    angle = 2 * math.pi * torch.arange(12, dtype=torch.float64) / 12
    reach = 1 + 0.08 * torch.sin(3 * angle)
    eyes = torch.stack([1.85 * reach * angle.cos(), 1.45 * reach * angle.sin(), 1.5 + 0.12 * torch.sin(2 * angle)], 1)
    across = torch.stack([-1.2 * angle.cos(), -1.0 * angle.sin(), 0.95 + 0.1 * torch.cos(3 * angle)], 1)
    return look_at(closed_spline(eyes, count), closed_spline(across, count))


def sample_intrinsics() -> Tensor:
    """Intrinsics (3, 3) of the sample's images."""
    return torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]], dtype=torch.float32)


def render_image(scene: Scene, world_from_cam: Tensor) -> NDArray[np.uint8]:
    """The image (HEIGHT, WIDTH, 3) RGB at a pose (4, 4)."""
    cam_from_world = inverse_rigid(world_from_cam).float()[None, None]
    colour = render_colour(scene, cam_from_world, sample_intrinsics(), HEIGHT, WIDTH)
    return (255 * colour[0, 0]).round().to(torch.uint8).numpy()


def render_millimetres(scene: Scene, world_from_cam: Tensor) -> NDArray[np.uint16]:
    """Depth along z (HEIGHT / 2, WIDTH / 2) in millimetres at a pose (4, 4), 0 = none, of the same field of view."""
    cam_from_world = inverse_rigid(world_from_cam).float()[None, None]
    halved = sample_intrinsics() * torch.tensor([[0.5], [0.5], [1.0]])
    depth = render_depth(scene, cam_from_world, halved, HEIGHT // 2, WIDTH // 2)
    return (1000 * depth[0, 0]).round().numpy().astype(np.uint16)


def write_sample(folder: Path, scene: Scene | None = None, count: int = FRAMES) -> None:
    """Write images, depth, poses and intrinsics into ``folder``, replacing files of the same names. scene: None for
    ``furnished_room``. count: of frames on the walk.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "depth").mkdir(exist_ok=True)
    scene, poses = scene or furnished_room(), walk(count)
    write_poses(folder / "poses.txt", poses)
    (folder / "intrinsics.txt").write_text(f"{FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}\n")
    for index, pose in enumerate(poses):
        image = Image.fromarray(render_image(scene, pose))
        image.save(folder / "images" / f"{index:06d}.jpg", quality=JPEG_QUALITY, optimize=True)
        if index % DEPTH_EVERY == 0:
            depth = Image.fromarray(render_millimetres(scene, pose))
            depth.save(folder / "depth" / f"{index:06d}.png", optimize=True)


def write_poses(path: Path, world_from_cam: Tensor) -> None:
    """Write poses (count, 4, 4) as a TUM file; the frame's number is its time."""
    path.write_text("".join(_tum_row(index, pose) for index, pose in enumerate(world_from_cam)))


def _tum_row(index: int, world_from_cam: Tensor) -> str:
    numbers = *world_from_cam[:3, 3].tolist(), *Rotation.from_matrix(world_from_cam[:3, :3].numpy()).as_quat()
    return f"{index} " + " ".join(f"{number:.9f}" for number in numbers) + "\n"


def _between(low: Vector, high: Vector) -> tuple[Vector, Vector]:
    centre = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
    half_size = tuple((b - a) / 2 for a, b in zip(low, high, strict=True))
    return (centre[0], centre[1], centre[2]), (half_size[0], half_size[1], half_size[2])


def _shell() -> list[Solid]:
    x, y, z = ROOM[0], ROOM[1], 2 * ROOM[2]
    skirting = [
        box((-x, side * y - 0.015, 0), (x, side * y + 0.015, 0.09), Pattern.PLASTER, WHITE, 0.3) for side in (-1, 1)
    ]
    return [
        box((-x, -y, 0), (x, y, z), Pattern.PLASTER, WALL, 0.5),
        box((-x, -y, -0.01), (x, y, 0.01), Pattern.WOOD, OAK, 0.14),
        box((-x, -y, z - 0.01), (x, y, z), Pattern.PLASTER, CEILING, 0.4),
        box((x - 0.02, -y, 0), (x, y, z), Pattern.BRICKS, BRICK, 0.24),
        upright((LAMP[0], LAMP[1], 2.58), (0.22, 0.12), Pattern.PLASTER, WHITE, 0.2),
        box((-1.5, -1.1, 0.0), (1.4, 1.0, 0.018), Pattern.RUG, RUG, 0.16),
        *skirting,
    ]


def _pictures() -> list[Solid]:
    x, y = ROOM[0], ROOM[1]
    return [
        box((-0.7, -y, 1.25), (0.5, -y + 0.03, 2.05), Pattern.POSTER, SEA, 0.2),
        box((1.3, -y, 1.2), (1.9, -y + 0.03, 2.1), Pattern.POSTER, NIGHT, 0.15),
        box((-2.5, -y, 1.3), (-1.7, -y + 0.03, 1.9), Pattern.POSTER, MEADOW, 0.15),
        box((x - 0.05, -1.5, 1.1), (x, -0.3, 2.0), Pattern.POSTER, PAPER, 0.2),
        box((x - 0.05, 0.6, 1.3), (x, 1.3, 2.2), Pattern.POSTER, CANDY, 0.2),
        box((-x, -1.6, 1.2), (-x + 0.03, -0.6, 2.0), Pattern.POSTER, CANDY, 0.2),
        box((0.7, y - 0.03, 1.3), (1.5, y, 2.2), Pattern.POSTER, SEA, 0.15),
        box((-2.2, y - 0.03, 1.35), (-1.3, y, 2.05), Pattern.POSTER, PAPER, 0.15),
    ]


def _table() -> list[Solid]:
    legs = [upright((x, y, 0), (0.035, 0.7), Pattern.WOOD, WALNUT, 0.1) for x in (-0.6, 0.6) for y in (-0.35, 0.35)]
    return [
        *legs,
        box((-0.7, -0.45, 0.7), (0.7, 0.45, 0.74), Pattern.WOOD, WALNUT, 0.15),
        upright((-0.3, 0.1, 0.74), (0.07, 0.2), Pattern.TILES, SEA, 0.05),
        blob((-0.3, 0.1, 1.02), (0.14, 0.14, 0.12), Pattern.TERRAZZO, LEAF, 0.06),
        box((0.15, -0.3, 0.74), (0.45, -0.08, 0.79), Pattern.POSTER, NIGHT, 0.1, yaw=0.4),
        box((0.18, -0.28, 0.79), (0.42, -0.1, 0.83), Pattern.POSTER, MEADOW, 0.1, yaw=0.1),
        blob((0.3, 0.22, 0.83), (0.09, 0.09, 0.09), Pattern.TERRAZZO, CANDY, 0.08),
    ]


def _sofa() -> list[Solid]:
    return [
        box((-1.1, -2.4, 0.08), (0.9, -1.65, 0.42), Pattern.TERRAZZO, SOFA, 0.05),
        box((-1.1, -2.48, 0.1), (0.9, -2.25, 0.85), Pattern.TERRAZZO, SOFA, 0.04),
        box((-1.3, -2.45, 0.05), (-1.1, -1.65, 0.6), Pattern.TERRAZZO, SOFA, 0.045),
        box((0.9, -2.45, 0.05), (1.1, -1.65, 0.6), Pattern.TERRAZZO, SOFA, 0.055),
        blob((-0.8, -2.15, 0.6), (0.22, 0.12, 0.19), Pattern.TILES, CANDY, 0.07),
        blob((0.55, -2.15, 0.6), (0.22, 0.12, 0.19), Pattern.RUG, RUG, 0.06),
    ]


def _storage() -> list[Solid]:
    return [
        box((-1.0, 2.18, 0.02), (0.45, 2.5, 2.1), Pattern.BOOKS, BOOKS, 0.05),
        box((0.85, 2.08, 0.1), (2.1, 2.5, 0.75), Pattern.WOOD, OAK, 0.2),
        blob((1.2, 2.3, 0.9), (0.15, 0.15, 0.15), Pattern.TILES, PAPER, 0.08),
        box((1.6, 2.2, 0.75), (1.9, 2.4, 1.1), Pattern.POSTER, MEADOW, 0.1, yaw=0.2),
        box((-3.0, 0.2, 0.0), (-2.94, 1.15, 2.05), Pattern.WOOD, OAK, 0.34),
        blob((-2.9, 0.32, 1.02), (0.035, 0.035, 0.035), Pattern.PLASTER, STEEL, 0.1),
        box((-2.95, -1.75, 0.05), (-2.5, -0.45, 0.8), Pattern.WOOD, WALNUT, 0.2),
        upright((-2.72, -0.75, 0.8), (0.09, 0.25), Pattern.TERRAZZO, CLAY, 0.08),
        box((-2.85, -1.5, 0.8), (-2.6, -1.15, 1.0), Pattern.BOOKS, RUG, 0.03),
    ]


def _corners() -> list[Solid]:
    return [
        upright((2.5, 2.0, 0), (0.22, 0.4), Pattern.BRICKS, CLAY, 0.12),
        blob((2.5, 2.0, 0.85), (0.38, 0.38, 0.5), Pattern.TERRAZZO, LEAF, 0.12),
        upright((2.5, -2.0, 0), (0.025, 1.5), Pattern.PLASTER, STEEL, 0.1),
        upright((2.5, -2.0, 1.45), (0.22, 0.3), Pattern.RUG, PAPER, 0.07),
        upright((2.5, -2.0, 0), (0.16, 0.03), Pattern.PLASTER, STEEL, 0.1),
        upright((2.2, 0.1, 0), (0.2, 0.45), Pattern.RUG, NIGHT, 0.09),
        box((-2.75, 1.75, 0), (-2.2, 2.3, 0.45), Pattern.POSTER, MEADOW, 0.15, yaw=0.3),
        blob((-2.45, 2.02, 0.62), (0.17, 0.17, 0.17), Pattern.TILES, CANDY, 0.09),
    ]
