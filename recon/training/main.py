"""Train the posed depth network.

    python -m recon.training.main runs/posed-depth --textures FOLDER --minutes 9.5

The same command continues the run. ``--start`` begins one with the weights of a file. ``--export`` writes the best
network of the run as a weight file instead.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path

import torch

from recon.compact.weights import load_weights, save_weights, trained_steps
from recon.training.atlas import Atlas, procedural_tiles, read_photos
from recon.training.held_out import HeldOut
from recon.training.loop import Limits, Trainer, train
from recon.training.pool import Pool
from recon.training.presets import PRESETS, Preset


def main() -> None:
    """Train in the folder named on the command line until the time is up, or export what was trained there."""
    options = _options().parse_args()
    torch.set_num_threads(options.threads)
    preset = PRESETS[options.preset]
    device = torch.device(options.device)
    trainer = make_trainer(preset, options.folder, options.textures, device, workers=options.workers)
    if options.export:
        state = torch.load(options.folder / "best.pt", map_location="cpu", weights_only=True)
        trainer.mean.load_state_dict(state["mean"])
        save_weights(trainer.mean, options.export, state["steps"])
        print(f"{options.export}: the weights of step {state['steps']}")
    else:
        if options.start:
            trainer.start_from(load_weights(options.start, device), trained_steps(options.start))
        held_out = make_held_out(preset, options.folder, device)
        limits = Limits(minutes=options.minutes)
        train(trainer, held_out, options.folder, limits, lambda text: print(text, flush=True))


def make_trainer(
    preset: Preset, folder: Path, textures: Path | None, device: torch.device, *, workers: int = 0
) -> Trainer:
    """A trainer at step 0 whose pool lies in the folder."""
    atlas = cache(lambda: load_atlas(textures, preset.tiles))
    pool = Pool(preset.pool, folder / "pool", atlas, device)
    return Trainer(preset.training, pool, device, preset.network, workers=workers)


def make_held_out(preset: Preset, folder: Path, device: torch.device) -> HeldOut:
    """Fixed batches like those of the preset's last stage."""
    return HeldOut(preset.pool, preset.training.stages[-1].batch, folder / "held-out", device)


def load_atlas(textures: Path | None, procedural: int) -> Atlas:
    """Procedural tiles, and the photographs of a folder where one is given."""
    tiles = procedural_tiles(torch.Generator().manual_seed(0), procedural)
    return Atlas.of(torch.cat([tiles, read_photos(textures)]) if textures else tiles)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="checkpoint, curve and rendered scenes; an existing run continues")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="core", help="sizes and schedule")
    parser.add_argument("--textures", type=Path, help="folder of material photographs (.jpg), none by default")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop by itself after so long; 0 = never")
    parser.add_argument("--start", type=Path, help="weight file that a new run begins with, instead of random weights")
    parser.add_argument("--export", type=Path, help="write the best weights of the run to this file, and stop")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of every tensor operation on the CPU")
    parser.add_argument("--workers", type=int, default=0, help="threads that make batches ahead, for a GPU")
    return parser


if __name__ == "__main__":
    main()
