"""Places along a rendered street, photographed by day and by night, in the layout of place-recognition benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor

from recon.lab.synthetic.paths import inverse_rigid, look_at
from recon.lab.synthetic.render import GAMMA, Painter, render_single
from recon.lab.synthetic.scenes import Scene
from recon.lab.synthetic.street import MARGIN, Street, headings, part_of, street
from recon.lab.synthetic.textures import SurfacePoints, albedo

EVERY = 10.0  # metres from one place to the next
HEIGHT, WIDTH, FOCAL = 288, 384, 300.0
TILE = 96  # pixels
EYE, ASIDE = 1.6, 2.0  # metres: height of the camera, and its distance from the middle of the street
FAR, HOUSE = 40.0, 3.0  # metres: farther away, only what reaches farther than a house from its middle is rendered
NIGHT_SKY, DAY_SKY = 0.004, (0.62, 0.74, 0.90)  # light that comes from everywhere by night; colour of the sky by day
LAMP_STRENGTH = 6.0  # light at a metre below a lamp, nearly; a white surface in light 1 is white
SODIUM = np.array((1.0, 0.62, 0.30), np.float32)  # colour of the lamps, linear
WINDOW = np.array((1.0, 0.82, 0.55), np.float32)
SHINING = 2.0  # colour of what shines by night; the camera sees 1
JPEG_QUALITY = 88
SEED = 7_000_000
Radiance = NDArray[np.float32]  # (height, width, 3), linear
WALKS = {"day": (1, False), "night": (-1, True), "night-other-side": (1, True)}  # side of the street, by night


def write_places(folder: Path, count: int = 100, seed: int = 0) -> None:
    """Photograph ``count`` places, EVERY metres apart, from the right by day into ``FOLDER/*/database``, and
    for each entry of WALKS into ``FOLDER/NAME/queries``. Their names state where they were taken.
    """
    place = street(SEED + seed, EVERY * count)
    _write(_photographs(place, count, -1, (seed, 0)), [folder / name / "database" for name in WALKS])
    for number, (name, (side, dark)) in enumerate(WALKS.items(), 1):
        _write(_photographs(place, count, side, (seed, number), dark=dark), [folder / name / "queries"])


def _photographs(
    place: Street, count: int, side: int, seed: tuple[int, int], *, dark: bool = False
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The file names and images of a walk."""
    random = np.random.default_rng(seed)
    for number, pose in enumerate(walk(count, side, random)):
        east, north = pose[:2, 3].tolist()
        image = by_night(place, pose, random) if dark else by_day(place, pose)
        yield f"@{east:.2f}@{north:.2f}@{number:04d}@.jpg", image


def _write(photographs: Iterator[tuple[str, NDArray[np.uint8]]], folders: Sequence[Path]) -> None:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for name, image in photographs:
        for folder in folders:
            Pillow.fromarray(image).save(folder / name, quality=JPEG_QUALITY)


def walk(count: int, side: int, random: np.random.Generator) -> Tensor:
    """world_from_cam (count, 4, 4) along the right (side -1) or the left (1) of a street, as a hand holds a camera."""
    along = EVERY * torch.arange(count, dtype=torch.float64) + torch.from_numpy(random.uniform(-1, 1, count))
    across = side * ASIDE + torch.from_numpy(random.uniform(-0.5, 0.5, count))
    height = EYE + torch.from_numpy(random.uniform(-0.1, 0.1, count))
    yaw = -side * 0.08 + torch.from_numpy(random.normal(0, 0.05, count))
    eyes = torch.stack([along, across, height], 1)
    return look_at(eyes, eyes + headings(yaw))


def by_day(place: Street, world_from_cam: Tensor) -> NDArray[np.uint8]:
    """The image (HEIGHT, WIDTH, 3) at a pose (4, 4) under a bright sky."""
    scene = replace(place.scene, background=torch.tensor([DAY_SKY]))
    return _encoded(photograph(scene, place.parked != 2, world_from_cam)[0])


def by_night(place: Street, world_from_cam: Tensor, random: np.random.Generator) -> NDArray[np.uint8]:
    """The image (HEIGHT, WIDTH, 3) at a pose (4, 4), lit by the lamps, with other cars, and with a small camera's
    colour cast, blur and noise.
    """
    present = place.parked != 1
    marked = torch.where(place.glowing[None, :, None, None], torch.tensor(SHINING), place.scene.palette)
    black = replace(place.scene, background=torch.zeros(1, 3), ambient=torch.ones(1), palette=marked)
    surfaces, depth = photograph(black, present, world_from_cam, paint=_with_marks)
    glow = (surfaces.min(axis=2, keepdims=True) == 1) * WINDOW
    light = NIGHT_SKY + _lamplight(place.lamps, _positions(depth, world_from_cam))[..., None] * SODIUM
    return _encoded(_developed(surfaces * light + random.uniform(0.1, 0.5) * glow, random))


def _with_marks(points: SurfacePoints) -> Tensor:
    """The colours (n, 3) of surfaces, but SHINING where the palette says so; nothing else comes out at 1."""
    return torch.where(points.palette[:, 0] == SHINING, SHINING, albedo(points).clamp(max=0.99))


@torch.inference_mode()
def photograph(
    scene: Scene, present: Tensor, world_from_cam: Tensor, *, paint: Painter = albedo
) -> tuple[Radiance, Tensor]:
    """Linear colour (HEIGHT, WIDTH, 3), and depth (HEIGHT, WIDTH), of the solids that are present (solids,).

    Tile by tile with what is in view there, which is several times faster than with the whole street.
    """
    cam_from_world = inverse_rigid(world_from_cam).float()
    colour, depth = torch.empty(HEIGHT, WIDTH, 3), torch.empty(HEIGHT, WIDTH)
    for top in range(0, HEIGHT, TILE):
        for left in range(0, WIDTH, TILE):
            shifted = _intrinsics() - torch.tensor([[0, 0, left], [0, 0, top], [0, 0, 0]])
            seen = part_of(scene, present & _in_view(scene, cam_from_world, shifted))
            tile = render_single(seen, cam_from_world[None, None], shifted, TILE, TILE, paint=paint, shadows=False)
            window = slice(top, top + TILE), slice(left, left + TILE)
            colour[window], depth[window] = tile.colour[0, 0], tile.depth[0, 0]
    return colour.numpy() ** np.float32(GAMMA), depth


def _in_view(scene: Scene, cam_from_world: Tensor, intrinsics: Tensor) -> Tensor:
    """Which solids (solids,) a tile may show; the first, the ground, always."""
    reach = scene.half_size[0].norm(dim=1)
    centre = scene.centre[0] @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    kept: Tensor = centre[:, 2] - reach < torch.where(reach > HOUSE, MARGIN, FAR)
    corners = torch.tensor([[0.0, 0, 1], [TILE, 0, 1], [TILE, TILE, 1], [0, TILE, 1]]) @ torch.linalg.inv(intrinsics).T
    for start, end in zip(corners, corners.roll(-1, 0), strict=True):
        inwards = torch.nn.functional.normalize(torch.linalg.cross(start, end), dim=0)
        kept &= centre @ inwards > -reach
    kept[0] = True
    return kept


def _intrinsics() -> Tensor:
    return torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])


def _positions(depth: Tensor, world_from_cam: Tensor) -> NDArray[np.float32]:
    """Points in the world (HEIGHT, WIDTH, 3); without depth, the camera's own."""
    v, u = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    rays = torch.stack([u, v, torch.ones_like(u)], -1) @ torch.linalg.inv(_intrinsics()).T
    pose = world_from_cam.float()
    return np.asarray((depth[..., None] * rays @ pose[:3, :3].T + pose[:3, 3]).numpy())


def _lamplight(lamps: Tensor, positions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Light (height, width) of the lamps (n, 3) on surfaces at positions (height, width, 3), without shadows."""
    down = np.gradient(positions, axis=0)
    right = np.gradient(positions, axis=1)
    normal = np.cross(down, right)
    normal /= np.linalg.norm(normal, axis=2, keepdims=True) + 1e-9
    total = np.zeros(positions.shape[:2], np.float32)
    near = np.abs(lamps[:, 0].numpy() - positions[..., 0].mean()) < MARGIN
    for lamp in lamps.numpy()[near]:
        towards = lamp - positions
        square = (towards**2).sum(axis=2)
        facing = np.clip((towards * normal).sum(axis=2) / np.sqrt(square), 0, 1)
        downwards = np.clip(towards[..., 2] / np.sqrt(square), 0.05, 1)
        total += LAMP_STRENGTH * (0.1 + 0.9 * facing) * downwards / (square + 1)
    return total


def _developed(radiance: Radiance, random: np.random.Generator) -> Radiance:
    """What a small camera makes of dim light: glare around lamps, shaken and out of focus, few photons, brightened."""
    glare = cv2.GaussianBlur(radiance, (0, 0), 9)
    seen = _shaken(radiance + 0.12 * glare, random)
    seen = np.asarray(cv2.GaussianBlur(seen, (0, 0), random.uniform(0.3, 1.0)), dtype=np.float32)
    exposure = random.uniform(0.5, 1.0) / np.quantile(seen, 0.95)
    photons = random.uniform(40, 250)
    counted = random.poisson(np.clip(seen * exposure, 0, 4) * photons) + random.normal(0, 2.0, seen.shape)
    cast = np.exp(random.normal(0, 0.15, 3)) * (1.0, 1.15, 1.4)
    return np.asarray(counted / photons * cast, dtype=np.float32)


def _shaken(image: Radiance, random: np.random.Generator) -> Radiance:
    """Blurred by a short straight motion."""
    length, angle = random.uniform(0, 3), random.uniform(0, np.pi)
    kernel = np.zeros((9, 9), np.float32)
    for share in np.linspace(-0.5, 0.5, 33):
        x, y = 4 + share * length * np.cos(angle), 4 + share * length * np.sin(angle)
        kernel[round(y), round(x)] += 1
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), dtype=np.float32)


def _encoded(linear: Radiance) -> NDArray[np.uint8]:
    return np.asarray((255 * np.clip(linear, 0, 1) ** np.float32(1 / GAMMA)).round().astype(np.uint8))
