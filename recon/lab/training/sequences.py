"""Batches for the whole network: several views of many scenes as short streams, with true depth and poses.

Images, depth and all other large arrays are computed on the device of the shards' images; the CPU only chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from recon.depth.network import Estimate, Sweep
from recon.depth.stem import Features
from recon.depth.sweep import Geometry
from recon.lab.compact.compact import CompactCache, CompactNet, CompactPrediction
from recon.lab.training.batches import (
    BatchSettings,
    Views,
    draw_views,
    geometry_between,
    noisy_poses,
    random_planes,
    sparse_points,
)
from recon.lab.training.light import relight
from recon.lab.training.pool import Shard
from recon.lab.training.truth import Seen
from recon.network.cache import MemoryBudget
from recon.network.pose_encoding import matrices_from_encoding

Poses = Literal["true", "noisy", "own", "none"]
POSE_SHARES: dict[Poses, float] = {"true": 0.4, "noisy": 0.3, "own": 0.15, "none": 0.15}
NOISE_DEGREES = (0.5, 3.0)


@dataclass(frozen=True)
class SequenceSettings(BatchSettings):
    """How sequences are drawn: ``scenes`` of each of ``parts`` shards. ``noise`` plays no role.

    references: number of views of each scene that receive depth; sources: number of views compared with each. streamed:
    share of the batches that run chunk by chunk, with random chunks and drop rates.
    """

    parts: int = 4
    references: int = 2
    sources: int = 3
    streamed: float = 0.0


@dataclass(frozen=True, eq=False)
class SequenceBatch:
    """images: (scenes, views, 3, h, w) in 0..1. seen: depth and poses of (scenes * views) views; the world is the first
    view of each scene and the unit its median depth.

    labels: (scenes,), equal for scenes of one place. references, sources: rows of ``seen`` as in ``Batch``. sweep: of
    the references, None if depth is not trained. poses: those given to the sweep. chunks: sizes of the chunks. every:
    the drop rate.
    """

    images: Tensor
    seen: Seen
    labels: Tensor
    references: Tensor
    sources: Tensor
    sweep: Sweep | None
    poses: Poses
    chunks: tuple[int, ...]
    every: int

    @property
    def samples(self) -> int:
        """Number of images."""
        return self.images.shape[0] * self.images.shape[1]

    def to(self, device: torch.device) -> SequenceBatch:
        """The same batch, since it is already on the device. Raises ValueError for another device."""
        if self.images.device.type != device.type:
            raise ValueError(f"sequences lie on {self.images.device}, not on {device}")
        return self


@dataclass(frozen=True, eq=False)
class Run:
    """The network's predictions for a batch. predictions: by chunk. known: by chunk, the frames in ``relative``.

    features: of all views, scene by scene.
    """

    predictions: list[CompactPrediction]
    known: list[list[int]]
    features: Features

    @property
    def encodings(self) -> Tensor:
        """Pose encodings of all views (scenes, views, 9)."""
        return torch.cat([prediction.encodings for prediction in self.predictions], 1)

    @property
    def places(self) -> Tensor:
        """Descriptors of all views (scenes * views, dim)."""
        return torch.cat([prediction.places for prediction in self.predictions], 1).flatten(0, 1)


def run_sequences(net: CompactNet, batch: SequenceBatch, *, half: bool) -> Run:
    """Run the network chunk by chunk; ``half``: layers in bfloat16."""
    cache, predictions, known = CompactCache.empty(), [], []
    budget = MemoryBudget(drop_rate=batch.every)
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=half):
        for chunk in batch.images.split(list(batch.chunks), 1):
            length = cache.descriptors.length
            known.append([*cache.descriptors.frames, *range(length, length + chunk.shape[1])])
            prediction, cache = net(chunk, cache, budget)
            predictions.append(prediction)
    return Run(predictions, known, _in_order([one.features for one in predictions], len(batch.images)))


def _in_order(features: list[Features], scenes: int) -> Features:
    """Features of chunks (scenes * frames), rearranged as those of all views, scene by scene."""
    parts = zip(*(vars(one).values() for one in features), strict=True)
    return Features(*(torch.cat([part.unflatten(0, (scenes, -1)) for part in maps], 1).flatten(0, 1) for maps in parts))


def estimate_depth(net: CompactNet, batch: SequenceBatch, run: Run, *, half: bool) -> Estimate:
    """Depth of the batch's references with the batch's ``poses``."""
    assert batch.sweep is not None
    sweep = replace(batch.sweep, geometry=_own_geometry(batch, run)) if batch.poses == "own" else batch.sweep
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=half):
        estimate: Estimate = net.depth.estimate(run.features[batch.references], run.features[batch.sources], sweep)
    return estimate


def _own_geometry(batch: SequenceBatch, run: Run) -> Geometry:
    """The geometry of the regressed poses, without gradient."""
    size = (batch.images.shape[3], batch.images.shape[4])
    poses, _ = matrices_from_encoding(run.encodings.detach().float(), size)
    bottom = poses.new_tensor([0.0, 0, 0, 1]).expand(*poses.shape[:2], 1, 4)
    own = torch.cat([poses, bottom], 2).flatten(0, 1)
    return geometry_between(own, batch.seen.intrinsics, batch.references, batch.sources, size)


def make_sequences(
    shards: Sequence[Shard], settings: SequenceSettings, generator: torch.Generator, on_device: torch.Generator
) -> SequenceBatch:
    """A batch of ``settings.scenes`` scenes of every shard.

    generator: a CPU one, for choices. on_device: one on the device of the shards' images, for large arrays.
    """
    views = [draw_views(shard, settings, generator) for shard in shards]
    device = views[0].depth.device
    poses = _draw_poses(generator)
    colour = torch.cat([part.colour for part in views]).flatten(0, 1).permute(0, 3, 1, 2)
    images = relight(colour, on_device, settings.strength)
    depth = torch.cat([part.depth for part in views])
    unit = _median_depth(depth[:, 0])
    count = depth.shape[:2]
    true, given = (
        _normalised(torch.cat(chosen).to(device), unit).flatten(0, 1)
        for chosen in _poses_of(views, generator, noisy=poses == "noisy")
    )
    intrinsics = torch.cat([part.intrinsics.expand(settings.scenes, 3, 3) for part in views]).to(device)
    intrinsics = intrinsics.repeat_interleave(settings.views, 0)
    seen = Seen((depth / unit[:, None, None, None]).flatten(0, 1)[:, None], intrinsics, true)
    references, sources = _references(count, settings, generator, device)
    sweep = None
    if settings.references:
        sweep = _sweep(replace(seen, cam_from_world=given), references, sources, settings, (generator, on_device))
        sweep = _unseen(sweep) if poses == "none" else sweep
    chunks, every = _chunks(settings, generator)
    return SequenceBatch(
        images=images.unflatten(0, count),
        seen=seen,
        labels=torch.arange(count[0], device=device),
        references=references,
        sources=sources,
        sweep=sweep,
        poses=poses,
        chunks=chunks,
        every=every,
    )


def _draw_poses(generator: torch.Generator) -> Poses:
    shares = torch.tensor(list(POSE_SHARES.values()))
    return list(POSE_SHARES)[int(torch.multinomial(shares, 1, generator=generator))]


def _median_depth(depth: Tensor) -> Tensor:
    """Median (scenes,) of the known depths (scenes, h, w)."""
    known = torch.where(depth > 0, depth, torch.nan).flatten(1)
    return known.nanmedian(1).values.nan_to_num(1.0)


def _normalised(cam_from_world: Tensor, unit: Tensor) -> Tensor:
    """Poses (scenes, views, 4, 4) in the first view's frame and in units of ``unit`` (scenes,)."""
    moved = cam_from_world @ torch.linalg.inv(cam_from_world[:, :1])
    translation = moved[..., :3, 3:] / unit[:, None, None, None]
    return torch.cat([torch.cat([moved[..., :3, :3], translation], 3), moved[..., 3:, :]], 2)


def _poses_of(views: list[Views], generator: torch.Generator, *, noisy: bool) -> tuple[list[Tensor], list[Tensor]]:
    """True poses by part, and those given to the sweep."""
    true = [part.cam_from_world for part in views]
    return true, [noisy_poses(poses, generator, NOISE_DEGREES) for poses in true] if noisy else true


def _references(
    count: tuple[int, ...], settings: SequenceSettings, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Rows of the references (scenes * references,) and of their sources, different views of the same scene."""
    scenes, views = count
    sources = min(settings.sources, views - 1)
    orders = [torch.randperm(views, generator=generator) for _ in range(scenes * min(settings.references, views))]
    if not orders:
        nothing = torch.zeros(0, dtype=torch.long, device=device)
        return nothing, nothing
    rows = torch.stack(orders).unflatten(0, (scenes, -1)) + torch.arange(scenes)[:, None, None] * views
    rows = rows.flatten(0, 1).to(device)
    return rows[:, 0], rows[:, 1 : 1 + sources].flatten()


def _sweep(
    seen: Seen,
    references: Tensor,
    sources: Tensor,
    settings: SequenceSettings,
    generators: tuple[torch.Generator, torch.Generator],
) -> Sweep:
    size = (settings.height, settings.width)
    depth = seen.depth[references]
    return Sweep(
        geometry_between(seen.cam_from_world, seen.intrinsics, references, sources, size),
        random_planes(depth, settings.planes, generators[0]),
        sparse_points(depth, generators[1], settings.sparse),
    )


def _unseen(sweep: Sweep) -> Sweep:
    """The sweep of references whose sources see nothing: images of no size."""
    return replace(sweep, geometry=replace(sweep.geometry, extent=torch.full_like(sweep.geometry.extent, -1)))


def _chunks(settings: SequenceSettings, generator: torch.Generator) -> tuple[tuple[int, ...], int]:
    """Sizes of the chunks, and the drop rate: one chunk, or, for the streamed share, several of random sizes."""
    left, sizes = settings.views, []
    if torch.rand((), generator=generator) >= settings.streamed:
        return (left,), 1
    while left:
        sizes.append(1 + int(torch.randint(min(left, 1 + settings.views // 2), (), generator=generator)))
        left -= sizes[-1]
    return tuple(sizes), 1 + int(torch.randint(2, (), generator=generator))
