"""A lost process and Ctrl-C during the mapping of a chunk, in runs whose front end has a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from recon.core.workers import VARIABLE
from recon.mapping.alignment import fit_similarity
from recon.store import report
from recon.store.map import open_map
from tests.cli.conftest import Recon
from tests.support import SAMPLE, finished_chunks, half_size_sample

FRAMES = 12  # chunks 0-4, 3-7, 6-10, 9-11
OPTIONS = ("--chunk", "5", "--overlap", "2", "--intrinsics", "250,250,160,120", "--depth", "classical", "--no-loops")
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300.0


def disturbed(number: int, out: Path, finished: int, *arguments: str, worker: bool = False) -> tuple[int, str]:
    """Send a signal to a run, or to its worker, once chunks are ``finished``; the exit code, and what it said."""
    command = [sys.executable, "-m", "cli", "run", *arguments, *OPTIONS, "--viewer", "none"]
    environment = os.environ | {VARIABLE: "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + SECONDS
        while finished_chunks(out) < finished and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        workers = psutil.Process(run.pid).children()
        (workers[0] if worker else psutil.Process(run.pid)).send_signal(number)
        _, said = run.communicate(timeout=SECONDS)
    assert not [process for process in workers if process.is_running()]
    return run.returncode, said


def test_a_run_survives_the_loss_of_its_worker_and_ctrl_c(recon: Recon, tmp_path: Path) -> None:
    photos, out = half_size_sample(tmp_path / "in", FRAMES) / "images", tmp_path / "out"
    run = (str(photos), "--out", str(out))
    code, said = disturbed(signal.SIGKILL, out, 1, *run, worker=True)
    assert code == 2
    assert said.splitlines()[-1] == (
        "recon: The geometry process was killed (signal 9), probably because memory ran out. Nothing that was finished "
        f"is lost: continue with recon run SOURCE --out {out} --resume, or write what is finished with recon export "
        f"{out} --to ply."
    )
    assert 5 <= len(open_map(out).frames) < FRAMES

    code, said = disturbed(signal.SIGINT, out, 2, *run, "--resume")
    assert code == 130
    assert "Interrupted. Finished chunks are kept, and every file is complete." in said
    assert report.read(out / "report.json").interrupted
    assert 8 <= len(open_map(out).frames) == len(np.loadtxt(out / "poses.txt")) < FRAMES
    assert not list(out.rglob("*.part"))

    assert recon("run", *run, *OPTIONS, "--viewer", "none", "--resume").code == 0
    found = np.array([frame.world_from_cam.translation for frame in open_map(out).frames])
    truth = np.loadtxt(SAMPLE / "poses.txt")[:FRAMES, 1:4]
    error = fit_similarity(found, truth, np.ones(FRAMES)).apply(found) - truth
    assert np.linalg.norm(error, axis=1).max() < 0.02 * np.ptp(truth, axis=0).max()
