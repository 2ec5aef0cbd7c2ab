"""The unit of a map of a rig, whose cameras are known distances apart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from recon.core.similarity import Array
from recon.core.types import SAME_CENTRE, Mount


def rig_scale(centres: Mapping[int, Array], mounts: Mapping[int, Mount]) -> float | None:
    """A length of the rig over the same one in the world, the median over its shots; None if its cameras share their
    centre. centres: (3,) of cameras in the world, by frame. mounts: of frames of rigs.
    """
    shots: dict[int, list[int]] = {}
    for index in centres.keys() & mounts.keys():
        shots.setdefault(index - mounts[index].number, []).append(index)
    ratios = []
    for indices in shots.values():
        wanted = np.array([np.linalg.inv(mounts[index].cam_from_rig)[:3, 3] for index in indices])
        found = np.array([centres[index] for index in indices])
        spread, own = (float(np.linalg.norm(both - both.mean(axis=0))) for both in (wanted, found))
        if spread > SAME_CENTRE and own > 0:
            ratios.append(spread / own)
    return float(np.median(ratios)) if ratios else None
