"""Scenes and surfaces that training never sees, to measure its progress and decide which weights to keep."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from recon.depth.network import PosedDepthNet
from recon.lab.training.atlas import Atlas, procedural_tiles
from recon.lab.training.batches import Batch, BatchSettings, make_batch, run_batch
from recon.lab.training.pool import Pool, PoolSettings

SEED = 900_001  # of the scenes and of the tiles; training runs have small seeds
TILES = 60


@dataclass(frozen=True)
class HeldOutFigures:
    """Median relative depth error over the pixels of all batches, and that of a constant depth."""

    error: float
    constant: float

    def __str__(self) -> str:
        return f"error {self.error:.3f}, constant {self.constant:.3f}"


class HeldOut:
    """A few fixed batches of held-out scenes."""

    def __init__(self, pool: PoolSettings, batch: BatchSettings, folder: Path, device: torch.device) -> None:
        self._settings = replace(batch, noise=0.0)
        settings = replace(pool, first=4, shards=4, refresh_every=1 << 40, seed=SEED)
        self._pool = Pool(settings, folder, held_out_tiles, torch.device("cpu"))
        self._device = device
        self._batches: list[Batch] = []

    def measure(self, net: PosedDepthNet) -> HeldOutFigures:
        """Run the network, in evaluation mode, on every batch."""
        if not self._batches:
            self._batches = [self._batch(number) for number in range(4)]
        errors, constants = [], []
        with torch.inference_mode():
            for batch in self._batches:
                depth = batch.depth[batch.references]
                known = depth > 0
                estimate = run_batch(net, batch, half=False)
                errors.append((1 / estimate.inverse_depth[known] / depth[known] - 1).abs())
                middle = depth.flatten(1).median(1).values[:, None, None, None].expand_as(depth)
                constants.append((middle[known] / depth[known] - 1).abs())
        return HeldOutFigures(float(torch.cat(errors).median()), float(torch.cat(constants).median()))

    def _batch(self, number: int) -> Batch:
        generator = torch.Generator().manual_seed(SEED + number)
        return make_batch(self._pool.draw(0, generator), self._settings, generator).to(self._device)


def held_out_tiles() -> Atlas:
    """Surfaces that no training run uses."""
    return Atlas.of(procedural_tiles(torch.Generator().manual_seed(SEED), TILES))
