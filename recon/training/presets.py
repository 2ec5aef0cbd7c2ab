"""Named trainings: the network's size, the scenes it learns from, and how."""

from __future__ import annotations

from dataclasses import dataclass

from recon.compact.network import PosedDepthConfig
from recon.training.batches import BatchSettings
from recon.training.loop import Stage, TrainingSettings
from recon.training.pool import PoolSettings


@dataclass(frozen=True)
class Preset:
    """network: its sizes. pool: the rendered scenes. training: stages, rates and losses. tiles: procedural ones."""

    network: PosedDepthConfig
    pool: PoolSettings
    training: TrainingSettings
    tiles: int = 600


# One core: pairs of small images first, then more views and pixels.
CORE = Preset(
    PosedDepthConfig(),
    PoolSettings(),
    TrainingSettings(
        stages=(
            Stage(0, BatchSettings(scenes=6, views=2, height=72, width=96, noise=0.2, strength=0.6)),
            Stage(1500, BatchSettings(scenes=4, views=3, height=96, width=128)),
            Stage(9000, BatchSettings(scenes=3, views=4, height=112, width=144)),
        ),
        hold=6000,
    ),
)

# One large GPU: the same network on more and larger views at once.
GPU = Preset(
    PosedDepthConfig(),
    PoolSettings(height=240, width=320, scenes=32, views=8, first=8, shards=64, refresh_every=8),
    TrainingSettings(
        stages=(
            Stage(0, BatchSettings(scenes=32, views=3, height=96, width=128)),
            Stage(3000, BatchSettings(scenes=16, views=4, height=192, width=256)),
        ),
        hold=6000,
    ),
)

# A few minutes' check that everything works and learns; too small to be of use.
TINY = Preset(
    PosedDepthConfig(stem=(8, 16, 16, 16, 16), matching=8, groups=2, planes=16, volume=(8, 8, 8), offsets=2),
    PoolSettings(height=48, width=64, scenes=8, views=3, first=1, shards=2, refresh_every=1000),
    TrainingSettings(
        stages=(Stage(0, BatchSettings(scenes=8, views=2, height=40, width=48, planes=16, noise=0, strength=0.3)),),
        rate=3e-3,
        warm_up=10,
        half=False,
    ),
    tiles=12,
)

PRESETS = {"core": CORE, "gpu": GPU, "tiny": TINY}
