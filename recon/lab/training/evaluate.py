"""Compare the learned depth stage with the classical one on real sequences: same views, poses and points.

Errors are relative, medians over all pixels with true depth.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recon.core.errors import ReconError
from recon.depth.learned import GOOD, HINTED_SOURCES, FilledSweep, LearnedSweep
from recon.depth.network import PosedDepthNet
from recon.depth.plane_sweep import PlaneSweep
from recon.depth.views import Depth, DepthStage
from recon.depth.weights import load_weights
from recon.lab.training.real import MEASURED_SETS, MeasuredViews, read_chunk

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcome:
    """Every measured pixel of a set under one stage: relative error (NaN for none) and confidence; seconds per view."""

    error: Values
    confidence: Values
    seconds: float

    @property
    def kept(self) -> NDArray[np.bool_]:
        return self.confidence > 0

    def median(self, where: NDArray[np.bool_]) -> float:
        chosen = where & self.kept
        return float(np.median(self.error[chosen])) if chosen.any() else float("nan")

    def within(self, share: float, where: NDArray[np.bool_]) -> float:
        """Share of the chosen and kept pixels whose error is below ``share``."""
        chosen = where & self.kept
        return float((self.error[chosen] < share).mean()) if chosen.any() else float("nan")


def measure(stage: DepthStage, measured: MeasuredViews) -> Outcome:
    """Run a stage on the views and compare with the true depth."""
    start = time.perf_counter()
    found = stage.depth(measured.views, {})
    seconds = (time.perf_counter() - start) / len(measured.views)
    errors, confidences = [], []
    for view, depth in zip(measured.views, found, strict=True):
        if view.index in measured.depth:
            error, confidence = _compare(depth, measured.depth[view.index])
            errors.append(error)
            confidences.append(confidence)
    return Outcome(np.concatenate(errors), np.concatenate(confidences), seconds)


def _compare(found: Depth, true: NDArray[np.float32]) -> tuple[Values, Values]:
    known = true > 0
    with np.errstate(invalid="ignore"):
        error = np.abs(found.depth[known].astype(np.float64) / true[known] - 1)
    return np.where(found.depth[known] > 0, error, np.nan), found.confidence[known].astype(np.float64)


def constant_depth(measured: MeasuredViews) -> Outcome:
    """The trivial stage: every pixel has its image's true median depth."""
    errors = []
    for true in measured.depth.values():
        known = true[true > 0].astype(np.float64)
        errors.append(np.abs(np.median(known) / known - 1))
    error = np.concatenate(errors)
    return Outcome(error, np.ones_like(error), 0.0)


def table(outcomes: dict[str, Outcome], classical: Outcome) -> str:
    """Markdown rows, one per stage; see ``HEADER``."""
    rows = []
    for name, outcome in outcomes.items():
        everywhere = np.ones_like(outcome.kept)
        figures = (
            outcome.kept.mean(),
            outcome.median(everywhere),
            outcome.within(0.1, everywhere),
            outcome.median(classical.kept),
            outcome.median(~classical.kept),
            _most_confident(outcome, float(classical.kept.mean())),
            outcome.confidence[outcome.kept].mean(),
            outcome.within(GOOD, everywhere),
        )
        rows.append(f"| {name} | {' | '.join(f'{100 * figure:.1f}' for figure in figures)} | {outcome.seconds:.2f} |")
    return "\n".join(rows)


HEADER = (
    "| stage | pixels kept | error | within 10% | error where classical keeps | error elsewhere | "
    "error of as many surest pixels | mean confidence | within 5% | s/view |\n" + "|---" * 10 + "|"
)


def _most_confident(outcome: Outcome, share: float) -> float:
    """Median error of the most confident ``share`` of all pixels."""
    threshold = np.quantile(outcome.confidence, 1 - share)
    return outcome.median(outcome.confidence >= max(threshold, 1e-9))


def load_net(path: Path) -> PosedDepthNet:
    """A network from a weight file, or the averaged one of a training's best.pt or checkpoint.pt."""
    if path.suffix != ".pt":
        return load_weights(path, torch.device("cpu"))
    if not path.is_file():
        raise ReconError(f"{path} does not exist: name a checkpoint of the training or a weight file.")
    net = PosedDepthNet().eval()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["mean"])
    return net


def tables(weights: Path, data: Path, views: int = 0, longest_side: int = 320) -> Iterator[str]:
    """A table for each sequence in ``data``, of its first ``views`` views (0: all) at this size [px].

    weights: as for ``load_net``. Raises ReconError if a file is missing or does not fit.
    """
    learned = LearnedSweep(load_net(weights), torch.device("cpu"))
    stages: dict[str, DepthStage] = {
        "learned": learned,
        "learned, without sparse points": replace(learned, use_sparse=False),
        "learned, confirmed by a second view": replace(learned, confirm=True),
        "classical, filled by learned": FilledSweep(PlaneSweep(), replace(learned, sources=HINTED_SOURCES)),
    }
    for measured_set in MEASURED_SETS:
        measured = read_chunk(data / measured_set.name, measured_set, views, longest_side)
        classical = measure(PlaneSweep(), measured)
        outcomes = {"constant": constant_depth(measured), "classical": classical}
        outcomes |= {name: measure(stage, measured) for name, stage in stages.items()}
        heading = f"{measured_set.name}: {len(measured.views)} views, {len(measured.depth)} with true depth"
        yield f"{heading}\n\n{HEADER}\n{table(outcomes, classical)}\n"
