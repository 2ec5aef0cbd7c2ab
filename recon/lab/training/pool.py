"""A pool of rendered scenes in shards on disk, slowly renewed during training.

Shard n depends only on the pool's seed and n, and the shards in use depend only on the step, so that a resumed run sees
the same scenes as an uninterrupted one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recon.core.files import write_atomically
from recon.lab.synthetic.paths import inverse_rigid
from recon.lab.synthetic.render import render_single
from recon.lab.training.atlas import Atlas
from recon.lab.training.scenes import random_scenes

SHADOWS = 0.35  # share of the shards with shadows, which cost a third of the rendering time
SLACK = 2  # shards kept after their use: batches may be prepared a little out of order
CPU = torch.device("cpu")
SAME_SURFACE = 0.05  # largest relative depth difference at which two views see the same point


RAYS_PER_BLOCK = {"cpu": 1 << 12, "cuda": 1 << 19}  # small blocks for a processor's cache, large ones for a GPU


@dataclass(frozen=True, eq=False)
class Shard:
    """Rendered views of several scenes.

    colour: (scenes, views, h, w, 3) uint8 sRGB. depth: (scenes, views, h, w) float32 along z. cam_from_world:
    (scenes, views, 4, 4). intrinsics: (3, 3). overlap: (scenes, views, views), share of the pixels of the first view
    that the second sees.
    """

    colour: Tensor
    depth: Tensor
    cam_from_world: Tensor
    intrinsics: Tensor
    overlap: Tensor

    def with_images_on(self, device: torch.device) -> Shard:
        """A copy with colour and depth on a device; poses stay on the CPU, where views are chosen."""
        return replace(self, colour=self.colour.to(device), depth=self.depth.to(device))

    def save(self, path: Path) -> None:
        """Write an npz file. Raises OutputError."""
        arrays = {name: tensor.numpy() for name, tensor in vars(self).items()}
        write_atomically(path, lambda file: np.savez(file, **arrays))

    @classmethod
    def load(cls, path: Path) -> Shard:
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{name: torch.from_numpy(arrays[name]) for name in arrays.files})


@dataclass(frozen=True)
class PoolSettings:
    """scenes, views: per shard. shards: in use at once. refresh_every: steps after which a new shard enters. first:
    shards rendered before the first step; the pool grows from there. seed: of the whole pool.
    """

    height: int = 120
    width: int = 160
    scenes: int = 8
    views: int = 6
    first: int = 4
    shards: int = 256
    refresh_every: int = 24
    seed: int = 0

    def in_use(self, step: int) -> range:
        """Numbers of the shards from which batches of this step are drawn."""
        end = self.first + step // self.refresh_every
        return range(max(0, end - self.shards), end)


class Pool:
    """Scenes for every step: ``draw`` returns the shard for a batch. Threads may share a pool. device: renders the
    scenes. resident: device of the images that ``draw`` returns.
    """

    def __init__(
        self,
        settings: PoolSettings,
        folder: Path,
        atlas: Callable[[], Atlas],
        device: torch.device,
        resident: torch.device = CPU,
    ) -> None:
        self._resident = resident
        self._settings = settings
        self._folder = folder
        self._atlas = atlas  # called when a shard has to be rendered
        self._device = device
        self._held: dict[int, Shard] = {}
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def draw(self, step: int, generator: torch.Generator) -> Shard:
        """A random shard of those in use; missing ones are rendered first, outdated ones deleted."""
        wanted = self._settings.in_use(step)
        number = wanted[int(torch.randint(len(wanted), (), generator=generator))]
        with self._lock:
            self._update(wanted)
            return self._held[number]

    def _update(self, wanted: range) -> None:
        for number in [number for number in self._held if number < wanted.start - SLACK]:
            del self._held[number]
            self._path(number).unlink(missing_ok=True)
        for number in wanted:
            if number not in self._held:
                self._held[number] = self._shard(number)

    def _shard(self, number: int) -> Shard:
        path = self._path(number)
        if not path.exists():
            render_shard(self._settings, number, self._atlas(), self._device).save(path)
        return Shard.load(path).with_images_on(self._resident)

    def _path(self, number: int) -> Path:
        return self._folder / f"shard-{number:06d}.npz"


def render_shard(settings: PoolSettings, number: int, atlas: Atlas, device: torch.device) -> Shard:
    """Shard ``number`` of the pool, rendered on a device and returned on the CPU."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + number)
    scenes = random_scenes(generator, settings.scenes, settings.views, settings.height, settings.width)
    shadows = bool(torch.rand((), generator=generator) < SHADOWS)
    cam_from_world = inverse_rigid(scenes.world_from_cam)
    paint = atlas.to(device).paint
    colours, depths = [], []
    for index in range(settings.scenes):
        rendering = render_single(
            scenes.scene[index].to(device),
            cam_from_world[index : index + 1].to(device),
            scenes.intrinsics.to(device),
            scenes.height,
            scenes.width,
            paint=paint,
            shadows=shadows,
            rays_per_block=RAYS_PER_BLOCK[device.type],
        )
        colours.append((255 * rendering.colour).round().to(torch.uint8).cpu())
        depths.append(rendering.depth.cpu())
    depth = torch.cat(depths)
    overlap = view_overlap(depth, cam_from_world, scenes.intrinsics)
    return Shard(torch.cat(colours), depth, cam_from_world, scenes.intrinsics, overlap)


def view_overlap(depth: Tensor, cam_from_world: Tensor, intrinsics: Tensor, stride: int = 4) -> Tensor:
    """Share of each view's pixels (first index) that each other view sees (second index): (scenes, views, views).
    depth: (scenes, views, h, w). cam_from_world: (scenes, views, 4, 4). Every ``stride``-th pixel is tested.
    """
    height, width = depth.shape[-2:]
    rows, columns = torch.arange(stride // 2, height, stride), torch.arange(stride // 2, width, stride)
    v, u = torch.meshgrid(rows + 0.5, columns + 0.5, indexing="ij")
    rays = torch.linalg.inv(intrinsics) @ torch.stack([u, v, torch.ones_like(u)]).flatten(1)
    asked = depth[:, :, rows[:, None], columns].flatten(2)
    points = torch.cat([asked[:, :, None] * rays, torch.ones_like(asked)[:, :, None]], 2)
    other_from_view = cam_from_world[:, None] @ torch.linalg.inv(cam_from_world)[:, :, None]
    x, y, z = (intrinsics @ (other_from_view[..., :3, :] @ points[:, :, None])).unbind(3)
    column, row = (x / z.clamp(min=1e-6)).floor(), (y / z.clamp(min=1e-6)).floor()
    inside = (z > 1e-6) & (column >= 0) & (row >= 0) & (column < width) & (row < height)
    index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
    others = depth.flatten(2)[:, None].expand(-1, depth.shape[1], -1, -1)
    found = others.gather(3, index)
    shared: Tensor = inside & ((found - z).abs() < SAME_SURFACE * z)
    return shared.float().mean(3)
