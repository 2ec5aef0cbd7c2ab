"""Training of the posed depth network: its batches at every step, and its losses."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from recon.depth.network import PosedDepthConfig, PosedDepthNet
from recon.lab.training.batches import Batch, BatchSettings, make_batch, run_batch
from recon.lab.training.loop import Outcome, Schedule
from recon.lab.training.losses import LossWeights, losses, total
from recon.lab.training.pool import Pool


@dataclass(frozen=True)
class Stage:
    """The kind of batches from step ``start`` on."""

    start: int
    batch: BatchSettings


@dataclass(frozen=True)
class TrainingSettings(Schedule):
    """A schedule with its stages and the weights of the losses."""

    stages: tuple[Stage, ...] = (Stage(0, BatchSettings()),)
    weights: LossWeights = field(default_factory=LossWeights)

    def batch_at(self, step: int) -> BatchSettings:
        return [stage.batch for stage in self.stages if stage.start <= step][-1]


@dataclass(frozen=True, eq=False)
class PosedTask:
    """The posed depth network learns from batches of one shard each; a ``Task``."""

    schedule: TrainingSettings
    config: PosedDepthConfig
    pool: Pool

    def network(self) -> PosedDepthNet:
        return PosedDepthNet(self.config)

    def batch(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(self.schedule.seed * 7_919 + step)
        shard = self.pool.draw(step, generator)
        return make_batch(shard, self.schedule.batch_at(step), generator)

    def outcome(self, net: PosedDepthNet, batch: Batch, step: int) -> Outcome:
        """The losses by name, and the median relative depth error as ``error``."""
        estimate = run_batch(net, batch, half=self.schedule.half)
        depth = batch.depth[batch.references]
        parts = losses(estimate, batch.sweep, depth)
        error = median_error(estimate.inverse_depth.detach(), depth)
        return Outcome(total(parts, self.schedule.weights), parts | {"error": error})


def median_error(inverse_depth: Tensor, depth: Tensor) -> Tensor:
    """Median relative depth error where the true depth (n, 1, h, w) is known."""
    known = depth > 0
    return (1 / inverse_depth[known] / depth[known] - 1).abs().median()
