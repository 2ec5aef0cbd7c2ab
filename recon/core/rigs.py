"""The unit of a map of a rig, whose cameras are known distances apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from recon.core.similarity import Array
from recon.core.types import SAME_CENTRE, Mount


def rig_scale(centres: Mapping[int, Array], mounts: Mapping[int, Mount]) -> float | None:
    """A length of the rig over the same one in the world, the median over its shots; None if its cameras share their
    centre. centres: (3,) of cameras in the world, by frame. mounts: of frames of rigs.
    """
    shots: dict[int, list[int]] = {}
    for index in centres.keys() & mounts.keys():
        shots.setdefault(mounts[index].shot_of(index), []).append(index)
    ratios = []
    for indices in shots.values():
        wanted = np.array([np.linalg.inv(mounts[index].cam_from_rig)[:3, 3] for index in indices])
        found = np.array([centres[index] for index in indices])
        if spread(wanted) > SAME_CENTRE and spread(found) > 0:
            ratios.append(spread(wanted) / spread(found))
    return float(np.median(ratios)) if ratios else None


def spread(points: Array) -> float:
    """The size of a group of points (n, 3)."""
    return float(np.linalg.norm(points - points.mean(axis=0)))


def frames_of_shot(mounts: Iterable[Mount]) -> int:
    """The most frames that rigs with these cameras take together; 1 without any."""
    return max((mount.count for mount in mounts), default=1)
