"""Train the posed depth network, or, with the preset "compact", the whole compact network.

    python -m recon.lab.training.main runs/posed-depth --textures FOLDER --minutes 9.5
    python -m recon.lab.training.main runs/compact --preset compact --device cuda --textures FOLDER --minutes 9.5

The same command continues the run. ``--start`` begins one with the weights of a file. ``--export`` writes the best
network of the run as weight files instead.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from recon.core.errors import ReconError
from recon.lab.compact.weights import save_weights, start_weights
from recon.lab.training.atlas import Atlas, procedural_tiles, read_photos
from recon.lab.training.held_out import HeldOut
from recon.lab.training.loop import Limits, Trainer, train
from recon.lab.training.pool import CPU, Pool
from recon.lab.training.posed import PosedTask
from recon.lab.training.presets import PRESETS, Preset, WholePreset
from recon.lab.training.whole import WholeHeldOut, WholeTask

PART_BYTES = 16 << 20


def main() -> None:
    """Train in the folder named on the command line until the time is up, or export what was trained there."""
    options = _options().parse_args()
    torch.set_num_threads(options.threads)
    preset = with_stages(PRESETS[options.preset], options.stages)
    device = torch.device(options.device)
    trainer = make_trainer(preset, options.folder, options.textures, device, workers=options.workers)
    if options.export:
        print(export(trainer, options.folder / "best.pt", options.export))
        return
    if options.start:
        trainer.start_from(*start_weights(options.start, trainer.net))
    limits = Limits(minutes=options.minutes, finish=options.finish)
    if isinstance(preset, WholePreset):
        limits = replace(limits, measure_every=preset.measure_every)
    held_out = make_held_out(preset, options.folder, device)
    if isinstance(held_out, WholeHeldOut):
        print(held_out.check(), flush=True)
    train(trainer, held_out, options.folder, limits, lambda text: print(text, flush=True))


def make_trainer(
    preset: Preset | WholePreset, folder: Path, textures: Path | None, device: torch.device, *, workers: int = 0
) -> Trainer[Any, Any]:
    """A trainer at step 0 whose pool lies in the folder."""
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
    """The preset whose stages begin at other steps, given as "0,500,2000". Raises ReconError for another number."""
    if starts is None:
        return preset
    steps = [int(start) for start in starts.split(",") if start.strip().isdigit()]
    training: Any = preset.training
    stages = training.stages
    if len(steps) != len(stages) or steps[0] != 0 or steps != sorted(steps):
        raise ReconError(
            f"--stages takes {len(stages)} rising steps, the first 0, with commas between; got {starts!r}."
        )
    moved = tuple(replace(stage, start=step) for stage, step in zip(stages, steps, strict=True))
    return replace(preset, training=replace(training, stages=moved))


def export(trainer: Trainer[Any, Any], best: Path, path: Path) -> str:
    """Write the best averaged weights as files of at most ``PART_BYTES``; what was written. Raises ReconError."""
    if not best.is_file():
        raise ReconError(f"{best} does not exist: train in that folder until it is measured once.")
    state = torch.load(best, map_location="cpu", weights_only=True)
    trainer.mean.load_state_dict(state["mean"])
    paths = save_weights(trainer.mean, path, state["steps"], PART_BYTES)
    return f"{', '.join(str(part) for part in paths)}: the weights of step {state['steps']}"


def load_atlas(textures: Path | None, procedural: int) -> Atlas:
    """Procedural tiles, and the photographs of a folder where one is given."""
    tiles = procedural_tiles(torch.Generator().manual_seed(0), procedural)
    return Atlas.of(torch.cat([tiles, read_photos(textures)]) if textures else tiles)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="checkpoint, curve and rendered scenes; an existing run continues")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="core", help="network, sizes and schedule")
    parser.add_argument("--textures", type=Path, help="folder of material photographs (.jpg), none by default")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop by itself after so long; 0 = never")
    parser.add_argument("--stages", help="steps at which the preset's stages begin instead, such as 0,500,2000,4000")
    parser.add_argument(
        "--finish", action="store_true", help="last stretch: the rate falls to zero in its last quarter"
    )
    parser.add_argument("--start", type=Path, help="weight file that a new run begins with, instead of random weights")
    parser.add_argument("--export", type=Path, help="write the best weights of the run to this file, and stop")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of every tensor operation on the CPU")
    parser.add_argument("--workers", type=int, default=0, help="threads that make batches ahead, for a GPU")
    return parser


if __name__ == "__main__":
    main()
