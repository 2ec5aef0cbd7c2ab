"""The files that every run writes beside its map. If one fails, the others are still written."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

from recon.core.errors import ReconError
from recon.core.events import Event, Notice, Progress
from recon.core.failures import note_traceback, short
from recon.core.stopwatch import stage
from recon.exports import EXPORTS
from recon.settings import CloudSettings
from recon.store.map import open_map


def write_outputs(folder: Path, cloud: CloudSettings, tell: Callable[[Event], None]) -> tuple[str, ...]:
    """Write every run's exports of the map in ``folder`` beside it; returns a sentence for each that failed.

    A failed output is deleted, since a file of an earlier run would not match the map.
    """
    reconstruction = open_map(folder)
    failed: list[str] = []
    for target, export in EXPORTS.items():
        if not export.stage:
            continue
        tell(Progress(f"writing {export.stage}", 0, 0))
        try:
            with stage(f"writing {export.stage}"):
                export.write(reconstruction, folder / export.path, cloud)
        except Exception as error:
            failed.append(_failure(error, folder, export.path, target))
            tell(Notice(failed[-1]))
            _remove(folder / (export.stale or export.path))
    return tuple(failed)


def _failure(error: Exception, folder: Path, name: str, target: str) -> str:
    reason = str(error)
    if not isinstance(error, ReconError):
        note_traceback(error, folder)
        reason = f"{short(error)}."
    return f"{name} is missing: {reason} Write it with: recon export {shlex.quote(str(folder))} --to {target}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
