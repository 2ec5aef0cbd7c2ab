"""The program that kills commands: it ends them, and sees what is missing or different."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.core.similarity import Sim3
from recon.lab.benchmark import kills
from recon.lab.benchmark.kills import Lost, Trial, kill_commands, largest_difference
from recon.store.map import MapStore, open_map
from tests.support import make_map


def store(folder: Path, moved: Sim3, shift: float = 0.0, *, complete: bool = True) -> Path:
    """A map in another world, with its first camera shifted."""
    made = make_map(folder)
    frames = [replace(frame, world_from_cam=moved @ frame.world_from_cam) for frame in made.frames]
    pose = frames[0].world_from_cam
    frames[0] = replace(frames[0], world_from_cam=replace(pose, translation=pose.translation + np.array([shift, 0, 0])))
    MapStore(folder).write_places(tuple(frames), (), made.points, complete=complete)
    return folder


def test_maps_are_compared_after_alignment(tmp_path: Path) -> None:
    first = store(tmp_path / "first", Sim3(1.0, np.eye(3), np.zeros(3)))
    quarter_turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    same = store(tmp_path / "same", Sim3(3.0, quarter_turn, np.array([1.0, 2, 3])))
    assert largest_difference(same, first) < 1e-9
    extent = np.linalg.norm(np.ptp([f.world_from_cam.translation for f in open_map(first).frames], axis=0))
    bent = store(tmp_path / "bent", Sim3(1.0, np.eye(3), np.zeros(3)), 0.3 * float(extent))
    assert 0.05 < largest_difference(bent, first) < 0.3
    with pytest.raises(Lost, match="is not finished"):
        largest_difference(store(tmp_path / "part", Sim3(1.0, np.eye(3), np.zeros(3)), complete=False), first)


DAMAGES = """
import sys, time, pathlib
time.sleep(0.2)
if sys.argv[1] == "export":
    pathlib.Path(sys.argv[2], "cloud.ply").write_text(str(time.time()))
"""


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which maps have been made, by programs that are not compared."""
    monkeypatch.setattr("recon.lab.benchmark.kills.Trial._compare", lambda *_: None)
    for name in ("map", "other"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "cloud.ply").write_text("ply")
    (tmp_path / "images").mkdir()
    for number in range(60):
        (tmp_path / "images" / f"{number:02d}.jpg").write_text("")
    return tmp_path / "out"


def test_every_kill_counts(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "PROGRAM", ("-c", "import time; time.sleep(0.1)"))
    said: list[str] = []
    tally = kill_commands(out.parent / "images", out, 6, 0, said.append)
    assert tally.count == sum(tally.kills.values()) == 6
    assert tally.lost == []
    assert said[-1].startswith("6 kills (")


def test_what_is_lost_is_named(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "PROGRAM", ("-c", DAMAGES))
    trial = Trial(out.parent / "images", out, 0)
    with pytest.raises(Lost, match=r"a killed export has changed cloud\.ply"):
        trial.export(1)
    monkeypatch.setattr(kills, "PROGRAM", ("-c", "raise SystemExit(3)"))
    with pytest.raises(Lost, match="merge failed with exit code 3"):
        trial.merge(0)
