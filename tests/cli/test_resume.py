"""``recon run --resume`` as a user sees it: after SIGKILL, with another source, and for runs that cannot be resumed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from recon.mapping.alignment import fit_similarity
from recon.store.map import open_map
from tests.cli.conftest import SAMPLE, Outcome, Recon, make_images
from tests.support import finished_chunks

FRAMES = 7
OPTIONS = ("--size", "320", "--chunk", "5", "--overlap", "2", "--no-loops", "--viewer", "none")
SECONDS = 120.0


def part_of_sample(folder: Path, indices: range) -> Path:
    folder.mkdir()
    for index in indices:
        shutil.copy(SAMPLE / "images" / f"{index:06d}.jpg", folder)
    return folder


def kill_after_a_chunk(out: Path, *arguments: object) -> None:
    """Start ``recon ARGUMENTS`` in a separate process, and kill it once it has finished a chunk."""
    command = [sys.executable, "-m", "cli", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + SECONDS
        while not finished_chunks(out) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_run_resumes_and_another_source_follows(recon: Recon, tmp_path: Path) -> None:
    photos, out = part_of_sample(tmp_path / "photos", range(0, 3 * FRAMES, 3)), tmp_path / "out"
    kill_after_a_chunk(out, "run", photos, "--out", out, *OPTIONS)
    assert not (out / "poses.txt").exists()
    outcome = recon("run", photos, "--out", out, *OPTIONS, "--resume")
    assert outcome.code == 0, outcome.err
    assert f"{FRAMES}, 5 of them finished" in outcome.out
    assert f"{FRAMES} of {FRAMES} placed" in outcome.out
    assert f"Resuming the run in {out}: 5 frames are restored; the rest follows." in outcome.err
    assert recon("check", out).code == 0

    more = part_of_sample(tmp_path / "more", range(3 * FRAMES, 3 * FRAMES + 9, 3))
    outcome = recon("run", more, "--out", out, *OPTIONS, "--resume")
    assert outcome.code == 0, outcome.err
    assert f"{FRAMES + 3} of {FRAMES + 3} placed" in outcome.out
    assert recon("check", out).code == 0
    truth = np.loadtxt(SAMPLE / "poses.txt")[: 3 * FRAMES + 9 : 3, 1:4]
    found = np.array([frame.world_from_cam.translation for frame in open_map(out).frames])
    error = fit_similarity(found, truth, np.ones(FRAMES + 3)).apply(found) - truth
    assert np.linalg.norm(error, axis=1).max() < 0.01 * np.ptp(truth, axis=0).max()


def expect_refusal(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2
    assert outcome.err.startswith("recon: ")
    assert outcome.err.count("\n") == 1
    for word in words:
        assert word in outcome.err


def test_nothing_to_resume(recon: Recon, tmp_path: Path) -> None:
    photos = make_images(tmp_path / "photos")
    for out in (tmp_path / "none", photos):
        expect_refusal(recon("run", photos, "--out", out, "--resume"), "No run to resume in", "--resume")
    assert not (tmp_path / "none").exists()


def test_plan_reports_a_run_that_cannot_be_resumed(recon: Recon, tmp_path: Path) -> None:
    photos = make_images(tmp_path / "photos")
    expect_refusal(recon("plan", photos, "--out", tmp_path / "none", "--resume"), "No run to resume in")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


def test_contradictory_options(recon: Recon, tmp_path: Path) -> None:
    photos, out = make_images(tmp_path / "photos"), tmp_path / "out"
    expect_refusal(recon("run", photos, "--out", out, "--resume", "--overwrite"), "--resume", "--overwrite")
