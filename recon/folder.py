"""The output folder of a run: whether it may be used, and what ``--overwrite`` replaces.

The old map moves to DIR/replaced. It is deleted once the new run has a map, and restored if the run ends without one.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recon.core.errors import OutputError, SettingsError
from recon.core.failures import ERROR_FILE
from recon.core.files import make_folder
from recon.exports import written_names
from recon.settings import RunSettings
from recon.sources import Source
from recon.store.journal import Journal
from recon.store.ledger import Ledger
from recon.store.lock import LOCK, sole_writer
from recon.store.map import incoming_folder, open_map
from recon.store.missing import PART, REPLACED
from recon.store.tracked import NAME as TRACKED

MAP = "map"
OUTPUTS = (
    MAP,
    *written_names(by_every_run=True),
    "recording.rrd",
    "report.json",
    "report.html",
    "evaluation.png",
    "loops.png",
    TRACKED,
    *written_names(by_every_run=False),
)
SIGNS_OF_A_MAP = ("map/map.db", "map/run.json", "map/map.json", f"{REPLACED}/map", f"{PART}/map")
SIGNS_OF_A_RUN = ("report.json", *SIGNS_OF_A_MAP)
DATABASE_FAULTS = ("SQLite error", "database factory")  # what pycolmap says when the disk is full


def refuse_own_outputs(source: str, out: Path) -> None:
    """Raise SettingsError if a run in ``out`` would delete the source before reading it."""
    outputs = [Path(os.path.realpath(out / name)) for name in (*OUTPUTS, REPLACED, PART, ERROR_FILE)]
    where = Path(os.path.realpath(Path(source).expanduser()))  # resolve() raises for a link to itself
    if any(where.is_relative_to(output) for output in outputs):
        raise SettingsError(f"{source} is part of what this run would replace in {out}. Choose another --out.")


def require_outside_maps(out: Path) -> None:
    """Raise OutputError if ``out`` lies in a file or folder that a run has written, such as its map."""
    where = Path(os.path.realpath(out))
    for run in where.parents:
        written = where.relative_to(run).parts[0] in (*OUTPUTS, REPLACED, PART)
        if written and any((run / name).exists() for name in SIGNS_OF_A_MAP):
            raise OutputError(f"{out} lies among the files of the map in {run}. Choose another --out.")


def require_usable(out: Path, *, overwrite: bool) -> None:
    """Raise OutputError if no run may start in ``out``; changes nothing.

    Reasons: it lies in a map, it is not writable, it holds files and ``overwrite`` is not set, or its files are not
    from a run.
    """
    require_outside_maps(out)
    try:
        _require_writable(out)
        present = {path.name for path in out.iterdir()} - {LOCK} if out.exists() else set()
    except OSError as error:
        raise _unwritable(out, error) from error
    if present and not overwrite:
        raise OutputError(f"{out} is not empty. Choose another --out, or --overwrite to replace the run in it.")
    for name in present.intersection((REPLACED, PART)):
        if not _is_ours(out / name):
            raise OutputError(f"{out / name} is not from a run. Move it, or choose another --out.")
    replaced = present.intersection((*OUTPUTS, REPLACED, PART))
    if replaced and not any((out / name).exists() for name in SIGNS_OF_A_RUN):
        raise OutputError(
            f"{out} holds {min(replaced)}, but no run that --overwrite could replace. Move it, or choose another --out."
        )


def require_empty(out: Path) -> None:
    """Raise OutputError if ``out`` is a file, a folder that holds something, or lies in a map."""
    require_outside_maps(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise OutputError(f"{out} is not empty. Choose another --out.")


def discard_unfinished(out: Path) -> str:
    """Delete an unfinished map from a folder that a command has made; returns a sentence about what is left."""
    (out / LOCK).unlink(missing_ok=True)
    if _has_map(out) and open_map(out).complete:
        again = f"recon check {shlex.quote(str(out))} --repair"
        return f"Interrupted. The new map is complete; write its outputs with: {again}"
    discard_map(out)
    return "Interrupted: nothing is changed, and no new map is written."


@contextmanager
def replacing(out: Path, *, overwrite: bool) -> Iterator[None]:
    """Set aside what ``overwrite`` replaces; finally delete it if there is a new map, else restore it.

    Raises OutputError; see ``require_usable``.
    """
    if overwrite:
        require_usable(out, overwrite=True)
        _or_unwritable(out, _set_aside)
    try:
        yield
    except BaseException:
        if overwrite:
            _or_unwritable(out, _settle)
        raise
    _or_unwritable(out, _settle)


def finish_moving(out: Path) -> None:
    """Restore outputs that a killed ``--overwrite`` was moving, so that the run in ``out`` can be resumed.

    Raises OutputError; see ``sole_writer``.
    """
    part = out / PART
    if part.is_dir() and _is_ours(part):
        with sole_writer(out, "run"):
            _or_unwritable(out, _move_back)


def open_journal(name: str, source: Source, out: Path, settings: RunSettings) -> Journal:
    """The journal of a new run in ``out``, or of the run to resume; see ``require_usable`` and ``Journal.resume``.

    Files and watched folders give the same frames every time; cameras, streams and videos played in real time do not.
    """
    again = source.status is None or source.description.kind == "folder"
    where = str(Path(name).expanduser().resolve()) if again else name
    if settings.resume:
        return Journal.resume(out, where, settings, source if again else None)
    require_usable(out, overwrite=settings.overwrite)
    make_folder(out / MAP)
    return Journal.begin(out, where, settings.decided(source.description.frames, live=source.status is not None))


def discard_map(out: Path) -> None:
    """Delete the files that a run wrote before it had a map."""
    for name in ("map", "colmap"):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / TRACKED).unlink(missing_ok=True)


@contextmanager
def full_disk_explained(out: Path) -> Iterator[None]:
    """Turn pycolmap's database errors on a full disk into an OutputError; finally remove ``incoming``."""
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


def _require_writable(out: Path) -> None:
    existing = next(path for path in (out, *out.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if not os.statvfs(existing).f_blocks:  # such as /proc and /sys, where access checks always pass for root
        raise OSError(errno.ENOTSUP, f"{existing} cannot hold files")


def _set_aside(out: Path) -> None:
    """Move the outputs to DIR/replaced, unless it holds a map set aside by an earlier run that gave no map.

    They move by way of ``PART``, so DIR/replaced is always complete.
    """
    aside, part = out / REPLACED, out / PART
    _move_back(out)
    if aside.exists() and not _has_map(out):
        _delete(out, OUTPUTS)
        return
    shutil.rmtree(aside, ignore_errors=True)
    present = [name for name in OUTPUTS if (out / name).exists()]
    if present:
        part.mkdir()
        for name in present:
            (out / name).rename(part / name)
        part.rename(aside)


def _settle(out: Path) -> None:
    aside = out / REPLACED
    if not aside.exists():
        return
    if _has_map(out):
        shutil.rmtree(aside, ignore_errors=True)
        return
    _delete(out, OUTPUTS)
    aside.rename(out / PART)
    _move_back(out)


def _move_back(out: Path) -> None:
    """Undo an interrupted move into or out of DIR/replaced."""
    part = out / PART
    if not part.exists():
        return
    for name in OUTPUTS:
        if (part / name).exists() and not (out / name).exists():
            (part / name).rename(out / name)
    shutil.rmtree(part, ignore_errors=True)


def _is_ours(aside: Path) -> bool:
    return aside.is_dir() and {path.name for path in aside.iterdir()} <= set(OUTPUTS)


def _has_map(out: Path) -> bool:
    return Ledger(out).has("map")


def _delete(out: Path, names: tuple[str, ...]) -> None:
    for name in names:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _or_unwritable(out: Path, change: Callable[[Path], None]) -> None:
    try:
        change(out)
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(out: Path, error: OSError) -> OutputError:
    return OutputError(f"Cannot write to {out}: {error.strerror}. Choose another --out.")
