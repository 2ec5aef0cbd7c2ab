"""The training loop for any task: steps, a running mean of the weights, checkpoints, a curve."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from recon.core.files import write_atomically
from recon.lab.training.ahead import Ahead

CLIP = 1.0
TEMPERATURE_PACE = 10.0  # learned temperatures are far from zero and have a rate higher by this factor
ESTIMATE_AFTER_S = 25.0
FADE = 0.25  # share of the last stretch during which the rate falls to zero


@dataclass(frozen=True)
class Schedule:
    """rate: of AdamW, reached after ``warm_up`` steps; it falls with the square root of the step after ``hold`` steps.

    average: decay of the running mean of the weights. seed: of the start weights and the batches. half: bfloat16
    arithmetic in the layers.
    """

    rate: float = 1e-3
    decay: float = 0.02
    warm_up: int = 200
    hold: int = 10_000
    average: float = 0.999
    seed: int = 0
    half: bool = True

    def rate_at(self, step: int, first: int = 0) -> float:
        """Rate at a step; the optimiser's state began at step ``first``."""
        return self.rate * min(1.0, (step - first + 1) / self.warm_up) * math.sqrt(self.hold / max(self.hold, step))


class Batched(Protocol):
    """Training data of one step."""

    @property
    def samples(self) -> int:
        """Number of images."""

    def to(self, device: torch.device) -> Any: ...


Net = TypeVar("Net", bound=nn.Module)
Data = TypeVar("Data", bound=Batched)


@dataclass(frozen=True, eq=False)
class Outcome:
    """loss: to be minimised. values: scalars for the curve, by name."""

    loss: Tensor
    values: dict[str, Tensor]


class Task(Protocol[Net, Data]):
    """A network to train, its batches and its loss. A batch depends on the step alone."""

    @property
    def schedule(self) -> Schedule: ...

    def network(self) -> Net:
        """The network with its initial weights."""

    def batch(self, step: int) -> Data: ...

    def outcome(self, net: Net, batch: Data, step: int) -> Outcome: ...


class Trainer(Generic[Net, Data]):
    """A network in training: ``step`` trains it on one batch.

    Batches depend on the task and the step alone, so ``save`` and ``restore`` need no state of random numbers.
    workers: threads that prepare the next batches. fade: factor of the rate, for the end of training.
    """

    def __init__(self, task: Task[Net, Data], device: torch.device, *, workers: int = 0) -> None:
        schedule = task.schedule
        torch.manual_seed(schedule.seed)
        self.task = task
        self.steps = self._first = 0
        self.samples = 0
        self.fade = 1.0
        self.seconds_for_data = 0.0
        self.net = task.network().to(device)
        self.mean = task.network().to(device).eval()
        self.mean.load_state_dict(self.net.state_dict())
        self._ahead = Ahead(task.batch, workers)
        self._device = device
        self._optimiser = torch.optim.AdamW(
            parameter_groups(self.net), lr=schedule.rate, betas=(0.9, 0.98), weight_decay=schedule.decay
        )

    def step(self) -> dict[str, float]:
        """Train on one batch; returns the values of its outcome. A step with a gradient that is not finite changes no
        weight.
        """
        batch = self._next_batch()
        rate = self.fade * self.task.schedule.rate_at(self.steps, self._first)
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group.get("pace", 1.0)
        outcome = self.task.outcome(self.net, batch, self.steps)
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(outcome.loss)
        length = nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        if length.isfinite():
            self._optimiser.step()
            self._update_mean()
        self.steps += 1
        numbers = torch.stack([value.detach().float() for value in outcome.values.values()]).tolist()
        return dict(zip(outcome.values, numbers, strict=True))

    def _next_batch(self) -> Data:
        start = time.perf_counter()
        batch: Data = self._ahead.take(self.steps).to(self._device)
        self.samples += batch.samples
        self.seconds_for_data += time.perf_counter() - start
        return batch

    def _update_mean(self) -> None:
        keep = min(self.task.schedule.average, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for mean, new in zip(self.mean.parameters(), self.net.parameters(), strict=True):
                mean.lerp_(new, 1 - keep)

    def save(self, path: Path) -> None:
        """Write everything a resumed run needs."""
        write_atomically(path, lambda file: torch.save(self._state(), file))

    def start_from(self, weights: dict[str, Tensor], steps: int) -> None:
        """Continue with a fresh optimiser from weights that were trained for ``steps`` steps. Parts of the network
        without such weights keep their initial ones.
        """
        for own in (self.net, self.mean):
            own.load_state_dict(own.state_dict() | weights)
        self.steps = self._first = steps

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint of ``save``."""
        state = torch.load(path, map_location="cpu", weights_only=True)  # the optimiser requires its counts there
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


def parameter_groups(net: nn.Module) -> list[dict[str, Any]]:
    """All parameters; learned temperatures as a separate group, with a higher rate and without decay."""
    named = list(net.named_parameters())
    temperatures = [parameter for name, parameter in named if name.endswith("temperature")]
    groups: list[dict[str, Any]] = [{"params": [part for name, part in named if not name.endswith("temperature")]}]
    if temperatures:
        groups.append({"params": temperatures, "pace": TEMPERATURE_PACE, "weight_decay": 0.0})
    return groups


Judged_contra = TypeVar("Judged_contra", bound=nn.Module, contravariant=True)


@dataclass(frozen=True)
class Limits:
    """When to stop (0 = never), and how often to save, to write the curve and to measure on held-out scenes [steps].
    finish: this is the last stretch, so the rate falls to zero in its last quarter; requires ``minutes``.
    """

    minutes: float = 0.0
    steps: int = 0
    save_every_s: float = 120.0
    log_every: int = 50
    measure_every: int = 250
    finish: bool = False

    def reached(self, steps: int, seconds: float) -> bool:
        return (0 < self.minutes * 60 <= seconds) or (0 < self.steps <= steps)

    def fade(self, seconds: float) -> float:
        """Factor of the rate after a number of seconds."""
        return max(0.0, min(1.0, (1 - seconds / (60 * self.minutes)) / FADE)) if self.finish else 1.0


class Figures(Protocol):
    """How well a network performs on held-out scenes: a text for people, and one number, the smaller the better."""

    @property
    def error(self) -> float: ...


class Judge(Protocol[Judged_contra]):
    """Measures networks on held-out scenes."""

    def measure(self, net: Judged_contra) -> Figures: ...


def train(
    trainer: Trainer[Net, Data], held_out: Judge[Net], folder: Path, limits: Limits, report: Callable[[str], None]
) -> None:
    """Train until a limit is reached.

    ``folder`` receives checkpoint.pt, from which a run continues; curve.jsonl; and best.pt, the averaged weights with
    the smallest error on held-out scenes.
    """
    checkpoint = folder / "checkpoint.pt"
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists():
        trainer.restore(checkpoint)
        report(f"continuing at step {trainer.steps}")
    curve = Curve(folder / "curve.jsonl", trainer, limits.log_every, report)
    best = Best(folder / "best.pt", held_out)
    estimate = Estimate(trainer, limits, report)
    start = saved = time.monotonic()
    first = trainer.steps
    while not limits.reached(trainer.steps - first, time.monotonic() - start):
        trainer.fade = limits.fade(time.monotonic() - start)
        curve.add(trainer.step())
        estimate.look()
        if trainer.steps % limits.measure_every == 0:
            report(best.measure(trainer))
        if time.monotonic() - saved > limits.save_every_s:
            trainer.save(checkpoint)
            saved = time.monotonic()
    trainer.save(checkpoint)
    if limits.finish or not best.known:
        report(best.measure(trainer))


class Estimate(Generic[Net, Data]):
    """Reports once, early, how fast training is and how many steps it will reach."""

    def __init__(self, trainer: Trainer[Net, Data], limits: Limits, report: Callable[[str], None]) -> None:
        self._trainer = trainer
        self._limits = limits
        self._report = report
        self._start: tuple[float, int, int] | None = None
        self._began = time.monotonic()
        self._said = False

    def look(self) -> None:
        """Call after every step. The first one is not counted: it prepares what later ones reuse."""
        if self._start is None:
            self._start = (time.monotonic(), self._trainer.steps, self._trainer.samples)
        elif not self._said and time.monotonic() - self._began > ESTIMATE_AFTER_S:
            self._said = True
            self._report(self._text(*self._start))

    def _text(self, start: float, steps: int, samples: int) -> str:
        seconds = time.monotonic() - start
        pace, images = (self._trainer.steps - steps) / seconds, (self._trainer.samples - samples) / seconds
        text = f"estimate: {images:.0f} images/s, {pace:.2f} steps/s"
        left = 60 * self._limits.minutes - (time.monotonic() - self._began)
        return f"{text}, step {self._trainer.steps + pace * left:.0f} by the end" if left > 0 else text


class Best(Generic[Net]):
    """The averaged weights with the smallest error on held-out scenes so far, in a file."""

    def __init__(self, path: Path, held_out: Judge[Net]) -> None:
        self._path = path
        self._held_out = held_out
        self._error = torch.load(path, weights_only=True)["error"] if path.exists() else math.inf

    @property
    def known(self) -> bool:
        """Whether any weights were measured."""
        return self._error < math.inf

    def measure(self, trainer: Trainer[Net, Data]) -> str:
        """Measure the averaged weights, keep them if they are the best, and return the result."""
        figures = self._held_out.measure(trainer.mean)
        if figures.error < self._error:
            self._error = figures.error
            state = {"mean": trainer.mean.state_dict(), "steps": trainer.steps, "error": figures.error}
            write_atomically(self._path, lambda file: torch.save(state, file))
        return f"held-out scenes at step {trainer.steps}: {figures}; best error {self._error:.3f}"


class Curve(Generic[Net, Data]):
    """Means of the losses over every ``every`` steps, one JSON object a line, with the speed since the start."""

    def __init__(self, path: Path, trainer: Trainer[Net, Data], every: int, report: Callable[[str], None]) -> None:
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
