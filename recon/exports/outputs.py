"""The files that every run writes beside its map. One that fails does not keep the others from being written."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from recon.core.errors import ReconError
from recon.core.events import Event, Notice, Progress
from recon.core.failures import note_traceback, short
from recon.exports.colmap import write_colmap
from recon.exports.ply import write_ply
from recon.exports.trajectory import write_tum
from recon.settings import CloudSettings
from recon.store.map import ReconstructedMap

Write = Callable[[ReconstructedMap, Path], object]


def write_outputs(
    reconstruction: ReconstructedMap, cloud: CloudSettings, tell: Callable[[Event], None]
) -> tuple[str, ...]:
    """Write trajectory, COLMAP model and cloud into the map's folder; returns a sentence for each that failed.

    What failed is absent afterwards: a file of an earlier run would not fit the map.
    """
    outputs: tuple[tuple[str, str, Write, str, str], ...] = (
        ("trajectory", "tum", write_tum, "poses.txt", "poses.txt"),
        ("COLMAP model", "colmap", write_colmap, "colmap", "colmap/sparse"),
        ("cloud", "ply", partial(write_ply, settings=cloud), "cloud.ply", "cloud.ply"),
    )
    failed: list[str] = []
    for stage, target, write, name, stale in outputs:
        tell(Progress(f"writing {stage}", 0, 0))
        try:
            write(reconstruction, reconstruction.folder / name)
        except Exception as error:
            failed.append(_failure(error, reconstruction.folder, name, target))
            tell(Notice(failed[-1]))
            _remove(reconstruction.folder / stale)
    return tuple(failed)


def _failure(error: Exception, folder: Path, name: str, target: str) -> str:
    reason = str(error)
    if not isinstance(error, ReconError):
        note_traceback(error, folder)
        reason = f"{short(error)}."
    return f"{name} is missing: {reason} Make it again with: recon export {shlex.quote(str(folder))} --to {target}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
