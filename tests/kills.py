"""Kills runs, resumed runs, scalings and exports of a small map at random moments: ``python -m tests.kills 200``."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from recon.core.metric import Metric
from recon.core.similarity import Sim3
from recon.core.workers import VARIABLE
from recon.exports.outputs import write_outputs
from recon.frontend import FRONT_ENDS
from recon.pipeline import reconstruct
from recon.settings import CloudSettings, RunSettings
from recon.store.journal import read_journal
from recon.store.ledger import Ledger
from recon.store.map import move_map, open_map
from tests.support import ExactFrontEnd, placed_frame, render, true_model

FRAMES = 10
SETTINGS = RunSettings(chunk=4, overlap=2)  # chunks 0-3, 2-5, 4-7, 6-9
TWICE = Sim3(2.0, np.eye(3), np.zeros(3))


def expect_sound(folder: Path) -> tuple[int, int, bool]:
    """Assert that the files are those that the ledger names, and that the map is as of its last finished chunk; its
    frames, its finished chunks, and whether it is complete.
    """
    ledger = Ledger(folder)
    for file in ledger.files().values():
        content = (folder / "map" / file.name).read_bytes()
        assert (len(content), zlib.crc32(content)) == (file.bytes, file.crc32), file
    chunks = read_journal(folder).finished if ledger.has("parts") else ()
    if not ledger.has("map"):
        assert not chunks
        return 0, 0, False
    found = open_map(folder)
    assert len(list(found.geometry())) == len(found.frames)
    assert {row.index for chunk in chunks for row in chunk.placed} == {frame.index for frame in found.frames}
    return len(found.frames), len(chunks), found.complete


class Kills:
    """Kills what works on maps in a folder. kills: how often, by name. lost: sentences about what that has damaged.

    All work is done in forks of this process, which itself must not start threads.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._left, self._chance = folder, 0, random.Random(0)
        self.kills: dict[str, int] = {}
        self.lost: list[str] = []
        self._photos = write_photos(folder / "photos")
        self._import_all(folder)
        start = time.monotonic()
        self._kill("run", 0, lambda: reconstruct(self._photos, folder / "whole", SETTINGS))
        self._longest, self._whole = 1.2 * (time.monotonic() - start), open_map(folder / "whole").posed
        self._left = count

    def _import_all(self, folder: Path) -> None:
        """Import what a run imports, so that its time is that of its work."""
        listed = folder / "modules"

        def run() -> None:
            reconstruct(self._photos, folder / "first", SETTINGS)
            listed.write_text("\n".join(sys.modules))

        self._kill("run", 0, run)
        for name in listed.read_text().split():
            with suppress(Exception):
                import_module(name)

    def all(self) -> None:
        """One map after the other, until there were enough kills."""
        number = 0
        while self._left:
            number += 1
            out = self._folder / str(number)
            self._finish(out)
            for _ in range(3):
                self._move(out)
                self._kill("export", self._longest / 4, lambda out=out: write_outputs(out, CloudSettings(), str))
                expect_sound(out)
            shutil.rmtree(out)

    def _finish(self, out: Path) -> None:
        """Kill runs until one ends, each of them resumes the one before."""
        finished = 0
        while not (out / "report.json").exists():
            again = Ledger(out).has("parts")
            settings = replace(SETTINGS, resume=again, overwrite=out.exists() and not again)
            name = "resumed run" if again else "run"
            self._kill(name, self._longest, lambda settings=settings: reconstruct(self._photos, out, settings))
            _, chunks, _ = expect_sound(out)
            if chunks < finished:
                self.lost.append(f"{finished - chunks} chunks of {out}")
            finished = chunks
        found = open_map(out).posed
        same = [(one.index, one.name, one.camera) for one in found] == [
            (one.index, one.name, one.camera) for one in self._whole
        ] and all(  # up to the precision of stored depth, on which the unit depends
            one.world_from_cam.isclose(was.world_from_cam, atol=2e-3)
            for one, was in zip(found, self._whole, strict=True)
        )
        if not same:
            self.lost.append(f"{out} differs from the undisturbed map")

    def _move(self, out: Path) -> None:
        before, metric = open_map(out), Metric(1, None)
        self._kill("scale", self._longest / 20, lambda: move_map(out, TWICE, metric))
        after = open_map(out)
        factor = after.frames[0].world_from_cam.scale / before.frames[0].world_from_cam.scale
        if (round(factor, 6), after.metric) not in ((1.0, before.metric), (2.0, metric)):
            self.lost.append(f"{out} is moved by half: {factor}, {after.metric}")

    def _kill(self, name: str, longest: float, work: Callable[[], object]) -> None:
        """Do something in a process that is killed at a random moment, or not if there were enough kills."""
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
            os._exit(0)
        if self._left:
            time.sleep(self._chance.uniform(0, longest))
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL), f"{name} ended with {code}"
        if code:
            self._left -= 1
            self.kills[name] = self.kills.get(name, 0) + 1


def write_photos(folder: Path) -> Path:
    folder.mkdir()
    for index in range(FRAMES):
        PillowImage.fromarray(render(placed_frame(index))).save(folder / f"{index:04d}.jpg")
    return folder


def main(count: int) -> None:
    FRONT_ENDS["sfm"] = type("Refining", (ExactFrontEnd,), {"refined": staticmethod(true_model)})
    with tempfile.TemporaryDirectory() as folder:
        found = Kills(Path(folder), count)
        found.all()
    print(f"{sum(found.kills.values())} kills: {found.kills}; lost: {found.lost or 'nothing'}")


if __name__ == "__main__":
    os.environ[VARIABLE] = "0"
    main(int(sys.argv[1]))
