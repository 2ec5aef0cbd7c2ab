"""Fits Gaussians to the views of a scene, and measures them on views that were held out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from recon.core.errors import SettingsError
from recon.lab.splat.gaussians import Parameters, Splats, View, first_gaussians, project
from recon.lab.splat.raster import draw
from recon.lab.splat.views import Scene

HELD_OUT = 8  # one view in so many
RATES = {"means": 2e-3, "sizes": 1e-2, "turns": 2e-3, "opacities": 5e-2, "colours": 2e-2, "background": 1e-2}
LAST_RATE = 0.02  # of the means' rate, at the end
DIVIDED_UNTIL, DIVIDED_EVERY, DIVIDED_SHARE = 0.6, 100, 0.1  # share of the time; steps; of the Gaussians
SMALLER = 1.6  # the halves of a divided Gaussian
MOST = 30_000  # Gaussians
FAINT = 0.01  # opacity of Gaussians that are removed


@dataclass(frozen=True)
class Fit:
    """psnr, worst: mean and lowest PSNR [dB] of the ``held_out`` views. trained: of the views that were trained on.

    first, last: numbers of Gaussians. minutes: of processor time.
    """

    psnr: float
    worst: float
    trained: float
    held_out: int
    views: int
    first: int
    last: int
    steps: int
    minutes: float

    def as_row(self) -> dict[str, float]:
        return asdict(self)


class Trainer:
    """Gaussians on their way to the views that they are trained on.

    seed: of the order of views and of divisions. points: the most that Gaussians begin from, chosen at random.
    """

    def __init__(self, scene: Scene, seed: int = 0, points: int = MOST) -> None:
        self.random = np.random.default_rng(seed)
        torch.manual_seed(seed)
        kept = self.random.permutation(len(scene.positions))[: min(points, MOST)]
        self.parameters: Parameters = first_gaussians(scene.positions[kept], scene.colours[kept])
        self.parameters["background"] = torch.zeros(3)
        for value in self.parameters.values():
            value.requires_grad_()
        groups = [{"params": [self.parameters[name]], "lr": rate, "name": name} for name, rate in RATES.items()]
        self._adam = torch.optim.Adam(groups, eps=1e-15)
        self._pulls, self._seen = torch.zeros(len(self)), torch.zeros(len(self))

    def __len__(self) -> int:
        return len(self.parameters["means"])

    def picture(self, view: View) -> tuple[Tensor, Splats]:
        """What a view (height, width, 3) shows, and its splats."""
        splats = project(self.parameters, view)
        return draw(splats, view.size, self.parameters["background"].sigmoid()), splats

    def step(self, view: View, progress: float) -> float:
        """One step of Adam towards a view; returns the mean absolute error. progress: share of the time, 0 to 1."""
        self._adam.param_groups[0]["lr"] = RATES["means"] * LAST_RATE**progress
        self._adam.zero_grad()
        picture, splats = self.picture(view)
        splats.centres.retain_grad()
        loss = (picture - view.picture)[view.seen].abs().mean()
        loss.backward()
        self._adam.step()
        if splats.centres.grad is not None:
            self._pulls[splats.rows] += splats.centres.grad.norm(dim=1)
            self._seen[splats.rows] += 1
        return float(loss.detach())

    @torch.no_grad()
    def divide(self) -> None:
        """Replace the Gaussians that are pulled most, on average, by two smaller ones; remove those that are faint."""
        pulls = self._pulls / self._seen.clamp(min=1)
        room = max(0, min(int(DIVIDED_SHARE * len(self)), MOST - len(self)))
        chosen = pulls.topk(room).indices
        fresh = {name: self.parameters[name][chosen].clone() for name in RATES if name != "background"}
        spread = fresh["sizes"].exp()
        fresh["means"] += spread * torch.randn_like(spread)
        fresh["sizes"] -= float(np.log(SMALLER))
        self.parameters["sizes"][chosen] -= float(np.log(SMALLER))
        kept = self.parameters["opacities"].sigmoid() > FAINT
        for group in self._adam.param_groups:
            if group["name"] in fresh:
                self._replace(group, kept, fresh[group["name"]])
        self._pulls, self._seen = torch.zeros(len(self)), torch.zeros(len(self))

    def _replace(self, group: dict[str, object], kept: Tensor, fresh: Tensor) -> None:
        """Keep some rows of a parameter and append others, in Adam's moments too."""
        name = str(group["name"])
        before = self.parameters[name]
        after = torch.cat([before[kept], fresh]).requires_grad_()
        state = self._adam.state.pop(before, {})
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in state:
                state[moment] = torch.cat([state[moment][kept], torch.zeros_like(fresh)])
        self._adam.state[after] = state
        group["params"] = [after]
        self.parameters[name] = after


def held_out_of(scene: Scene) -> tuple[View, ...]:
    """Every eighth view."""
    return scene.views[HELD_OUT // 2 :: HELD_OUT]


def fit(
    scene: Scene, minutes: float, tell: Callable[[str], None] = print, *, seed: int = 0, points: int = MOST
) -> tuple[Fit, Trainer]:
    """Train for some minutes of processor time, which a busy machine hardly changes. seed, points: of the Trainer.

    Raises SettingsError for too few views.
    """
    held_out = held_out_of(scene)
    trained = [view for view in scene.views if view not in held_out]
    if not held_out:
        raise SettingsError(f"{len(scene.views)} views are too few to hold one in {HELD_OUT} out.")
    trainer, steps, start = Trainer(scene, seed, points), 0, time.process_time()
    first, order = len(trainer), list[View]()
    while (progress := (time.process_time() - start) / (60 * minutes)) < 1:
        order = order or [trained[row] for row in trainer.random.permutation(len(trained))]
        loss, steps = trainer.step(order.pop(), progress), steps + 1
        if steps % DIVIDED_EVERY == 0:
            tell(f"{progress:4.0%}  step {steps}, {len(trainer)} Gaussians, mean absolute error {loss:.4f}")
            if progress < DIVIDED_UNTIL:
                trainer.divide()
    figures, known = psnr(trainer, held_out), psnr(trainer, trained[:: max(1, len(trained) // len(held_out))])
    mean, worst = float(np.mean(figures)), min(figures)
    counts = (len(held_out), len(scene.views), first, len(trainer), steps)
    return Fit(mean, worst, float(np.mean(known)), *counts, minutes), trainer


@torch.no_grad()
def psnr(trainer: Trainer, views: Sequence[View]) -> list[float]:
    """The peak signal-to-noise ratio of each view [dB], over the pixels that its photograph covers."""
    errors = [((trainer.picture(view)[0].clamp(0, 1) - view.picture)[view.seen] ** 2).mean() for view in views]
    return [float(-10 * error.log10()) for error in errors]


@torch.no_grad()
def write_views(trainer: Trainer, scene: Scene, folder: Path) -> None:
    """Write each held-out view, the photograph beside what the Gaussians show, as PNG."""
    for view in held_out_of(scene):
        both = torch.cat([view.picture, trainer.picture(view)[0].clamp(0, 1)], dim=1)
        pixels = (255 * both).round().to(torch.uint8).numpy()
        cv2.imwrite(str(folder / f"{Path(view.name).stem}.png"), pixels[..., ::-1])
