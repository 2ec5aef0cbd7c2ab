"""What the parts of the Rerun viewer share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import rerun as rr

from recon.core.similarity import Sim3

FRUSTA = 60  # at most, of a group of cameras
FRUSTUM_SHARE = 0.04  # length, of the scene's depth
JPEG_QUALITY = 75


@dataclass(frozen=True)
class Instant:
    """Position on both timelines: the frame's index and its timestamp in seconds."""

    frame: int
    seconds: float


class Log(Protocol):
    """Logs to an entity at an instant, or for all time."""

    def __call__(self, entity: str, *parts: rr.AsComponents, at: Instant | None = None) -> None: ...


def transform(parent_from_child: Sim3) -> rr.Transform3D:
    """A similarity as Rerun has it."""
    return rr.Transform3D(
        translation=parent_from_child.translation,
        mat3x3=parent_from_child.rotation,
        scale=parent_from_child.scale,
    )
