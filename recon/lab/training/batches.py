"""From rendered shards to training batches: view choice, crop, flip, jitter, pose noise, depth range, sparse points."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recon.depth.network import Estimate, PosedDepthNet, Sweep
from recon.depth.sweep import Geometry
from recon.lab.training.pool import Shard
from recon.lab.training.scenes import euler

EDGE = 0.06  # neighbouring depths that differ by more belong to two surfaces


@dataclass(frozen=True, eq=False)
class Batch:
    """Scenes in which every view is the reference once.

    images: (scenes * views, 3, h, w) in 0..1. depth: (scenes * views, 1, h, w) true depth of every image. references:
    (r,) rows of ``images``. sources: (r * sources,) rows, reference by reference. sweep: of the r references.
    """

    images: Tensor
    depth: Tensor
    references: Tensor
    sources: Tensor
    sweep: Sweep

    @property
    def samples(self) -> int:
        """Number of images."""
        return len(self.images)

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.images.to(device, memory_format=torch.channels_last),
            self.depth.to(device),
            self.references.to(device),
            self.sources.to(device),
            self.sweep.to(device),
        )


@dataclass(frozen=True)
class BatchSettings:
    """How batches are drawn; scenes x views images of height x width pixels.

    noise: share of the batches whose poses are wrong by up to 1 degree and 10% of the baseline. sparse: share with
    sparse points. strength: of the photometric jitter. planes: depth hypotheses. overlap: least share of each view that
    the others of its scene see, if such views are found.
    """

    scenes: int = 4
    views: int = 3
    height: int = 96
    width: int = 128
    noise: float = 0.4
    sparse: float = 0.5
    strength: float = 1.0
    planes: int = 48
    overlap: float = 0.3


@dataclass(frozen=True, eq=False)
class Views:
    """Chosen views of several scenes, cropped: colour (scenes, views, h, w, 3) in 0..1, the rest as in ``Shard``."""

    colour: Tensor
    depth: Tensor
    cam_from_world: Tensor
    intrinsics: Tensor


def run_batch(net: PosedDepthNet, batch: Batch, *, half: bool) -> Estimate:
    """Depth of the batch's references; ``half``: convolutions in bfloat16."""
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=half):
        features = net.encode(batch.images)
        return net.estimate(features[batch.references], features[batch.sources], batch.sweep)


def make_batch(shard: Shard, settings: BatchSettings, generator: torch.Generator) -> Batch:
    """A batch from one shard; all randomness comes from the generator, a CPU one."""
    from recon.lab.training.augment import jitter  # noqa: PLC0415 (OpenCV, which the whole network's training needs not)

    views = draw_views(shard, settings, generator)
    random = np.random.default_rng(int(torch.randint(1 << 60, (), generator=generator)))
    strength = settings.strength * float(torch.rand((), generator=generator).sqrt())
    images = np.stack([jitter(image, random, strength) for image in views.colour.flatten(0, 1).numpy()])
    references, sources = all_references(settings.scenes, settings.views)
    return Batch(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last),
        views.depth.flatten(0, 1)[:, None],
        references,
        sources,
        _sweep(views, settings, generator, references, sources),
    )


def draw_views(shard: Shard, settings: BatchSettings, generator: torch.Generator) -> Views:
    """Views that are chosen, cropped, and half of the time mirrored, on the device of the shard's images. A CPU
    generator.
    """
    views = crop(choose_views(shard, settings, generator), settings, generator)
    return mirror(views) if torch.rand((), generator=generator) < 0.5 else views


def all_references(scenes: int, views: int) -> tuple[Tensor, Tensor]:
    """Rows of all views as references (scenes * views,), and of their sources, the other views of the same scene."""
    references = torch.arange(scenes * views)
    others = torch.tensor([[other for other in range(views) if other != view] for view in range(views)])
    sources = torch.arange(scenes)[:, None, None] * views + others
    return references, sources.flatten()


def choose_views(shard: Shard, settings: BatchSettings, generator: torch.Generator) -> Views:
    """Random scenes and views; a scene's views overlap if a few tries find such views. If the batch needs more scenes
    than the shard has, scenes repeat with other views.
    """
    rounds = math.ceil(settings.scenes / len(shard.colour))
    scenes = torch.cat([torch.randperm(len(shard.colour), generator=generator) for _ in range(rounds)])
    scenes = scenes[: settings.scenes]
    chosen = torch.stack([_overlapping(shard.overlap[scene], settings, generator) for scene in scenes])
    rows = scenes[:, None]
    return Views(
        shard.colour[rows, chosen].float() / 255,
        shard.depth[rows, chosen],
        shard.cam_from_world[rows, chosen],
        shard.intrinsics,
    )


def _overlapping(overlap: Tensor, settings: BatchSettings, generator: torch.Generator) -> Tensor:
    best, best_overlap = torch.arange(settings.views), -1.0
    for _ in range(4):
        chosen = torch.randperm(len(overlap), generator=generator)[: settings.views]
        smallest = float(overlap[chosen][:, chosen].min())
        if smallest > settings.overlap:
            return chosen
        if smallest > best_overlap:
            best, best_overlap = chosen, smallest
    return best


def crop(views: Views, settings: BatchSettings, generator: torch.Generator) -> Views:
    """The same random window of all views, scaled down to the batch's size; its shape varies by up to 15%."""
    height, width = views.depth.shape[-2:]
    largest = min(height / settings.height, width / settings.width)
    share = torch.rand(4, generator=generator).tolist()
    zoom = 1 + (largest - 1) * share[0]
    stretch = math.exp(0.15 * (2 * share[1] - 1))
    tall = min(height, round(settings.height * zoom * min(stretch, 1)))
    wide = min(width, round(settings.width * zoom * min(1 / stretch, 1)))
    top, left = int(share[2] * (height - tall + 1)), int(share[3] * (width - wide + 1))
    window = (..., slice(top, top + tall), slice(left, left + wide))
    size = (settings.height, settings.width)
    colour = views.colour.flatten(0, 1).permute(0, 3, 1, 2)[window]
    colour = functional.interpolate(colour, size, mode="bilinear", antialias=True, align_corners=False)
    depth = resize_depth(views.depth.flatten(0, 1)[:, None][window], size)
    scale = torch.tensor([[size[1] / wide], [size[0] / tall], [1.0]])
    shift = torch.tensor([[0.0, 0.0, left], [0.0, 0.0, top], [0.0, 0.0, 0.0]])
    return Views(
        colour.permute(0, 2, 3, 1).reshape(*views.colour.shape[:2], *size, 3),
        depth.reshape(*views.depth.shape[:2], *size),
        views.cam_from_world,
        (views.intrinsics - shift) * scale,
    )


def resize_depth(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Depth (n, 1, h, w) at the pixel centres of an image of another size, 0 where unknown. Inverse depth of a plane is
    linear in the pixel, so it can be interpolated. Across the edge of a surface it cannot, and the nearest pixel
    counts.
    """
    inverse = torch.where(depth > 0, 1 / depth.clamp(min=1e-9), 0)
    smooth = functional.interpolate(inverse, size, mode="bilinear", align_corners=False)
    nearest = functional.interpolate(inverse, size, mode="nearest-exact")
    new = torch.where((smooth - nearest).abs() < EDGE * nearest, smooth, nearest)
    return torch.where(new > 0, 1 / new.clamp(min=1e-9), 0)


def mirror(views: Views) -> Views:
    """The mirrored scene: images flipped left to right, x of all cameras reversed."""
    width = views.depth.shape[-1]
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    intrinsics = views.intrinsics.clone()
    intrinsics[0, 2] = width - intrinsics[0, 2]
    return Views(views.colour.flip(3), views.depth.flip(3), flip @ views.cam_from_world @ flip, intrinsics)


def _sweep(
    views: Views, settings: BatchSettings, generator: torch.Generator, references: Tensor, sources: Tensor
) -> Sweep:
    poses = views.cam_from_world
    if torch.rand((), generator=generator) < settings.noise:
        poses = noisy_poses(poses, generator)
    flat = poses.flatten(0, 1)
    intrinsics = views.intrinsics.expand(len(flat), 3, 3)
    depth = views.depth.flatten(0, 1)[references][:, None]
    return Sweep(
        geometry_between(flat, intrinsics, references, sources, (settings.height, settings.width)),
        random_planes(depth, settings.planes, generator),
        sparse_points(depth, generator, settings.sparse),
    )


def geometry_between(
    cam_from_world: Tensor, intrinsics: Tensor, references: Tensor, sources: Tensor, size: tuple[int, int]
) -> Geometry:
    """The geometry of references and sources: rows of poses (rows, 4, 4) and intrinsics (rows, 3, 3); see ``Batch``.

    size: height and width of all images.
    """
    grouped = sources.reshape(len(references), -1)
    source_from_reference = cam_from_world[grouped] @ torch.linalg.inv(cam_from_world[references])[:, None]
    extent = torch.tensor([size[1], size[0]], device=cam_from_world.device).expand(*grouped.shape, 2)
    return Geometry.between(intrinsics[references], intrinsics[grouped], source_from_reference, extent)


def noisy_poses(
    cam_from_world: Tensor, generator: torch.Generator, degrees: tuple[float, float] = (0.05, 1.0)
) -> Tensor:
    """Poses (scenes, views, 4, 4) rotated by an angle in ``degrees`` and moved by 1 to 10% of the largest baseline."""
    scenes, count = cam_from_world.shape[:2]
    share = torch.rand((scenes, 1, 1), generator=generator).square()
    turn = (
        (degrees[0] + (degrees[1] - degrees[0]) * share)
        * math.pi
        / 180
        * torch.randn((scenes, count, 3), generator=generator)
        / 3**0.5
    )
    baseline = (cam_from_world[:, :, :3, 3] - cam_from_world[:, :1, :3, 3]).norm(dim=2).amax(1)[:, None, None]
    move = (0.01 + 0.09 * share) * baseline * torch.randn((scenes, count, 3), generator=generator) / 3**0.5
    wrong = torch.eye(4).repeat(scenes, count, 1, 1)
    wrong[..., :3, :3] = euler(turn[..., 0], turn[..., 1], turn[..., 2])
    wrong[..., :3, 3] = move
    return wrong @ cam_from_world


def random_planes(depth: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Inverse depths (n, count), far to near, around true depths (n, 1, h, w) with margins drawn at random."""
    inverse = torch.where(depth > 0, 1 / depth.clamp(min=1e-9), torch.nan).flatten(1)
    low, high = (inverse.nanquantile(share, 1) for share in (0.01, 0.99))
    random = torch.rand((2, len(depth)), generator=generator).to(depth.device)
    far = low * (1 - 0.9 * random[0].square() - 0.05)
    near = high * (1.1 + 1.5 * random[1].square())
    return far[:, None] + (near - far)[:, None] * torch.linspace(0, 1, count, device=depth.device)


def sparse_points(depth: Tensor, generator: torch.Generator, share: float) -> Tensor:
    """Inverse depth (n, 1, h, w) at a few random pixels of depth (n, 1, h, w), 0 elsewhere, for a ``share`` of the
    images. Up to a tenth of the points are outliers, and all have some noise. The generator is on the depth's device.
    """
    n, device = len(depth), depth.device
    random = torch.rand((3, *depth.shape), generator=generator, device=device)
    density = 10 ** (-3.3 + 1.5 * torch.rand((n, 1, 1, 1), generator=generator, device=device))
    chosen = torch.rand((n, 1, 1, 1), generator=generator, device=device) < share
    present = chosen & (random[0] < density) & (depth > 0)
    outliers = 0.1 * torch.rand((n, 1, 1, 1), generator=generator, device=device)
    factor = torch.exp(0.01 * torch.randn(depth.shape, generator=generator, device=device))
    wrong = torch.exp(1.4 * (2 * random[2] - 1))
    factor = torch.where(random[1] < outliers, wrong, factor)
    return torch.where(present, factor / depth.clamp(min=1e-9), 0)
