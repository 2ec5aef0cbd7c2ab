"""A store: the folder that the machines of a fleet share.

    fleet.json     what there is to do, written before anything starts
    maps/NAME      a map for each source, as ``recon run`` writes it
    states/NAME    how far it is; written by the machine that works on it
    logs/NAME      what the program printed
    parts/NAME     the pieces of a source that is cut
    uploads/FILE   a video that it received, see ``recon.fleet.uploads``

Every file is replaced as a whole, so any process on any machine may read it at any time.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from recon.core.errors import MapError, OutputError, SettingsError
from recon.core.files import make_folder, write_atomically
from recon.core.typed_json import read_object, typed
from recon.store.ledger import Ledger

UNFINISHED = {".lock", "parts"}  # what a store has before its list is written
VERSION = 1
UPLOADS = "uploads"
GONE = ".deleted-"  # a map that is being deleted; no map has such a name
AGAIN = "Delete it, and run recon fleet run again: finished maps are kept."
SILENT = 60.0  # seconds without a sign of life after which a job counts as lost
Phase = Literal["waiting", "running", "done", "failed"]


@dataclass(frozen=True)
class Job:
    """A map to make. kind: of a source, or of the maps of other jobs, ``needs``. part: whether it is only a part of
    another job. options: of ``recon run``.
    """

    name: str
    kind: Literal["run", "merge"]
    source: str
    options: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    part: bool = False


@dataclass(frozen=True)
class State:
    """How far a job is. attempts: begun in this run of the fleet. frames: mapped so far. seconds: of all attempts.
    seen: when its machine last wrote this, by its clock [s since 1970]. sentence: why it failed, or what is missing.
    """

    phase: Phase = "waiting"
    attempts: int = 0
    frames: int = 0
    seconds: float = 0.0
    host: str = ""
    process: int = 0
    seen: float = 0.0
    sentence: str = ""

    @property
    def is_lost(self) -> bool:
        """Whether a job that runs gives no sign of life."""
        return self.phase == "running" and time.time() - self.seen > SILENT


@dataclass(frozen=True)
class _Plan:
    jobs: tuple[Job, ...]


@dataclass(frozen=True)
class _Complete:
    complete: Literal[0, 1]


@dataclass(frozen=True)
class _Placed:
    index: int


@dataclass(frozen=True)
class _Chunk:
    placed: list[_Placed]


@dataclass(frozen=True)
class FleetStore:
    """The files of a store."""

    folder: Path

    def map_of(self, name: str) -> Path:
        return self.folder / "maps" / name

    def log_of(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.txt"

    def require_own_folder(self) -> None:
        """Raise SettingsError if the folder has other things in it, and is no store."""
        names = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        if names - UNFINISHED and "fleet.json" not in names:
            raise SettingsError(f"{self.folder} is not empty, and no store of a fleet. Choose another --out.")

    def jobs(self) -> tuple[Job, ...]:
        """Raises MapError if this is no store, or if its list is damaged."""
        path = self.folder / "fleet.json"
        try:
            content = read_object(path, VERSION, AGAIN)
        except OSError as error:
            raise MapError(
                f"{self.folder} is no store of a fleet: fleet.json cannot be read. recon fleet run makes one."
            ) from error
        return typed(content, _Plan, path, AGAIN).jobs

    def extend(self, jobs: Sequence[Job]) -> tuple[Job, ...]:
        """Add jobs to those of the store; all jobs. Raises SettingsError for another job of the name
        of a map that has been begun."""
        known = {job.name: job for job in self.jobs()} if (self.folder / "fleet.json").is_file() else {}
        for job in jobs:
            before = known.get(job.name)
            if before and before != job and self.map_of(job.name).exists():
                other, remedy = (
                    ("with another source", "Choose another name")
                    if before.source != job.source
                    else ("with other options", "Use the options as before")
                )
                raise SettingsError(f"{self.folder} already has a map {job.name}, {other}. {remedy}, or another --out.")
        every = tuple((known | {job.name: job for job in jobs}).values())
        for folder in ("maps", "states", "logs"):
            make_folder(self.folder / folder)
        self._write_jobs(every)
        return every

    def require(self, names: Iterable[str]) -> None:
        """Raises MapError for a name of no map; a part counts as none."""
        known = {job.name for job in self.jobs() if not job.part}
        if strange := sorted(set(names) - known):
            raise MapError(f"{self.folder} has no map {strange[0]}. recon fleet status {self.folder} lists all.")

    def delete(self, names: Collection[str]) -> None:
        """Delete maps, with their parts, logs and received videos; sources elsewhere stay.

        The list of jobs comes last: after a kill, the same call deletes the rest. Until then, the map that was being
        deleted is either whole or still to be made. Raises MapError for a name of no map, and OutputError.
        """
        self.require(names)
        jobs = self.jobs()
        going = {*names, *(need for job in jobs if job.name in names for need in job.needs)}
        try:
            for job in sorted(jobs, key=lambda job: job.part):  # a map before the parts that it was made of
                if job.name in going:
                    self._delete(job)
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be changed: {error.strerror}. Make it writable.") from error
        self._write_jobs([job for job in jobs if job.name not in going])

    def _delete(self, job: Job) -> None:
        self._state_path(job.name).unlink(missing_ok=True)
        made, gone = self.map_of(job.name), self.folder / "maps" / f"{GONE}{job.name}"
        shutil.rmtree(gone, ignore_errors=True)
        if made.exists():
            made.rename(gone)
            shutil.rmtree(gone)
        shutil.rmtree(self.folder / "parts" / job.name, ignore_errors=True)
        self.log_of(job.name).unlink(missing_ok=True)
        if Path(job.source).parent == self.folder / UPLOADS:
            Path(job.source).unlink(missing_ok=True)

    def _write_jobs(self, jobs: Iterable[Job]) -> None:
        _write(self.folder / "fleet.json", {"version": VERSION, "jobs": [asdict(job) for job in jobs]})

    def state(self, name: str) -> State:
        """The state of a job; waiting if nothing is known of it."""
        path = self._state_path(name)
        try:
            return typed(read_object(path, VERSION, AGAIN), State, path, AGAIN)
        except (OSError, MapError):  # it can be found out again
            return State()

    def write_state(self, name: str, state: State) -> None:
        _write(self._state_path(name), {"version": VERSION} | asdict(state))

    def is_done(self, name: str) -> bool:
        """Whether a map is finished, by the map itself."""
        folder = self.map_of(name)
        try:
            return Ledger(folder).path.is_file() and any(row.complete for row in Ledger(folder).read("map", _Complete))
        except MapError:
            return False

    def mapped(self, name: str) -> int:
        """How many frames the run of a map has mapped so far."""
        try:
            chunks = Ledger(self.map_of(name)).read("chunks", _Chunk)
        except MapError:
            return 0
        return len({frame.index for chunk in chunks for frame in chunk.placed})

    def reset(self, jobs: Iterable[Job]) -> None:
        """Let all that are not done begin again, with all their attempts."""
        for job in jobs:
            state = self.state(job.name)
            done = self.is_done(job.name)
            if done and state.phase != "done":
                found = replace(state, phase="done", frames=self.mapped(job.name), sentence="")
                self.write_state(job.name, found)
            elif not done and (state.phase != "waiting" or state.attempts):
                self.write_state(job.name, State(frames=state.frames, seconds=state.seconds))

    def finished_maps(self) -> dict[str, Path]:
        """The maps that are done, without parts of others, by name."""
        return {job.name: self.map_of(job.name) for job in self.jobs() if not job.part and self.is_done(job.name)}

    def _state_path(self, name: str) -> Path:
        return self.folder / "states" / f"{name}.json"


def _write(path: Path, content: object) -> None:
    write_atomically(path, lambda file: file.write(json.dumps(content, indent=1).encode()))
