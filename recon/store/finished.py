"""The poses of a finished map, kept while a run rebuilds or extends it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon.core.errors import MapError
from recon.core.similarity import Sim3
from recon.store.ledger import Ledger
from recon.store.legacy import AGAIN
from recon.store.map import Matrix, open_map


@dataclass(frozen=True)
class _Pose:
    index: int
    world_from_cam: Matrix


def finished_world(folder: Path) -> dict[int, Sim3]:
    """``world_from_cam`` by frame index, of the finished map in ``folder`` or of the one that a killed run was
    extending.

    Empty if there is none. Raises MapError for a damaged map.
    """
    ledger = Ledger(folder)
    if ledger.has("earlier"):
        return _poses(ledger)
    if not ledger.has("map"):
        return {}
    finished = open_map(folder)
    return {frame.index: frame.world_from_cam for frame in finished.frames} if finished.complete else {}


def _poses(ledger: Ledger) -> dict[int, Sim3]:
    poses = ledger.read("earlier", _Pose)
    try:
        return {pose.index: Sim3.from_matrix(np.array(pose.world_from_cam)) for pose in poses}
    except (ValueError, IndexError) as error:
        raise MapError(f"{ledger.source('earlier')} is damaged ({error!r}). {AGAIN}") from error


def keep_finished(ledger: Ledger, poses: Mapping[int, Sim3]) -> None:
    """Keep ``finished_world`` before the map changes and is unfinished again: the run may be killed."""
    if not ledger.has("earlier"):
        rows = ({"index": index, "world_from_cam": pose.matrix().tolist()} for index, pose in poses.items())
        ledger.replace("earlier", rows)


def forget_finished(ledger: Ledger) -> None:
    """Delete what ``keep_finished`` kept: the map is finished again."""
    ledger.replace("earlier", ())
