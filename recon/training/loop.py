"""The training loop: batches from the pool, losses, steps, a running mean of the weights, checkpoints, a curve."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recon.compact.network import PosedDepthConfig, PosedDepthNet
from recon.training.ahead import Ahead
from recon.training.batches import Batch, BatchSettings, make_batch, run_batch
from recon.training.held_out import HeldOut
from recon.training.losses import LossWeights, losses, total
from recon.training.pool import Pool

CLIP = 1.0


@dataclass(frozen=True)
class Stage:
    """From step ``start`` on: what batches look like."""

    start: int
    batch: BatchSettings


@dataclass(frozen=True)
class TrainingSettings:
    """rate: of AdamW, reached after ``warm_up`` steps; it falls with the square root of the step after ``hold`` steps.

    average: decay of the running mean of the weights. seed: of the start weights and the batches. half: bfloat16
    arithmetic in the convolutions.
    """

    stages: tuple[Stage, ...] = (Stage(0, BatchSettings()),)
    weights: LossWeights = field(default_factory=LossWeights)
    rate: float = 1e-3
    decay: float = 0.02
    warm_up: int = 200
    hold: int = 10_000
    average: float = 0.999
    seed: int = 0
    half: bool = True

    def batch_at(self, step: int) -> BatchSettings:
        return [stage.batch for stage in self.stages if stage.start <= step][-1]

    def rate_at(self, step: int, first: int = 0) -> float:
        """Rate at a step; the optimiser knew nothing at step ``first``."""
        return self.rate * min(1.0, (step - first + 1) / self.warm_up) * math.sqrt(self.hold / max(self.hold, step))


class Trainer:
    """One network on its way: ``step`` trains it on one batch.

    Batches depend on the seed and the step alone, so ``save`` and ``restore`` need no state of random numbers.
    workers: threads that make the next batches meanwhile.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        pool: Pool,
        device: torch.device,
        config: PosedDepthConfig | None = None,
        *,
        workers: int = 0,
    ) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.steps = self._first = 0
        self.seconds_for_data = 0.0
        self.net = PosedDepthNet(config).to(device)
        self.mean = PosedDepthNet(config).to(device).eval()
        self.mean.load_state_dict(self.net.state_dict())
        self._pool = pool
        self._ahead = Ahead(self.batch, workers)
        self._device = device
        self._optimiser = torch.optim.AdamW(
            self.net.parameters(), lr=settings.rate, betas=(0.9, 0.98), weight_decay=settings.decay
        )

    def step(self) -> dict[str, float]:
        """Train on one batch; the losses by name, and the median relative depth error as ``error``."""
        start = time.perf_counter()
        batch = self._ahead.take(self.steps).to(self._device)
        self.seconds_for_data += time.perf_counter() - start
        for group in self._optimiser.param_groups:
            group["lr"] = self.settings.rate_at(self.steps, self._first)
        estimate = run_batch(self.net, batch, half=self.settings.half)
        depth = batch.depth[batch.references]
        parts = losses(estimate, batch.sweep, depth)
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(total(parts, self.settings.weights))
        nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self._optimiser.step()
        self._update_mean()
        self.steps += 1
        error = median_error(estimate.inverse_depth.detach(), depth)
        return {name: float(part.detach()) for name, part in parts.items()} | {"error": error}

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        generator = torch.Generator().manual_seed(self.settings.seed * 7_919 + step)
        shard = self._pool.draw(step, generator)
        return make_batch(shard, self.settings.batch_at(step), generator)

    def _update_mean(self) -> None:
        keep = min(self.settings.average, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for mean, new in zip(self.mean.parameters(), self.net.parameters(), strict=True):
                mean.lerp_(new, 1 - keep)

    def save(self, path: Path) -> None:
        """Write everything a resumed run needs."""
        save(path, self._state())

    def start_from(self, net: PosedDepthNet, steps: int) -> None:
        """Continue, with a fresh optimiser, from a network that was trained for so many steps."""
        for own in (self.net, self.mean):
            own.load_state_dict(net.state_dict())
        self.steps = self._first = steps

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint of ``save``."""
        state = torch.load(path, map_location=self._device, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.mean.load_state_dict(state["mean"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.steps = int(state["steps"])
        self._first = int(state["first"])

    def _state(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "mean": self.mean.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "steps": self.steps,
            "first": self._first,
        }


def median_error(inverse_depth: Tensor, depth: Tensor) -> float:
    """Median relative depth error where the true depth (n, 1, h, w) is known."""
    known = depth > 0
    return float((1 / inverse_depth[known] / depth[known] - 1).abs().median())


@dataclass(frozen=True)
class Limits:
    """When to stop (0 = never), and how often to save, to write the curve and to measure on held-out scenes [steps]."""

    minutes: float = 0.0
    steps: int = 0
    save_every_s: float = 120.0
    log_every: int = 50
    measure_every: int = 250


def train(trainer: Trainer, held_out: HeldOut, folder: Path, limits: Limits, report: Callable[[str], None]) -> None:
    """Train until a limit is reached.

    ``folder`` gets checkpoint.pt, from which a run continues; curve.jsonl; and best.pt, the averaged weights of the
    smallest error on held-out scenes.
    """
    checkpoint = folder / "checkpoint.pt"
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists():
        trainer.restore(checkpoint)
        report(f"continuing at step {trainer.steps}")
    curve = Curve(folder / "curve.jsonl", trainer, limits.log_every, report)
    best = Best(folder / "best.pt", held_out)
    start = saved = time.monotonic()
    first = trainer.steps
    while not _reached(limits, trainer.steps - first, time.monotonic() - start):
        curve.add(trainer.step())
        if trainer.steps % limits.measure_every == 0:
            report(best.measure(trainer))
        if time.monotonic() - saved > limits.save_every_s:
            trainer.save(checkpoint)
            saved = time.monotonic()
    trainer.save(checkpoint)


class Best:
    """The averaged weights with the smallest error on held-out scenes so far, in a file."""

    def __init__(self, path: Path, held_out: HeldOut) -> None:
        self._path = path
        self._held_out = held_out
        self._error = torch.load(path, weights_only=True)["error"] if path.exists() else math.inf

    def measure(self, trainer: Trainer) -> str:
        """Measure the averaged weights, keep them if they are the best, and say how they did."""
        figures = self._held_out.measure(trainer.mean)
        if figures.error < self._error:
            self._error = figures.error
            save(self._path, {"mean": trainer.mean.state_dict(), "steps": trainer.steps, "error": figures.error})
        return (
            f"held-out scenes at step {trainer.steps}: error {figures.error:.3f}, constant {figures.constant:.3f}, "
            f"best {self._error:.3f}"
        )


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state with torch through a temporary name, so that a killed run leaves no half file."""
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    temporary.rename(path)


def _reached(limits: Limits, steps: int, seconds: float) -> bool:
    return (0 < limits.minutes * 60 <= seconds) or (0 < limits.steps <= steps)


class Curve:
    """Means of the losses over every ``every`` steps, one JSON object a line, with the speed since the start."""

    def __init__(self, path: Path, trainer: Trainer, every: int, report: Callable[[str], None]) -> None:
        self._path = path
        self._trainer = trainer
        self._every = every
        self._report = report
        self._first = trainer.steps
        self._start = time.monotonic()
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if self._count == self._every:
            self._write()
            self._sums, self._count = {}, 0

    def _write(self) -> None:
        seconds = time.monotonic() - self._start
        line = {"step": float(self._trainer.steps)}
        line |= {name: round(value / self._count, 4) for name, value in self._sums.items()}
        line["steps_per_s"] = round((self._trainer.steps - self._first) / seconds, 3)
        line["data"] = round(self._trainer.seconds_for_data / seconds, 3)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._report(" ".join(f"{name} {value:g}" for name, value in line.items()))
