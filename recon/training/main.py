"""Train the posed depth network.

    python -m recon.training.main runs/posed-depth --textures FOLDER --minutes 9.5

One core learns at about 12 reference views a second (128 x 96 pixels, 3 views). The same command continues the run.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path

import torch

from recon.training.atlas import Atlas, procedural_tiles, read_photos
from recon.training.batches import BatchSettings
from recon.training.loop import Limits, Stage, Trainer, TrainingSettings, train
from recon.training.pool import Pool, PoolSettings

PROCEDURAL_TILES = 600

STAGES = (
    Stage(0, BatchSettings(scenes=6, views=2, height=72, width=96, noise=0.2, strength=0.6)),
    Stage(2500, BatchSettings(scenes=4, views=3, height=96, width=128)),
    Stage(14000, BatchSettings(scenes=2, views=4, height=96, width=128)),
    Stage(17000, BatchSettings(scenes=2, views=3, height=144, width=192)),
)


def main() -> None:
    """Train in the folder named on the command line until the time is up."""
    options = _options().parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    pool = Pool(PoolSettings(), options.folder / "pool", cache(lambda: load_atlas(options.textures)))
    trainer = Trainer(TrainingSettings(stages=STAGES), pool, device)
    train(trainer, options.folder, Limits(minutes=options.minutes), lambda text: print(text, flush=True))


def load_atlas(textures: Path | None) -> Atlas:
    """Procedural tiles, and the photographs of a folder where one is given."""
    tiles = procedural_tiles(torch.Generator().manual_seed(0), PROCEDURAL_TILES)
    return Atlas.of(torch.cat([tiles, read_photos(textures)]) if textures else tiles)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="checkpoint, curve and rendered scenes; an existing run continues")
    parser.add_argument("--textures", type=Path, help="folder of material photographs (.jpg), none by default")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop by itself after so long; 0 = never")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    main()
