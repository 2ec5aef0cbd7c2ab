"""Chooses the dense depth stage of a run."""

from __future__ import annotations

from recon.core.events import Listener, Notice
from recon.depth.plane_sweep import PlaneSweep
from recon.depth.views import DepthStage
from recon.settings import DenseDepth


def open_depth_stage(kind: DenseDepth, tell: Listener) -> DepthStage:
    """The stage that computes dense depth for posed frames; the classical one if the learned weights are missing."""
    if kind == "classical":
        return PlaneSweep()
    from recon.depth.learned import filled_sweep  # noqa: PLC0415  torch takes seconds to import
    from recon.depth.weights import BUNDLED  # noqa: PLC0415

    if not BUNDLED.is_file():
        tell(Notice(f"{BUNDLED} is missing: depth has gaps where the plane sweep finds none."))
        return PlaneSweep()
    return filled_sweep(BUNDLED)
