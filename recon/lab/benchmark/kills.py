"""Kills commands at random moments, and checks that nothing finished is lost.

Two sets of images of the bundled sample are mapped, the first map is extended with the second set, both maps are
merged, and one is exported, first without a disturbance. Then the same commands are killed again and again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np

from recon.core.errors import OutputError, ReconError
from recon.core.files import make_folder
from recon.mapping.alignment import fit_similarity
from recon.store.journal import ChunkRecord, read_journal
from recon.store.ledger import Ledger
from recon.store.map import open_map, read_arrays, submap_path

FIRST, SECOND = range(0, 56, 4), range(2, 58, 4)  # images of the sample
# A known lens: on a busy machine, repeated runs find different ones.
OPTIONS = (
    *("--intrinsics", "500,500,320,240", "--size", "240", "--quality", "fast", "--depth", "classical"),
    *("--chunk", "6", "--overlap", "2", "--viewer", "none"),
)
ALIKE = 1e-3  # of the extent: largest difference of a camera centre from the undisturbed map
ATTEMPTS = 50  # of one command
LATEST = 1.5  # moment of a kill in undisturbed times, so that a command may also end
PROGRAM = ("-m", "cli")
Command = tuple[str | Path, ...]


class Lost(Exception):  # noqa: N818  a finding, which ends a round
    """Something that was finished is gone or has changed, a command does not recover, or its result differs."""


@dataclass
class Tally:
    """kills: by command. lost: a sentence for each fault, that something is lost or differs. rounds: commands that were
    killed and then finished. farthest: the largest difference from an undisturbed map, as a share of its extent."""

    kills: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    rounds: int = 0
    farthest: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.kills.values())


def kill_commands(images: Path, out: Path, count: int, seed: int, say: Callable[[str], object]) -> Tally:
    """Kill commands until ``count`` kills are done; ``out`` is a new folder. images: of the bundled sample.

    Raises ReconError if an undisturbed command fails.
    """
    make_folder(out)
    trial = Trial(images, out, seed)
    tally = trial.tally
    for scenario in cycle((trial.run, trial.extend, trial.merge, trial.export)):
        try:
            scenario(count)
            tally.rounds += 1
        except (Lost, ReconError) as lost:
            tally.lost.append(str(lost))
            with suppress(FileNotFoundError):
                (out / "disturbed").rename(out / f"lost_{len(tally.lost)}")
        shutil.rmtree(out / "disturbed", ignore_errors=True)
        kills = ", ".join(f"{number} of {name}" for name, number in tally.kills.items())
        say(f"{tally.count} kills ({kills}), {len(tally.lost)} faults; largest difference {tally.farthest:.1e}")
        if tally.count >= count:
            return tally
    raise AssertionError("a cycle has no end")


class Trial:
    """The undisturbed maps in ``out``, and one round of kills for each command, in ``out/disturbed``.

    count: kills after which a round ends undisturbed. Raises OutputError if an undisturbed command fails, and Lost.
    """

    def __init__(self, images: Path, out: Path, seed: int) -> None:
        self._out = out
        self._first, self._second = (
            linked(images, chosen, out / name) for name, chosen in (("first", FIRST), ("second", SECOND))
        )
        self._chance = np.random.default_rng(seed)
        self.tally = Tally()
        self._seconds: dict[str, float] = {}
        self._maps = {name: out / name for name in ("map", "other", "extended", "merged")}
        self._finish("run", ("run", self._first, "--out", self._maps["map"], *OPTIONS))
        self._finish("run", ("run", self._second, "--out", self._maps["other"], *OPTIONS))
        shutil.copytree(self._maps["map"], self._maps["extended"])
        self._finish("extend", ("run", self._second, "--out", self._maps["extended"], *OPTIONS, "--resume"))
        self._finish("merge", ("merge", self._maps["map"], self._maps["other"], "--out", self._maps["merged"]))
        self._finish("export", ("export", self._maps["map"], "--to", "ply"))

    @property
    def _disturbed(self) -> Path:
        return self._out / "disturbed"

    def run(self, count: int) -> None:
        """A run is killed, and resumed until it ends."""
        command: Command = ("run", self._first, "--out", self._disturbed, *OPTIONS)
        self._grow(
            "run", lambda: (*command, "--resume" if Ledger(self._disturbed).has("parts") else "--overwrite"), count
        )
        self._compare(self._maps["map"])

    def extend(self, count: int) -> None:
        """A finished map is extended with other images, which is killed, and resumed until it ends."""
        shutil.copytree(self._maps["map"], self._disturbed)
        command: Command = ("run", self._second, "--out", self._disturbed, *OPTIONS, "--resume")
        self._grow("extend", lambda: command, count)
        self._compare(self._maps["extended"])

    def merge(self, count: int) -> None:
        """A merge is killed, and started again until it ends; its maps must not change."""
        maps = self._maps["map"], self._maps["other"]
        before = [_contents(folder) for folder in maps]
        for _ in self._attempts("merge", lambda: ("merge", *maps, "--out", self._disturbed), count):
            if [_contents(folder) for folder in maps] != before:
                raise Lost("a killed merge has changed the maps that it reads")
            if Ledger(self._disturbed).has("map"):
                open_map(self._disturbed)
            shutil.rmtree(self._disturbed, ignore_errors=True)
        self._compare(self._maps["merged"])

    def export(self, count: int) -> None:
        """An export is killed, and started again until it ends; the map and the old file must not change."""
        shutil.copytree(self._maps["map"], self._disturbed)
        before = _contents(self._disturbed)
        for _ in self._attempts("export", lambda: ("export", self._disturbed, "--to", "ply"), count):
            self._require_same(before)
        self._require_same(before)

    def _require_same(self, before: dict[str, str]) -> None:
        after = _contents(self._disturbed)
        changed = [name for name, digest in before.items() if after.get(name) != digest]
        if changed:
            raise Lost(f"a killed export has changed {', '.join(changed)}")

    def _grow(self, name: str, command: Callable[[], Command], count: int) -> None:
        """Kill a run and resume it until it ends; its finished chunks stay as they are."""
        known = _finished(self._disturbed)
        for _ in self._attempts(name, command, count):
            now = _finished(self._disturbed)
            if [(one.frames, one.placed) for one in now[: len(known)]] != [(one.frames, one.placed) for one in known]:
                raise Lost(f"after a kill of {name}, {len(now)} finished chunks are not those of before ({len(known)})")
            known = now

    def _attempts(self, name: str, command: Callable[[], Command], count: int) -> Iterator[None]:
        """Yields after every kill, until the command ends by itself. The last kills of a trial are followed by an
        undisturbed command."""
        for _ in range(ATTEMPTS):
            moment = self._chance.uniform(0, LATEST * self._seconds[name]) if self.tally.count < count else None
            if self._ends(name, command(), moment):
                return
            self.tally.kills[name] = self.tally.kills.get(name, 0) + 1
            try:
                yield
            except ReconError as error:
                raise Lost(f"after a kill of {name}: {error}") from error
        raise Lost(f"{name} does not end after {ATTEMPTS} kills")

    def _ends(self, name: str, command: Command, moment: float | None) -> bool:
        """Whether a command ended by itself before it was killed at this moment [s]."""
        log = self._out / "log.txt"
        with log.open("ab") as file:
            called = [sys.executable, *PROGRAM, *map(str, command)]
            process = subprocess.Popen(called, stdout=file, stderr=file, start_new_session=True)
        try:
            code = process.wait(moment)
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.poll() is None:
                # Sometimes the program alone, sometimes all of its processes at once.
                end = os.kill if self._chance.random() < 0.5 else os.killpg
                end(process.pid, signal.SIGKILL)
                process.wait()
        if code:
            raise Lost(f"{name} failed with exit code {code}; see {log}")
        return True

    def _finish(self, name: str, command: Command) -> None:
        """Run a command undisturbed and note how long it takes. Raises OutputError if it fails."""
        start = time.monotonic()
        try:
            self._ends(name, command, None)
        except Lost as error:
            raise OutputError(f"Undisturbed, {error}.") from error
        self._seconds[name] = time.monotonic() - start

    def _compare(self, undisturbed: Path) -> None:
        difference = largest_difference(self._disturbed, undisturbed)
        self.tally.farthest = max(self.tally.farthest, difference)
        if difference > ALIKE:
            raise Lost(f"a camera differs from the undisturbed {undisturbed.name} by {difference:.1e} of the extent")


def largest_difference(folder: Path, other: Path) -> float:
    """The largest distance between equal camera centres of two maps after alignment, as a share of the extent.

    Raises Lost if they place different frames or one is not finished, MapError for a damaged one.
    """
    ours, theirs = open_map(folder), open_map(other)
    if not ours.complete or [frame.name for frame in ours.posed] != [frame.name for frame in theirs.posed]:
        raise Lost(f"{folder} is not finished, or places other frames than {other}")
    for _, geometry in ours.geometry():  # its depth can be read
        geometry.depth.max()
    here, there = (np.array([frame.world_from_cam.translation for frame in one.posed]) for one in (ours, theirs))
    moved = fit_similarity(here, there, np.ones(len(here))).apply(here)
    return float(np.linalg.norm(moved - there, axis=1).max() / np.linalg.norm(np.ptp(there, axis=0)))


def _finished(folder: Path) -> Sequence[ChunkRecord]:
    """The finished chunks of a run, whose depth can be read. Raises MapError."""
    chunks = read_journal(folder).finished if Ledger(folder).has("parts") else ()
    for number, chunk in enumerate(chunks):
        if chunk.placed:
            read_arrays(submap_path(folder, number))
    if chunks:
        open_map(folder)
    return chunks


def _contents(folder: Path) -> dict[str, str]:
    """A digest of every finished file in a folder by name, without those that say which process writes there."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    named = {str(path.relative_to(folder)): path for path in files if path.suffix != ".part"}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in named.items()}


def linked(images: Path, indices: range, folder: Path) -> Path:
    """A new folder with some of the images, as they are named."""
    make_folder(folder)
    paths = sorted(images.iterdir())
    for index in indices:
        (folder / paths[index].name).symlink_to(paths[index].resolve())
    return folder
