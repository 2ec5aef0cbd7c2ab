"""Training of the whole compact network: its curriculum, its batches, and its evaluation on held-out scenes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from recon.core.errors import ReconError
from recon.depth.stem import EIGHTH
from recon.lab.compact.compact import CompactConfig, CompactNet
from recon.lab.compact.matches import refine
from recon.lab.compact.matching import cell_positions
from recon.lab.training.held_out import SEED, held_out_tiles
from recon.lab.training.loop import Outcome, Schedule
from recon.lab.training.pool import Pool, PoolSettings
from recon.lab.training.sequence_losses import STILL, Pairs, SequenceWeights, all_pairs, sequence_losses, weighted
from recon.lab.training.sequences import (
    Run,
    SequenceBatch,
    SequenceSettings,
    estimate_depth,
    make_sequences,
    run_sequences,
)
from recon.lab.training.truth import round_trip
from recon.network.pose_encoding import rotation_from_quaternion

HELD_OUT_BATCHES = 4
HELD_OUT_SHARDS = 8
NEAR_PX = 4.0
LARGEST_ROUND_TRIP = 0.5  # px, median


@dataclass(frozen=True)
class SequenceStage:
    """The kind of batches and the weights of the losses from step ``start`` on."""

    start: int
    batch: SequenceSettings
    weights: SequenceWeights


@dataclass(frozen=True)
class Curriculum(Schedule):
    """A schedule with its stages."""

    stages: tuple[SequenceStage, ...] = ()

    def stage_at(self, step: int) -> SequenceStage:
        return [stage for stage in self.stages if stage.start <= step][-1]


@dataclass(frozen=True, eq=False)
class WholeTask:
    """The whole network in training, with batches from several shards; a ``Task``. device: of the batches."""

    schedule: Curriculum
    config: CompactConfig
    pool: Pool
    device: torch.device

    def network(self) -> CompactNet:
        return CompactNet(self.config)

    def batch(self, step: int) -> SequenceBatch:
        settings = self.schedule.stage_at(step).batch
        return draw_batch(self.pool, settings, step, self.schedule.seed * 7_919 + step, self.device)

    def outcome(self, net: CompactNet, batch: SequenceBatch, step: int) -> Outcome:
        """The losses by name, and the temperature of the matching."""
        weights = self.schedule.stage_at(step).weights
        run = run_sequences(net, batch, half=self.schedule.half)
        parts = sequence_losses(net, batch, run, weights, half=self.schedule.half)
        return Outcome(weighted(parts, weights), parts | {"temperature": net.matching.temperature})


def draw_batch(pool: Pool, settings: SequenceSettings, step: int, seed: int, device: torch.device) -> SequenceBatch:
    """A batch from shards in use at a step; the choice depends on the seed."""
    generator = torch.Generator().manual_seed(seed)
    on_device = torch.Generator(device).manual_seed(seed)
    shards = [pool.draw(step, generator) for _ in range(settings.parts)]
    return make_sequences(shards, settings, generator, on_device)


@dataclass(frozen=True)
class WholeFigures:
    """Results on held-out scenes. Shares of covisible cells: ``cell``, matched within one cell; ``near``, within 4 px
    after refinement; ``streamed``, within one cell if the views come in two chunks; ``still``, if all cells moved by
    the pair's mean motion. Medians over pairs of the errors of the regressed rotation and direction [degrees], and of
    those with no motion and the mean direction. Medians of the relative depth error with true poses, and of that of a
    constant depth.
    """

    cell: float
    near: float
    streamed: float
    still: float
    rotation: float
    no_rotation: float
    direction: float
    mean_direction: float
    depth: float
    constant: float

    @property
    def error(self) -> float:
        """Unmatched cells and depth error, which the best weights minimise."""
        return 1 - self.cell + self.depth

    def __str__(self) -> str:
        return (
            f"matches within a cell {self.cell:.1%} (in two chunks {self.streamed:.1%}, mean motion {self.still:.1%}), "
            f"within {NEAR_PX:g} px {self.near:.1%}; "
            f"rotation {self.rotation:.1f} deg (none {self.no_rotation:.1f}), "
            f"direction {self.direction:.0f} deg (mean {self.mean_direction:.0f}); "
            f"depth {self.depth:.1%} (constant {self.constant:.1%}); error {self.error:.3f}"
        )


class WholeHeldOut:
    """A few fixed batches of held-out scenes and surfaces, in one pass and with true poses; a ``Judge``."""

    def __init__(self, pool: PoolSettings, batch: SequenceSettings, folder: Path, device: torch.device) -> None:
        self._settings = replace(batch, streamed=0.0, references=max(1, batch.references))
        shards = max(HELD_OUT_SHARDS, batch.parts)
        settings = replace(pool, first=shards, shards=shards, refresh_every=1 << 40, seed=SEED)
        self._pool = Pool(settings, folder, held_out_tiles, device, device)
        self._device = device
        self._batches: list[SequenceBatch] = []

    def measure(self, net: CompactNet) -> WholeFigures:
        """Run the network, in evaluation mode, on every batch."""
        if not self._batches:
            self._batches = [self._batch(number) for number in range(HELD_OUT_BATCHES)]
        with torch.inference_mode():
            return _figures([_measure(net, batch) for batch in self._batches])

    def check(self) -> str:
        """Check that this machine makes sound batches; returns a sentence that says so. Raises ReconError if images are
        not finite, or if views of one scene do not fit each other.
        """
        batch = self._batch(0)
        views = batch.images.shape[1]
        rows = torch.arange(len(batch.seen.depth), device=self._device)
        neighbours = rows.view(-1, views).roll(1, 1).flatten()
        error = float(round_trip(batch.seen[rows], batch.seen[neighbours]).median())
        if not (torch.isfinite(batch.images).all() and error < LARGEST_ROUND_TRIP):
            raise ReconError(
                f"Rendered views do not fit each other on {self._device}: {error:.2f} px, or images that are not "
                "finite. Train on another device."
            )
        return f"views fit each other to {error:.3f} px"

    def _batch(self, number: int) -> SequenceBatch:
        """A batch with true poses: the first among the next few seeds."""
        batches = (draw_batch(self._pool, self._settings, 0, SEED + 100 * number + k, self._device) for k in range(100))
        return next(batch for batch in batches if batch.poses == "true")


@dataclass(frozen=True, eq=False)
class _Measured:
    """Errors of one batch: of covisible cells [px] (n,), of pairs of views [degrees] (n,), of depth (n,)."""

    coarse: Tensor
    fine: Tensor
    streamed: Tensor
    still: Tensor
    rotation: Tensor
    no_rotation: Tensor
    direction: Tensor
    true_direction: Tensor
    depth: Tensor
    constant: Tensor


def _figures(measured: Sequence[_Measured]) -> WholeFigures:
    joined = {name: torch.cat([getattr(one, name) for one in measured]) for name in vars(measured[0])}
    mean = functional.normalize(joined["true_direction"].mean(0), dim=0)
    return WholeFigures(
        cell=_share(joined["coarse"], EIGHTH),
        near=_share(joined["fine"], NEAR_PX),
        streamed=_share(joined["streamed"], EIGHTH),
        still=_share(joined["still"], EIGHTH),
        rotation=float(joined["rotation"].median()),
        no_rotation=float(joined["no_rotation"].median()),
        direction=float(joined["direction"].median()),
        mean_direction=float(_angle((joined["true_direction"] * mean).sum(1)).median()),
        depth=float(joined["depth"].median()),
        constant=float(joined["constant"].median()),
    )


def _share(errors: Tensor, limit: float) -> float:
    return float((errors <= limit).float().mean())


def _measure(net: CompactNet, batch: SequenceBatch) -> _Measured:
    run = run_sequences(net, batch, half=False)
    pairs = all_pairs(batch, run)
    coarse, fine, still = _match_errors(net, pairs, run)
    in_chunks = replace(batch, chunks=_halves(batch.images.shape[1]))
    streamed = run_sequences(net, in_chunks, half=False)
    rotation, no_rotation, direction, true_direction = _pose_errors(batch, run)
    estimate = estimate_depth(net, batch, run, half=False)
    depth = batch.seen.depth[batch.references]
    known = depth > 0
    middle = depth.flatten(1).median(1).values[:, None, None, None].expand_as(depth)
    return _Measured(
        coarse,
        fine,
        _match_errors(net, all_pairs(in_chunks, streamed), streamed)[0],
        still,
        rotation,
        no_rotation,
        direction,
        true_direction,
        (1 / estimate.inverse_depth[known] / depth[known] - 1).abs(),
        (middle[known] / depth[known] - 1).abs(),
    )


def _halves(views: int) -> tuple[int, int]:
    return views - views // 2, views // 2


def _match_errors(net: CompactNet, pairs: Pairs, run: Run) -> tuple[Tensor, Tensor, Tensor]:
    """Errors [px] of the covisible cells: the larger of x and y for the best cell and for the pair's mean motion, the
    distance after refinement."""
    truth, columns = pairs.there, pairs.there.columns
    size = (pairs.scores.shape[1] // columns, columns)
    places = (cell_positions(size, pairs.scores.device) + 0.5) * EIGHTH
    best = places[pairs.scores.argmax(2)]
    own = places.expand_as(truth.pixels)
    fine = run.features.fine
    refined = refine(fine[pairs.rows[:, 0]], fine[pairs.rows[:, 1]], own, best, net.fine_temperature)
    sees = truth.covisible[..., None]
    motion = ((truth.pixels - own) * sees).sum(1, keepdim=True) / sees.sum(1, keepdim=True).clamp(min=1)
    errors = (
        (best - truth.pixels).abs().amax(2),
        (refined - truth.pixels).norm(dim=2),
        (own + motion - truth.pixels).abs().amax(2),
    )
    return errors[0][truth.covisible], errors[1][truth.covisible], errors[2][truth.covisible]


def _pose_errors(batch: SequenceBatch, run: Run) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Errors of rotation and the true rotations [degrees] of all pairs of views; errors of direction if there is one;
    and the direction.
    """
    views = batch.images.shape[1]
    encodings = run.encodings.float()
    found_rotation = rotation_from_quaternion(encodings[..., 3:7])
    found = torch.cat([found_rotation, encodings[..., :3, None]], 3)
    true = batch.seen.cam_from_world.unflatten(0, (-1, views))
    apart = [(i, j) for i in range(views) for j in range(i + 1, views)]
    first, second = (torch.tensor(side, device=true.device) for side in zip(*apart, strict=True))
    relative = _relative(found, first, second)
    target = _relative(true[..., :3, :], first, second)
    trace = (relative[..., :3] * target[..., :3]).sum((2, 3)).flatten()
    turned = target[..., :3].diagonal(dim1=2, dim2=3).sum(2).flatten()
    moved = (target[..., 3].norm(dim=2) > STILL).flatten()
    direction = functional.normalize(target[..., 3], dim=2).flatten(0, 1)[moved]
    cosine = (functional.normalize(relative[..., 3], dim=2).flatten(0, 1)[moved] * direction).sum(1)
    return _angle((trace - 1) / 2), _angle((turned - 1) / 2), _angle(cosine), direction


def _relative(poses: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """second_from_first (scenes, pairs, 3, 4) of poses (scenes, views, 3, 4)."""
    rotation = poses[:, second, :, :3] @ poses[:, first, :, :3].mT
    return torch.cat([rotation, poses[:, second, :, 3:] - rotation @ poses[:, first, :, 3:]], 3)


def _angle(cosine: Tensor) -> Tensor:
    return cosine.clamp(-1, 1).acos() * (180 / math.pi)
