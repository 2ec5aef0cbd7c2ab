"""A training run in a folder: of the posed depth network, or of the whole compact network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from recon.core.errors import ReconError, SettingsError
from recon.lab.compact.weights import save_weights, start_weights
from recon.lab.training.atlas import Atlas, procedural_tiles, read_photos
from recon.lab.training.held_out import HeldOut
from recon.lab.training.loop import Limits, Trainer, train
from recon.lab.training.pool import CPU, Pool
from recon.lab.training.posed import PosedTask
from recon.lab.training.presets import PRESETS, Preset, WholePreset
from recon.lab.training.whole import WholeHeldOut, WholeTask

PART_BYTES = 16 << 20


def run(
    preset: Preset | WholePreset,
    folder: Path,
    device: torch.device,
    limits: Limits,
    report: Callable[[str], None],
    *,
    textures: Path | None = None,
    start: Path | None = None,
    workers: int = 0,
) -> None:
    """Start or continue the run in ``folder`` until a limit is reached. textures: folder of photographs. start: weight
    file with which a new run starts. workers: threads that prepare batches. Raises ReconError if the weights do not
    fit.
    """
    trainer = make_trainer(preset, folder, textures, device, workers=workers)
    if start:
        trainer.start_from(*start_weights(start, trainer.net))
    if isinstance(preset, WholePreset):
        limits = replace(limits, measure_every=preset.measure_every)
    held_out = make_held_out(preset, folder, device)
    if isinstance(held_out, WholeHeldOut):
        report(held_out.check())
    train(trainer, held_out, folder, limits, report)


def chosen_preset(name: str) -> Preset | WholePreset:
    """The preset with a name. Raises SettingsError for an unknown one."""
    if name not in PRESETS:
        raise SettingsError(f"--preset takes {', '.join(sorted(PRESETS))}; got {name}.")
    return PRESETS[name]


def make_trainer(
    preset: Preset | WholePreset, folder: Path, textures: Path | None, device: torch.device, *, workers: int = 0
) -> Trainer[Any, Any]:
    """A trainer at step 0 with its pool in the folder."""
    atlas = cache(lambda: load_atlas(textures, preset.tiles))
    if isinstance(preset, WholePreset):
        pool = Pool(preset.pool, folder / "pool", atlas, device, device)
        return Trainer(WholeTask(preset.training, preset.network, pool, device), device, workers=workers)
    pool = Pool(preset.pool, folder / "pool", atlas, device, CPU)
    return Trainer(PosedTask(preset.training, preset.network, pool), device, workers=workers)


def make_held_out(preset: Preset | WholePreset, folder: Path, device: torch.device) -> HeldOut | WholeHeldOut:
    """Fixed batches like those of the preset's last stage."""
    if isinstance(preset, WholePreset):
        return WholeHeldOut(preset.pool, preset.training.stages[-1].batch, folder / "held-out", device)
    return HeldOut(preset.pool, preset.training.stages[-1].batch, folder / "held-out", device)


def with_stages(preset: Preset | WholePreset, starts: str | None) -> Preset | WholePreset:
    """The preset with other start steps, such as "0,500,2000". Raises SettingsError for a wrong number of them."""
    if starts is None:
        return preset
    steps = [int(start) for start in starts.split(",") if start.strip().isdigit()]
    training: Any = preset.training
    stages = training.stages
    if len(steps) != len(stages) or steps[0] != 0 or steps != sorted(steps):
        raise SettingsError(
            f"--stages takes {len(stages)} rising steps, the first 0, with commas between; got {starts!r}."
        )
    moved = tuple(replace(stage, start=step) for stage, step in zip(stages, steps, strict=True))
    return replace(preset, training=replace(training, stages=moved))


def export(trainer: Trainer[Any, Any], best: Path, path: Path) -> str:
    """Write the best averaged weights as files of at most ``PART_BYTES``; returns these. Raises ReconError."""
    if not best.is_file():
        raise ReconError(f"{best} does not exist: train in that folder until it is measured once.")
    state = torch.load(best, map_location="cpu", weights_only=True)
    trainer.mean.load_state_dict(state["mean"])
    paths = save_weights(trainer.mean, path, state["steps"], PART_BYTES)
    return f"{', '.join(str(part) for part in paths)}: the weights of step {state['steps']}"


def load_atlas(textures: Path | None, procedural: int) -> Atlas:
    """Procedural tiles, and the photographs of a folder if one is given."""
    tiles = procedural_tiles(torch.Generator().manual_seed(0), procedural)
    return Atlas.of(torch.cat([tiles, read_photos(textures)]) if textures else tiles)
