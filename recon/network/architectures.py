"""What the tensors of a weight file are for: one entry per architecture, of which the last registered that takes a file
describes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recon.core.registry import Registry
from recon.network.checkpoints import Checkpoint, identify
from recon.network.lighterglue import OWN as OWN_OF_LIGHTERGLUE
from recon.network.lighterglue import verify_lighterglue
from recon.network.stored_config import arithmetic_of, to_text
from recon.network.xfeat import OWN, verify_xfeat


@dataclass(frozen=True)
class Architecture:
    """takes: whether a file is of this architecture, by the names of its tensors. verify: says in a few words what a
    file is; raises WeightsError if its tensors do not fit. stated: what an imported copy says of itself, if anything.
    for_places: it recognises places and finds no geometry.
    """

    takes: Callable[[Checkpoint], bool]
    verify: Callable[[Checkpoint], str]
    stated: Callable[[Checkpoint], str] = lambda _: ""
    for_places: bool = False


def _verify_geometry(checkpoint: Checkpoint) -> str:
    return f"geometry, {arithmetic_of(identify(checkpoint)[1])}"


def _state_geometry(checkpoint: Checkpoint) -> str:
    return to_text(*identify(checkpoint))


ARCHITECTURES = Registry(
    "architecture",
    {
        "geometry": Architecture(lambda _: True, _verify_geometry, _state_geometry),
        "ImAge": Architecture(
            lambda checkpoint: checkpoint.is_place_descriptor, lambda _: "ImAge, for places", for_places=True
        ),
        "XFeat": Architecture(lambda checkpoint: OWN in checkpoint.tensors, verify_xfeat, for_places=True),
        "LighterGlue": Architecture(
            lambda checkpoint: OWN_OF_LIGHTERGLUE in checkpoint.tensors, verify_lighterglue, for_places=True
        ),
    },
)


def architecture_of(checkpoint: Checkpoint, among: dict[str, Architecture] = ARCHITECTURES) -> Architecture:
    """The architecture of a file; the program's own geometry if no other takes it."""
    return next(one for one in reversed(among.values()) if one.takes(checkpoint))
