"""The folder of a run: made ready before it, and cleared of what a run without a map leaves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recon.core.errors import OutputError, SettingsError
from recon.core.failures import ERROR_FILE
from recon.core.files import make_folder
from recon.exports import written_names
from recon.settings import RunSettings
from recon.sources import Source
from recon.store.journal import Journal
from recon.store.lock import LOCK
from recon.store.map import incoming_folder

RUN_OUTPUTS = (*written_names(by_every_run=True), "map", "recording.rrd", "report.json")
SIGNS_OF_A_RUN = ("report.json", "map/run.json", "map/map.json")
DATABASE_FAULTS = ("SQLite error", "database factory")  # what pycolmap says when the disk is full
LATER_OUTPUTS = (*written_names(by_every_run=False), "evaluation.png", "loops.png", ERROR_FILE)


def refuse_own_outputs(source: str, out: Path) -> None:
    """Raise SettingsError for a source inside what a run in ``out`` deletes before it starts."""
    outputs = [(out / name).resolve() for name in RUN_OUTPUTS + LATER_OUTPUTS]
    if any(Path(source).expanduser().resolve().is_relative_to(output) for output in outputs):
        raise SettingsError(f"{source} is part of what this run would replace in {out}. Choose another --out.")


def prepare_folder(out: Path, *, overwrite: bool) -> None:
    """Make ``out`` ready for a run; only what an earlier run wrote there is ever deleted.

    Raises OutputError when ``out`` holds files and ``overwrite`` is not set, when what would be replaced is of no run,
    or when it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        present = {path.name for path in out.iterdir()} - {LOCK}
        if present and not overwrite:
            raise OutputError(f"{out} is not empty. Choose another --out, or --overwrite to replace the run in it.")
        replaced = present.intersection(RUN_OUTPUTS + LATER_OUTPUTS)
        if replaced - {ERROR_FILE} and not any((out / name).is_file() for name in SIGNS_OF_A_RUN):
            raise OutputError(
                f"{out} holds {min(replaced)}, but no run that --overwrite could replace. Move it, or choose another "
                "--out."
            )
        for name in replaced:
            path = out / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError as error:
        raise OutputError(f"Cannot write to {out}: {error.strerror}. Choose another --out.") from error


def open_journal(name: str, source: Source, out: Path, settings: RunSettings) -> Journal:
    """The journal of a new run in ``out``, or of the one to resume; see ``prepare_folder`` and ``Journal.resume``.

    Files give the same frames each time, and so does a folder that is watched; cameras, streams and videos at their own
    speed do not.
    """
    again = source.status is None or source.description.kind == "folder"
    where = str(Path(name).expanduser().resolve()) if again else name
    if settings.resume:
        return Journal.resume(out, where, settings, source if again else None)
    prepare_folder(out, overwrite=settings.overwrite)
    make_folder(out / "map")
    return Journal.begin(out, where, settings)


def discard_map(out: Path) -> None:
    """Delete what a run has written before it had a map."""
    for name in ("map", "colmap"):
        shutil.rmtree(out / name, ignore_errors=True)


@contextmanager
def full_disk_told(out: Path) -> Iterator[None]:
    """Say in a sentence what pycolmap's database makes of a full disk; in the end nothing is left of ``incoming``."""
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in DATABASE_FAULTS):
            raise
        raise OutputError(
            f"Cannot write {out / 'map' / 'features.db'}; is the disk full? Free some space or choose another --out."
        ) from error
    finally:
        shutil.rmtree(incoming_folder(out, resume=True), ignore_errors=True)
