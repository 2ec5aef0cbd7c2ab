"""The program that disturbs a fleet: it sees a map that is missing, differs, or should not be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from recon.fleet.store import FleetStore, Job, State
from recon.lab.benchmark import fleet
from recon.lab.benchmark.fleet import TORN, disturb_fleet
from recon.lab.benchmark.kills import Lost
from tests.support import make_map


def drive(store: FleetStore, jobs: list[Job], say: object) -> tuple[str, tuple[str, ...]]:
    for job in jobs:
        if job.name != TORN:
            make_map(store.map_of(job.name))
        state = State("failed", 1, sentence="It is no video.") if job.name == TORN else State("done", 1, 10)
        store.write_state(job.name, state)
    return "005", ("010",)


def test_a_fleet_is_compared_with_maps_made_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(60):
        (images / f"{number:02d}.jpg").touch()
    monkeypatch.setattr(fleet, "_drive", drive)

    def difference(job: Job, made: Path, alone: Path) -> float:
        assert len(list(Path(job.source).iterdir())) == 10
        return 1e-9

    monkeypatch.setattr(fleet, "_difference", difference)
    found = disturb_fleet(images, tmp_path / "good", print)
    assert (len(found.sources), found.killed, found.removed, found.faults) == (12, "005", ("010",), ())

    def worse(job: Job, made: Path, alone: Path) -> float:
        if job.name == "000":
            raise Lost("000 is not finished")
        return 0.5 if job.name == "005" else 0.0

    def drive_badly(store: FleetStore, jobs: list[Job], say: object) -> tuple[str, tuple[str, ...]]:
        make_map(store.map_of(TORN))
        drive(store, jobs, say)
        store.write_state(TORN, State("done", 1))
        return "", ()

    monkeypatch.setattr(fleet, "_difference", worse)
    monkeypatch.setattr(fleet, "_drive", drive_badly)
    faults = "; ".join(disturb_fleet(images, tmp_path / "bad", print).faults)
    for sentence in ("000 is not finished", "005 differs from the map made alone by 5.0e-01", "torn is not reported"):
        assert sentence in faults
    assert "the fleet ended before it was disturbed" in faults
    assert "the finished maps are not those of the sources" in faults
