"""A power cut at any moment of a run: what was not synced to disk may be lost, in any order.

The order of writes is recorded, and every state that a cut could leave is opened. SQLite syncs its own file; a
committed transaction is taken to be on disk.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image as PillowImage

from recon.frontend import FRONT_ENDS
from recon.pipeline import reconstruct
from recon.settings import RunSettings
from recon.store import ledger as module
from recon.store.map import open_map
from tests.kills import expect_sound
from tests.support import ExactFrontEnd, placed_frame, render, true_model

FRAMES = 10
SETTINGS = RunSettings(chunk=5, overlap=2)
Files = dict[str, bytes]


@dataclass
class Disk:
    """What a power cut would leave of a folder: ``files``, and any of the ``renamed`` ones; ``states`` so far.

    synced: content of files that is on disk under whatever name.
    """

    folder: Path
    files: Files = field(default_factory=dict)
    renamed: Files = field(default_factory=dict)
    synced: Files = field(default_factory=dict)
    states: list[Files] = field(default_factory=list)

    def note(self) -> None:
        for lucky in ({}, self.renamed, *({name: content} for name, content in self.renamed.items())):
            state = self.files | lucky
            if state not in self.states:
                self.states.append(state)

    def sync(self, opened: int) -> None:
        path = Path(f"/proc/self/fd/{opened}").readlink()
        if path == self.folder:
            self.files |= self.renamed
            self.renamed = {}
        elif path.parent == self.folder:
            self.synced[path.name] = path.read_bytes()
        self.note()

    def rename(self, source: Path, target: Path) -> None:
        if target.parent == self.folder:
            whole = source.read_bytes() if source.name.startswith(module.NAME) else b""
            self.renamed[target.name] = self.synced.pop(source.name, whole)
        self.note()

    def unlink(self, path: Path) -> None:
        if path.parent == self.folder:
            for files in (self.files, self.renamed):
                files.pop(path.name, None)
        self.note()

    def commit(self) -> None:
        """The rows of a transaction are on disk, in the ledger or its WAL."""
        names = [path.name for path in self.folder.glob(f"{module.NAME}*")]
        for name in [name for name in self.files if name.startswith(module.NAME)]:
            del self.files[name]
        self.files |= {name: (self.folder / name).read_bytes() for name in names if not name.endswith("-shm")}
        self.note()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    found = Disk(tmp_path / "out" / "map")
    sync, rename, unlink, committed = os.fsync, Path.replace, Path.unlink, module._set_journal_mode

    def renamed(source: Path, target: Path) -> Path:
        found.rename(Path(source), Path(target))
        return rename(source, target)

    def before(note: Callable[[], None], done: Callable[..., None]) -> Callable[..., None]:
        def both(*given: object, **how: object) -> None:
            note()
            done(*given, **how)

        return both

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda opened: (sync(opened), found.sync(opened)))
        patched.setattr(Path, "replace", renamed)
        patched.setattr(Path, "unlink", lambda path, **how: (found.unlink(path), unlink(path, **how)))
        patched.setattr(module, "_set_journal_mode", before(found.commit, committed))
        yield found


def test_every_state_that_a_power_cut_leaves_opens_and_resumes(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    front_end = type("Refining", (ExactFrontEnd,), {"refined": staticmethod(true_model)})
    monkeypatch.setitem(FRONT_ENDS, "sfm", front_end)
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for index in range(FRAMES):
        PillowImage.fromarray(render(placed_frame(index))).save(photos / f"{index:04d}.jpg")
    reconstruct(photos, out, SETTINGS)
    states = list(disk.states)
    assert len(states) > 20
    whole = [frame.world_from_cam.matrix() for frame in open_map(out).frames]
    seen = set[tuple[int, int, bool]]()
    for number, state in enumerate(states):
        folder = tmp_path / str(number)
        (folder / "map").mkdir(parents=True)
        for name, content in state.items():
            (folder / "map" / name).write_bytes(content)
        counts = expect_sound(folder)
        if counts not in seen and counts[1]:
            shutil.copytree(out / "colmap" / "images", folder / "colmap" / "images")
            assert reconstruct(photos, folder, RunSettings(chunk=5, overlap=2, resume=True)).frames_placed == FRAMES
            for frame, pose in zip(open_map(folder).frames, whole, strict=True):
                assert abs(frame.world_from_cam.matrix() - pose).max() < 2e-3
        seen.add(counts)
        shutil.rmtree(folder)
    assert {chunks for _, chunks, _ in seen} == {0, 1, 2, 3}
    assert (FRAMES, 3, True) in seen
