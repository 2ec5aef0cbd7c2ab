"""What ``recon fleet`` says of lists, options and stores that cannot work; tests/recon/fleet tests what it does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recon.fleet.store import FleetStore, Job, State
from recon.fleet.uploads import Uploads
from tests.cases.videos import Track, write_video
from tests.cli.conftest import Recon
from tests.retrieval.fleet.http import Client

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "a").mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(tmp_path / "photos" / "a" / "0.png")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--sise 640", "cannot work: No such option: --sise"),
        ("--help", "cannot work: No such option: --help"),
        ("--size big", "cannot work: Invalid value for '--size': Input should be a valid integer"),
        ("--depth flat", "Invalid value for '--depth': 'flat' is not one of 'filled', 'classical'. See recon run"),
        ("--resume", "cannot include --resume: recon fleet run sets it"),
        ("--masks 'a", "--options cannot be read"),
    ],
)
def test_options_that_cannot_work_are_refused_first(
    recon: Recon, photos: Path, tmp_path: Path, options: str, sentence: str
) -> None:
    outcome = recon("fleet", "run", str(photos), "--out", str(tmp_path / "store"), "--options", options)
    assert outcome.code == 2
    assert sentence in outcome.err
    assert not (tmp_path / "store").exists()


def test_without_ray_a_sentence_says_what_to_install(
    recon: Recon, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "recon.fleet.ray_cluster", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = recon("fleet", "run", str(photos), "--out", str(tmp_path / "store"))
    assert outcome.code == 2
    assert "The Python package ray is not installed. Install it with: pip install '.[fleet]'" in outcome.err
    assert not (tmp_path / "store").exists()


def test_the_status_lists_every_map_with_its_sentence(recon: Recon, tmp_path: Path) -> None:
    assert "is no store of a fleet" in recon("fleet", "status", str(tmp_path)).err
    store = FleetStore(tmp_path)
    store.extend([Job(name, "run", name) for name in ("done", "failed", "lost")])
    store.write_state("done", State("done", 1, frames=30, seconds=10.0))
    store.write_state("failed", State("failed", 1, sentence="It is blank."))
    store.write_state("lost", State("running", 1, host="there", seen=1.0))
    outcome = recon("fleet", "status", str(tmp_path))
    assert outcome.code == 0
    lines = [line.split() for line in outcome.out.splitlines()]
    assert lines[:3] == [
        ["done", "done", "30", "frames", "3.0", "frames/s"],
        ["failed", "failed", "0", "frames", "It", "is", "blank."],
        ["lost", "lost", "0", "frames", "on", "there"],
    ]
    assert outcome.out.splitlines()[3].startswith("3 maps: 1 done, 0 running, 0 waiting, 1 lost, 1 failed. 30 frames")


def test_nothing_is_merged_or_located_without_maps(recon: Recon, photos: Path, tmp_path: Path) -> None:
    FleetStore(tmp_path).extend([Job("a", "run", "a")])
    assert "has no finished map yet" in recon("fleet", "merge", str(tmp_path)).err
    outcome = recon("fleet", "locate", str(tmp_path), str(photos / "a" / "0.png"))
    assert outcome.code == 2
    assert "no place store yet. Make it: recon fleet merge" in outcome.err


def test_maps_are_deleted_by_name(recon: Recon, tmp_path: Path) -> None:
    store = FleetStore(tmp_path)
    store.extend([Job(name, "run", name) for name in ("a", "b", "c")])
    store.write_state("a", State("failed", 1, sentence="It is blank."))
    refused = recon("fleet", "delete", str(tmp_path), "a", "d")
    assert (refused.code, len(store.jobs())) == (2, 3)
    assert f"{tmp_path} has no map d. recon fleet status {tmp_path} lists all." in refused.err
    outcome = recon("fleet", "delete", str(tmp_path), "a", "b")
    assert (outcome.code, outcome.out) == (0, "Deleted a, b. 0 finished maps are left.\n")
    assert store.jobs() == (Job("c", "run", "c"),)
    assert "is no store of a fleet" in recon("fleet", "delete", str(tmp_path / "none"), "a").err
    assert not (tmp_path / "none").exists()


def test_a_server_ends_with_sigterm_and_loses_nothing(tmp_path: Path) -> None:
    """The whole program: Ray maps a video that was sent, until it is told to end."""
    folder = tmp_path / "store"
    command = [sys.executable, "-m", "cli", "fleet", "serve", str(folder), "--port", "0", "--options", "--size 320"]
    pictures = [np.full((48, 64, 3), 2 * number, np.uint8) for number in range(100)]
    video = write_video(tmp_path / "walk.mp4", Track(pictures)).read_bytes()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout
        program.stdout.readline()
        url = program.stdout.readline().split("/docs")[0]
        client = Client(url, (folder / "token").read_text())
        assert client.ask("PUT", "/videos/walk.mp4", video)[0] == 201
        while client.ask("GET", "/maps/walk")[1]["phase"] == "waiting":
            time.sleep(0.1)
        program.send_signal(signal.SIGTERM)
        _, said = program.communicate(timeout=60)
    assert program.returncode == 143
    assert said.startswith("Interrupted. Finished chunks are kept; the same command continues")
    store = FleetStore(folder)
    assert (store.state("walk").phase, store.state("walk").attempts) == ("waiting", 0)
    assert Uploads(store).jobs == (Job("walk", "run", str(folder / "uploads" / "walk.mp4"), ("--size", "320")),)
