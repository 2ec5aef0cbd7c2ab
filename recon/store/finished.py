"""The poses of a finished map, kept while a run rebuilds or extends it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recon.core.errors import MapError
from recon.core.files import write_atomically
from recon.core.similarity import Sim3
from recon.core.typed_json import typed
from recon.store.map import AGAIN, Matrix, open_map

KEPT = "finished.json"


def finished_world(folder: Path) -> dict[int, Sim3]:
    """``world_from_cam`` by frame index, of the finished map in ``folder`` or of the one that a killed run was
    extending.

    Empty if there is none. Raises MapError for a damaged map.
    """
    path = folder / "map" / KEPT
    if path.is_file():
        return _poses(path)
    if not (folder / "map" / "map.json").is_file():
        return {}
    finished = open_map(folder)
    return {frame.index: frame.world_from_cam for frame in finished.frames} if finished.complete else {}


def _poses(path: Path) -> dict[int, Sim3]:
    try:
        poses = typed(json.loads(path.read_text()), dict[int, Matrix], path, AGAIN)
        return {index: Sim3.from_matrix(np.array(pose)) for index, pose in poses.items()}
    except (ValueError, IndexError) as error:
        raise MapError(f"{path} is damaged ({error!r}). {AGAIN}") from error


def keep_finished(folder: Path, poses: Mapping[int, Sim3]) -> None:
    """Keep ``finished_world`` in a file before the map changes and is unfinished again: the run may be killed."""
    path = folder / "map" / KEPT
    if poses and not path.is_file():
        text = json.dumps({index: pose.matrix().tolist() for index, pose in poses.items()})
        write_atomically(path, lambda file: file.write(text.encode()))


def forget_finished(folder: Path) -> None:
    """Delete what ``keep_finished`` kept: the map in ``folder`` is finished again."""
    (folder / "map" / KEPT).unlink(missing_ok=True)
