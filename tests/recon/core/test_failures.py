"""What remains of a run after an unexpected failure, and how it continues."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PillowImage

from recon.core.errors import MapError, OutputError, UnexpectedError
from recon.core.failures import ENDED_FROM_OUTSIDE
from recon.exports import export
from recon.frontend import FRONT_ENDS
from recon.pipeline import reconstruct
from recon.settings import RunSettings
from recon.store import report
from recon.store.map import open_map
from tests.support import ExactFrontEnd, change_ledger, placed_frame, render

FRAMES = 10
SETTINGS = RunSettings(chunk=5, overlap=2)  # three chunks: 0-4, 3-7, 6-9
AGAIN = RunSettings(chunk=5, overlap=2, resume=True)
ROOT = Path(__file__).resolve().parents[3]
ABORTED = """
import os, sys
from pathlib import Path
import recon.pipeline
from recon.frontend import FRONT_ENDS
from recon.settings import RunSettings
from tests.support import ExactFrontEnd

class Aborting(ExactFrontEnd):
    def reconstruct(self, chunk):
        return os.abort() if chunk.index == 1 else super().reconstruct(chunk)

FRONT_ENDS["sfm"] = Aborting
recon.pipeline.reconstruct(sys.argv[1], Path(sys.argv[2]), RunSettings(chunk=5, overlap=2))
"""


@pytest.fixture(autouse=True)
def front_end(monkeypatch: pytest.MonkeyPatch) -> type[ExactFrontEnd]:
    chosen = type("Chosen", (ExactFrontEnd,), {"ending": RuntimeError})
    monkeypatch.setitem(FRONT_ENDS, "sfm", chosen)
    return chosen


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(FRAMES):
        PillowImage.fromarray(render(placed_frame(index))).save(folder / f"{index:04d}.jpg")
    return folder


@pytest.mark.parametrize(
    ("moment", "kept", "error"),
    [("chunk 0", 0, RuntimeError), ("chunk 1", 5, MemoryError), ("chunk 2", 8, ValueError), ("refine", 10, KeyError)],
)
def test_a_run_that_ends_unexpectedly_can_be_exported_and_resumed(
    photos: Path, tmp_path: Path, front_end: Any, moment: str, kept: int, error: type[Exception]
) -> None:
    out = tmp_path / "out"
    front_end.interrupt, front_end.ending = moment, error
    with pytest.raises(UnexpectedError, match=rf"Unexpected error \({error.__name__}\).*--resume") as ended:
        reconstruct(str(photos), out, SETTINGS)
    assert isinstance(ended.value.__cause__, error)
    assert "in reconstruct" in (out / "error.txt").read_text()
    assert ("recon export" in str(ended.value)) == bool(kept)
    if kept:
        assert len(open_map(out).frames) == kept
        assert len(export(open_map(out), "tum", tmp_path / "poses.txt").read_text().splitlines()) == kept + 1
    front_end.interrupt = ""
    assert reconstruct(str(photos), out, AGAIN).frames_placed == FRAMES
    assert not (out / "error.txt").exists()
    assert not (out / ".lock").exists()


def test_an_aborting_library_leaves_its_stack_and_a_resumable_run(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", ABORTED, str(photos), str(out)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=300, check=False)
    assert ended.returncode == -signal.SIGABRT, ended.stderr
    assert "in reconstruct" in (out / "error.txt").read_text()
    assert len(open_map(out).frames) == 5
    assert reconstruct(str(photos), out, AGAIN).frames_placed == FRAMES
    assert sorted(path.name for path in out.iterdir()) == ["cloud.ply", "colmap", "map", "poses.txt", "report.json"]


def test_a_killed_run_says_that_it_knows_of_no_error(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = ABORTED.replace("os.abort()", "os.kill(os.getpid(), 9)")
    ended = subprocess.run([sys.executable, "-c", code, str(photos), str(out)], cwd=ROOT, timeout=300, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (out / "error.txt").read_text() == ENDED_FROM_OUTSIDE
    assert reconstruct(str(photos), out, AGAIN).frames_placed == FRAMES
    assert not (out / "error.txt").exists()


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def full_disk_explained(*_: object, **__: object) -> None:
    raise OutputError("Cannot write it: No space left on device. Free some space.")


def broken(*_: object) -> None:
    raise UnicodeEncodeError("utf-8", "\udcfc", 0, 1, "surrogates not allowed")


@pytest.mark.parametrize(
    ("writer", "fault", "missing", "target"),
    [
        ("trajectory.write_tum", broken, "poses.txt", "tum"),
        ("colmap.write_colmap", full, "colmap/sparse", "colmap"),
        ("ply.write_ply", full_disk_explained, "cloud.ply", "ply"),
    ],
)
def test_an_export_that_fails_leaves_the_others(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str, fault: Any, missing: str, target: Any
) -> None:
    """Even if an earlier run has left a file that does not belong to the new map."""
    out = tmp_path / "out"
    reconstruct(str(photos), out, SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(f"recon.exports.{writer}", fault)
        found = reconstruct(str(photos), out, AGAIN)
    assert len(found.unwritten) == 1
    assert found.unwritten[0].endswith(f"Write it with: recon export {out} --to {target}")
    assert found.unwritten[0] in found.notices
    assert found == report.read(out / "report.json")
    files = ("poses.txt", "colmap/sparse", "cloud.ply")
    assert [name for name in files if not (out / name).exists()] == [missing]
    assert open_map(out).complete
    export(open_map(out), target, out / missing.removesuffix("/sparse"))
    assert (out / missing).exists()


def test_a_report_that_cannot_be_written_loses_nothing_else(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = reconstruct(
        str(photos), out, SETTINGS, [lambda _: (out / "report.json").mkdir(parents=True, exist_ok=True)]
    )
    assert (found.frames_placed, len(found.unwritten)) == (FRAMES, 1)
    assert "report.json" in found.unwritten[0]
    assert (out / "cloud.ply").is_file()


def test_names_outside_the_folder_are_refused(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    reconstruct(str(photos), out, SETTINGS)
    path = out / "map" / "map.db"
    good = path.read_bytes()
    for name in ("../../etc/x.jpg", "/etc/x.jpg", "a/../../x.jpg", "..\\x.jpg", "", "..", "x\0"):
        change_ledger(out, "frames", lambda rows, name=name: rows[3].update(name=name))
        with pytest.raises(MapError, match=r"map\.db names an image .*not inside the run's folder"):
            open_map(out)
        path.write_bytes(good)
        change_ledger(out, "chunks", lambda rows, name=name: rows[0]["frames"][3].update(name=name))
        with pytest.raises(MapError, match=r"map\.db names an image .*not inside the run's folder"):
            reconstruct(str(photos), out, AGAIN)
        path.write_bytes(good)
    assert reconstruct(str(photos), out, AGAIN).frames_placed == FRAMES
