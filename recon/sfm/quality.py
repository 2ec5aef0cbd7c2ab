"""How much work structure from motion puts into a map: the qualities of ``RunSettings``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from recon.settings import QualityName


@dataclass(frozen=True)
class Quality:
    """What costs time and buys accuracy or detail.

    features: of a frame, at most, that SIFT describes. adjusted: how many of them the joint adjustment uses in short
    sequences. depth_size: longest side of depth maps [px]. propagates: whether views that show almost nothing new take
    their depth from others, which leaves the cloud with fewer points.
    """

    features: int
    adjusted: int
    depth_size: int
    propagates: bool


# Each point is measured in BENCHMARKS.md, "Qualities".
QUALITIES: Mapping[QualityName, Quality] = MappingProxyType(
    {
        "fast": Quality(features=1500, adjusted=1200, depth_size=240, propagates=True),
        "normal": Quality(features=2048, adjusted=1200, depth_size=320, propagates=True),
        "best": Quality(features=4096, adjusted=2400, depth_size=480, propagates=False),
    }
)
