"""Named training presets: the network's size, its scenes, and the schedule."""

from __future__ import annotations

from dataclasses import dataclass

from recon.depth.network import PosedDepthConfig
from recon.lab.compact.compact import CompactConfig
from recon.lab.compact.trunk import TrunkConfig
from recon.lab.training.batches import BatchSettings
from recon.lab.training.pool import PoolSettings
from recon.lab.training.posed import Stage, TrainingSettings
from recon.lab.training.sequence_losses import SequenceWeights
from recon.lab.training.sequences import SequenceSettings
from recon.lab.training.whole import Curriculum, SequenceStage


@dataclass(frozen=True)
class Preset:
    """network: its sizes. pool: the rendered scenes. training: stages, rates and losses. tiles: number of procedural
    ones.
    """

    network: PosedDepthConfig
    pool: PoolSettings
    training: TrainingSettings
    tiles: int = 600


@dataclass(frozen=True)
class WholePreset:
    """As ``Preset``, for the whole network. measure_every: steps between measurements on held-out scenes."""

    network: CompactConfig
    pool: PoolSettings
    training: Curriculum
    tiles: int = 600
    measure_every: int = 250


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

# Checks in a few minutes that everything works and learns; too small to be of use.
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

# One large GPU, the whole network: 256 images a step. The starts of the stages are for some 5 steps a second;
# ``--stages`` sets others once the speed is known.
COMPACT = WholePreset(
    CompactConfig(),
    PoolSettings(height=240, width=320, scenes=8, views=16, first=16, shards=48, refresh_every=12),
    Curriculum(
        stages=(
            # S0: pairs of small images that overlap well; matching first.
            SequenceStage(
                0,
                SequenceSettings(
                    scenes=32, parts=4, views=2, height=112, width=112, overlap=0.7, references=0, strength=0.7
                ),
                SequenceWeights(),
            ),
            # S1: two to four views of full size, depth with given poses.
            SequenceStage(
                1200,
                SequenceSettings(scenes=16, parts=4, views=4, height=224, width=224, overlap=0.4, references=1),
                SequenceWeights(depth=1.0),
            ),
            # S2: eight views, less overlap; matching has been learned, poses count more.
            SequenceStage(
                3000,
                SequenceSettings(scenes=8, parts=4, views=8, height=224, width=224, overlap=0.2),
                SequenceWeights(match=0.3, camera=5.0, depth=1.0),
            ),
            # S3: half of the batches run through the cache.
            SequenceStage(
                5000,
                SequenceSettings(scenes=8, parts=4, views=8, height=224, width=224, overlap=0.2, streamed=0.5),
                SequenceWeights(match=0.3, camera=5.0, depth=1.0),
            ),
        ),
        rate=8e-4,
        decay=0.05,
        warm_up=300,
        hold=1_000_000,
    ),
    measure_every=500,
)

# Checks in seconds that the whole network learns and streams; too small to be of use.
COMPACT_TINY = WholePreset(
    CompactConfig(
        TINY.network,
        TrunkConfig(dim=32, heads=2, mlp_ratio=2.0, registers=1, entry=1, pairs=2),
        matching=16,
        partners=2,
        place_tokens=2,
    ),
    PoolSettings(height=64, width=80, scenes=6, views=4, first=1, shards=1, refresh_every=1000),
    Curriculum(
        stages=tuple(
            SequenceStage(
                start,
                SequenceSettings(
                    scenes=6,
                    parts=1,
                    views=3,
                    height=48,
                    width=64,
                    planes=16,
                    strength=0.3,
                    references=1,
                    sources=2,
                    streamed=streamed,
                ),
                SequenceWeights(depth=1.0),
            )
            for start, streamed in ((0, 0.0), (10, 0.5))
        ),
        rate=3e-3,
        warm_up=10,
        half=False,
    ),
    tiles=12,
)

PRESETS: dict[str, Preset | WholePreset] = {
    "core": CORE,
    "gpu": GPU,
    "tiny": TINY,
    "compact": COMPACT,
    "compact-tiny": COMPACT_TINY,
}
