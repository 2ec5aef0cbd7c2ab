"""What the parts of the Rerun viewer share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import rerun as rr
from numpy.typing import ArrayLike

from recon.core.similarity import Array, Sim3

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


def strips(lines: Sequence[ArrayLike] | Array, colours: ArrayLike, width: float) -> rr.LineStrips3D:
    """Lines (n, m, 3) with m points each. colours: one for all, or (n, 3). width: in points of the screen.

    Rerun converts one array many times faster than a list of lines.
    """
    points = np.asarray(lines, dtype=np.float32).reshape(len(lines), -1 if len(lines) else 1, 3)
    return rr.LineStrips3D(points, colors=colours, radii=rr.Radius.ui_points(width))


def transform(parent_from_child: Sim3) -> rr.Transform3D:
    """A similarity as Rerun has it."""
    return rr.Transform3D(
        translation=parent_from_child.translation,
        mat3x3=parent_from_child.rotation,
        scale=parent_from_child.scale,
    )
