"""The video of a benchmark of live runs, and what is said about a run."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from recon.core.bundled import sample_folder
from recon.core.errors import SourceError
from recon.core.tracked import TrackingReport
from recon.exports.trajectory import read_tum
from recon.lab.benchmark.live import LiveResult, LiveSettings, _Watch, film, table, there_and_back
from recon.lab.benchmark.programs import run_measured
from recon.lab.benchmark.sets import BenchmarkSet, Requirement
from recon.store.tracked import NAME

SAMPLE = BenchmarkSet("sample", sample_folder(), Requirement(), every=10)


def test_the_order_turns_at_both_ends() -> None:
    assert list(islice(there_and_back(4), 9)) == [0, 1, 2, 3, 2, 1, 0, 1, 2]


def test_the_video_and_its_poses_follow_the_order(tmp_path: Path) -> None:
    video, truth = tmp_path / "a.mp4", tmp_path / "a.txt"
    known = read_tum(sample_folder() / "poses.txt")
    several = len(range(0, len(known.timestamps), 10))
    count = several + 2
    assert film(SAMPLE, Path(), video, truth, LiveSettings(images=count, rate=5)) == count
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 5
    assert len(frames) == count
    assert np.abs(frames[-1].astype(float) - frames[several - 3]).mean() < 3  # seen again, backwards
    assert np.abs(frames[0].astype(float) - frames[several - 3]).mean() > 10
    poses = read_tum(truth)
    assert poses.timestamps.tolist() == list(range(count))
    rows = [10 * place for place in islice(there_and_back(several), count)]
    np.testing.assert_allclose(poses.world_from_cam, known.world_from_cam[rows], atol=1e-6)


def test_a_missing_set_is_named(tmp_path: Path) -> None:
    nowhere = BenchmarkSet("a", Path("nowhere"), Requirement())
    with pytest.raises(SourceError, match="nowhere/images has no images"):
        film(nowhere, Path(), tmp_path / "a.mp4", tmp_path / "a.txt", LiveSettings())


def test_the_capture_is_timed_and_its_memory_noted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    program = f"""import time
with open({str(folder / NAME)!r}, "a", buffering=1) as file:
    for _ in range(7):
        print(1, file=file)
        time.sleep(0.5)
time.sleep(3)
"""
    watch = _Watch(folder)
    assert run_measured(("-c", program), folder, watch).failure is None
    assert 1.5 <= watch.last - watch.first <= 5  # it looks once a second
    assert 1e6 < next(iter(watch.memory.values())) < 1e9


def test_a_result_is_a_column() -> None:
    said = TrackingReport(100, 10, 60, 20, 10, 15.0, 30.0, 24.0, 33, 52.0, 228.0, 20, 388.0, 1270.0, 1.0)
    one = LiveResult(
        name="room",
        images=100,
        video_seconds=10.0,
        capture_seconds=11.0,
        run_seconds=60.0,
        processor_seconds=90.0,
        memory={1: 10**9, 61: 2 * 10**9},
        tracking=said,
        skipped=4,
        in_map=50,
        pieces=2,
        poses_compared=45,
        ate_at_capture=0.1,
        keyframes_placed=30,
        frames_placed=95,
        ate=0.05,
        lag=(20.0, 30.0),
    )
    rows = [row.strip("| ").split(" | ") for row in table([one]).splitlines()]
    cells = {row[0]: row[1] for row in rows[2:]}
    assert cells["with a pose at capture"] == "80 (80.0%), first after 1.0 s"
    assert cells["in the finished map at capture, in pieces"] == "50, 30 in 2"
    assert cells["ATE after the end"] == "0.05 (95 images, 30 of them keyframes)"
    assert cells["memory"] == "2.00 GB after 1 min"
