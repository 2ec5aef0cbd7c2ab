"""What ends or disturbs a run, as a user sees it: signals, other runs, names, faults, other programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import typer

from cli.ending import ended_by_signals
from recon.core.workers import VARIABLE
from recon.frontend import FRONT_ENDS
from recon.settings import RunSettings
from recon.sources import SourceOptions
from recon.store import report
from recon.store.journal import Journal
from recon.store.lock import sole_writer
from recon.store.map import MapStore, open_map
from tests.cases.robust import FRAMES, foreign, odd, renamed
from tests.cli.conftest import Recon, make_images
from tests.support import ExactFrontEnd, finished_chunks, half_size_sample, make_map

SMALL = ("--size", "320", "--depth", "classical", "--no-loops", "--viewer", "none")
ROOT = Path(__file__).resolve().parents[2]


def test_the_first_signal_stops_and_the_second_interrupts() -> None:
    stopped: list[int] = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as ended, ended_by_signals(lambda: stopped.append(1)):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped == [1]
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the second SIGTERM interrupts")
    assert ended.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


TERMINATED = """
import os, signal, typer
from cli.ending import ended_by_signals
try:
    with ended_by_signals():
        import pycolmap
        os.kill(os.getpid(), signal.SIGTERM)
except typer.Exit as ended:
    print(ended.exit_code)
"""


def test_pycolmap_leaves_the_sigterm_handler_alone() -> None:
    command = [sys.executable, "-c", TERMINATED]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "143\n", "")


def test_the_ctrl_c_handler_is_restored_and_an_ignored_signal_stays_ignored() -> None:
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        os.kill(os.getpid(), signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ended_by_signals() as ending:
            os.kill(os.getpid(), signal.SIGINT)
        assert ending.code == 130
    finally:
        signal.signal(signal.SIGINT, before)


def test_sigterm_ends_a_background_run_like_ctrl_c(tmp_path: Path) -> None:
    """With SIGINT ignored, as a shell starts a command that ends in an ampersand."""
    photos, out = half_size_sample(tmp_path / "in", 9) / "images", tmp_path / "out"
    options = (*SMALL, "--chunk", "5", "--overlap", "2")
    command = f"{sys.executable} -m cli run {photos} --out {out} {' '.join(options)} & echo $!; wait $!"
    with subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=ROOT,
        env=os.environ | {VARIABLE: "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as shell:
        assert shell.stdout is not None
        process, deadline = int(shell.stdout.readline()), time.monotonic() + 120
        while not finished_chunks(out) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process, signal.SIGTERM)
        _, said = shell.communicate(timeout=120)
    assert shell.returncode == 143, said
    assert "Interrupted. Finished chunks are kept, and every file is complete." in said
    found = report.read(out / "report.json")
    assert found.interrupted
    assert 5 <= found.frames_placed == len(open_map(out).frames) == len(np.loadtxt(out / "poses.txt"))
    assert not (out / ".lock").exists()


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_before_the_run_is_reported(
    recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, number: int, code: int
) -> None:
    monkeypatch.setattr("recon.plan.make_plan", lambda *_, **__: os.kill(os.getpid(), number))
    outcome = recon(command, make_images(tmp_path / "photos"), "--out", tmp_path / "out")
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err == "Ended before the run began: nothing was changed.\n"
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_finished_chunk_says_what_to_do(recon: Recon, tmp_path: Path) -> None:
    out = tmp_path / "my out"
    (out / "map").mkdir(parents=True)
    Journal.begin(out, "photos", RunSettings())
    for command in (("export", out, "--to", "tum"), ("check", out)):
        outcome = recon(*command)
        assert outcome.code == 2
        assert f"the first chunk was finished. Resume it with: recon run SOURCE --out '{out}' --resume" in outcome.err
    with sole_writer(out, "run"):
        outcome = recon("export", out, "--to", "tum")
    assert outcome.code == 2
    assert f"{out} contains no map yet: a run is writing to it (process {os.getpid()} on " in outcome.err
    assert not (out / "poses.txt").exists()


def test_checking_the_map_of_a_killed_run_says_how_to_resume(recon: Recon, tmp_path: Path) -> None:
    made = make_map(tmp_path)
    MapStore(tmp_path).write_places(made.frames, (), made.points, complete=False)
    outcome = recon("check", tmp_path)
    assert outcome.code == 1
    assert f"The run has not finished. Resume it with: recon run SOURCE --out {tmp_path} --resume\n" in outcome.out


@pytest.mark.parametrize(("to", "words"), [("mesh", "mesh/mesh.ply"), ("tum", "mesh/poses.txt")])
def test_an_output_path_that_is_a_folder_is_refused(recon: Recon, tmp_path: Path, to: str, words: str) -> None:
    make_map(tmp_path)
    (tmp_path / "mesh").mkdir()
    outcome = recon("export", tmp_path, "--to", to, "--out", tmp_path / "mesh")
    assert outcome.code == 2
    assert f"mesh is a folder, but --to {to} writes a file: --out {tmp_path}/{words}, say." in outcome.err
    outcome = recon("export", tmp_path, "--to", "mesh", "--out", tmp_path / "surface")
    assert outcome.code == 2
    assert f"A mesh file ends in .ply or .glb, got {tmp_path}/surface. Use --out {tmp_path}/surface.ply" in outcome.err
    outcome = recon("export", tmp_path, "--to", "ply", "--out", tmp_path / "points")
    assert outcome.code == 2
    assert f"A PLY file ends in .ply, got {tmp_path}/points. Use --out {tmp_path}/points.ply." in outcome.err


def test_a_second_run_is_refused_before_it_touches_anything(recon: Recon, tmp_path: Path) -> None:
    photos, out = make_images(tmp_path / "photos"), tmp_path / "out"
    (out / "map").mkdir(parents=True)
    Journal.begin(out, str(photos), RunSettings(SourceOptions(size=320), depth="classical"))
    before = (out / "map" / "map.db").read_bytes()
    for option in ("--overwrite", "--resume"):
        with sole_writer(out, "run"):
            outcome = recon("run", photos, "--out", out, *SMALL, option)
        assert outcome.code == 2
        assert f"recon: {out} is in use by another run (process {os.getpid()} on " in outcome.err
        assert [path.name for path in (out / "map").iterdir()] == ["map.db"]
        assert (out / "map" / "map.db").read_bytes() == before
        assert [path.name for path in out.iterdir()] == ["map"]


def test_unusual_names_are_the_same_in_every_file(recon: Recon, tmp_path: Path) -> None:
    made = renamed(tmp_path / "in", lambda number: foreign(number) if number % 3 == 1 else odd(number))
    out = tmp_path / "out"
    outcome = recon("run", made.source, "--out", out, *SMALL[:-2])
    assert outcome.code == 0, outcome.err
    assert f"{FRAMES} of {FRAMES} placed" in outcome.out
    names = [frame.name for frame in open_map(out).frames]
    assert all(one.isprintable() and " " not in one for one in names)
    assert sorted(path.name for path in (out / "colmap" / "images").iterdir()) == sorted(names)
    model = pycolmap.Reconstruction(out / "colmap" / "sparse" / "0")
    (tmp_path / "text").mkdir()
    model.write_text(tmp_path / "text")
    again = pycolmap.Reconstruction()
    again.read_text(tmp_path / "text")
    for read in (model, again):
        assert [read.images[number + 1].name for number in range(FRAMES)] == names
    assert recon("export", out, "--to", "nerfstudio").code == 0
    frames = json.loads((out / "nerfstudio" / "transforms.json").read_text(encoding="utf-8"))["frames"]
    assert [frame["file_path"] for frame in frames] == [f"images/{one}" for one in names]
    assert "%" in "".join(names)


class Faulty(ExactFrontEnd):
    interrupt, ending = "chunk 1", MemoryError


def test_an_unexpected_error_has_its_own_exit_code(
    recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FRONT_ENDS, "sfm", Faulty)
    photos, out = make_images(tmp_path / "photos", 7), tmp_path / "out"
    outcome = recon("run", photos, "--out", out, *SMALL, "--chunk", "5", "--overlap", "2")
    assert outcome.code == 3
    assert outcome.err.startswith(f"recon: Unexpected error (MemoryError), see {out}/error.txt. Nothing that was fin")
    assert outcome.err.count("\n") == 1
    assert "MemoryError" in (out / "error.txt").read_text()


def test_an_unwritten_file_has_its_own_exit_code(recon: Recon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FRONT_ENDS, "sfm", ExactFrontEnd)
    photos, out = make_images(tmp_path / "photos", 7), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("recon.exports.trajectory.write_tum", full)
        outcome = recon("run", photos, "--out", out, *SMALL)
    assert outcome.code == 1
    assert "note: poses.txt is missing: OSError: [Errno 28] No space left on device. Write it with" in outcome.err
    assert (out / "cloud.ply").is_file()
    assert recon("export", out, "--to", "tum").code == 0
    assert (out / "poses.txt").is_file()


LIBRARY = """
import pycolmap, sys
from pathlib import Path
import viewer
from recon.pipeline import reconstruct
from recon.settings import RunSettings
from recon.sources import SourceOptions
out = Path(sys.argv[2])
out.mkdir()
with viewer.record(out.parent / "run.rrd") as recording:
    settings = RunSettings(SourceOptions(size=320), depth="classical")
    print(reconstruct(sys.argv[1], out, settings, [recording]).frames_placed)
"""


def test_a_program_that_has_imported_pycolmap_first_gets_a_map_and_no_log_lines(tmp_path: Path) -> None:
    photos = half_size_sample(tmp_path / "in", 4) / "images"
    environment = {key: value for key, value in os.environ.items() if key != "GLOG_minloglevel"}
    ended = subprocess.run(
        [sys.executable, "-c", LIBRARY, str(photos), str(tmp_path / "out")],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "4\n", "")
    assert len(list(open_map(tmp_path / "out").geometry())) == 4
