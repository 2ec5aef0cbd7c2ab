"""The run report: nothing is lost between writing and reading, and times and memory are real."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.core.errors import MapError
from recon.core.types import Camera, SkippedFrame
from recon.settings import RunSettings
from recon.sources import SourceOptions
from recon.store.report import ChunkReport, RunReport, StageTime, Stopwatch, main_versions, peak_memory, read, write

SETTINGS = RunSettings(
    source=SourceOptions(every=2, masks=Path("masks")),
    chunk=40,
    overlap=5,
    intrinsics=Camera("OPENCV", 640, 480, (500.0, 501.0, 320.0, 240.0, 0.1, 0.0, 0.0, 0.0)),
)
REPORT = RunReport(
    source="Straße/*.jpg",
    settings=SETTINGS,
    versions=main_versions(),
    frames_read=42,
    frames_placed=41,
    skipped=(SkippedFrame(3, "c.jpg", "the file is empty"),),
    chunks=(ChunkReport(0, 0, 78, 40, 40, 0.0, 3.5), ChunkReport(1, 70, 82, 7, 6, 0.01, 0.5, warnings=("blurred",))),
    stages=(StageTime("features", 1.25), StageTime("depth", 2.0)),
    seconds=4.5,
    peak_memory_bytes=123_456_789,
    notices=("Chunks are lowered to 40 frames.",),
    interrupted=False,
)


@pytest.mark.parametrize("settings", [RunSettings(), SETTINGS])
def test_report_survives_the_disk(tmp_path: Path, settings: RunSettings) -> None:
    report = replace(REPORT, settings=settings)
    write(report, tmp_path / "report.json")
    assert read(tmp_path / "report.json") == report


def test_report_file_states_its_version_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    write(REPORT, tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["version"] == 1
    assert content["source"] == "Straße/*.jpg"
    assert content["settings"]["source"]["masks"] == "masks"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"chunks"', '"blocks"'),
        lambda text: text.replace('"version": 1', '"version": 2'),
        lambda text: text.replace('"residual": 0.01,', ""),
    ],
)
def test_a_damaged_report_is_refused_by_name(tmp_path: Path, change) -> None:
    path = tmp_path / "report.json"
    write(REPORT, path)
    path.write_text(change(path.read_text()))
    with pytest.raises(MapError, match=r"report\.json"):
        read(path)


def test_a_missing_report_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(MapError, match=r"report\.json: No such file"):
        read(tmp_path / "report.json")


def test_stopwatch_adds_up_stages_in_the_order_they_first_came(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 3.0, 4.0, 4.0, 9.0, 10.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    watch = Stopwatch()
    for stage in ("read", "match", "read"):
        with watch.measure(stage):
            pass
    assert watch.stages == (StageTime("read", 7.0), StageTime("match", 1.0))
    assert watch.seconds == 10.0


def test_stopwatch_counts_a_stage_that_fails() -> None:
    watch = Stopwatch()
    with pytest.raises(ZeroDivisionError), watch.measure("match"):
        _ = 1 / 0
    assert [stage.name for stage in watch.stages] == ["match"]


def test_peak_memory_is_in_bytes_and_remembers() -> None:
    code = """
import numpy as np
from recon.store.report import peak_memory
before = peak_memory()
block = np.ones(400_000_000, dtype=np.uint8)
with_block = peak_memory()
del block
print(before, with_block, peak_memory())"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before, with_block, after = (int(number) for number in found.split())
    assert before > 20e6
    assert with_block - before == pytest.approx(400e6, rel=0.05)
    assert after == pytest.approx(with_block, rel=0.01)  # the system counts in batches of pages


def test_peak_memory_of_a_small_program_is_not_that_of_its_caller() -> None:
    block = np.ones(400_000_000, dtype=np.uint8)
    with _small_program() as child:
        outside = peak_memory(child.pid)
        child.communicate()
    assert 2e6 < outside < len(block) / 4
    assert peak_memory(child.pid) == 0


def test_without_proc_the_memory_is_asked_from_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", lambda _: False)
    assert peak_memory() > 1e4
    with _small_program() as child:
        assert 2e6 < peak_memory(child.pid) < 100e6
        child.communicate()
    assert peak_memory(child.pid) == 0


def _small_program() -> subprocess.Popen[bytes]:
    """A Python that runs, and waits until its input is closed."""
    code = "import sys; print('running', flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    return child


def test_versions_name_python_and_the_packages() -> None:
    versions = main_versions()
    assert versions["python"].startswith("3.")
    assert versions["numpy"] == np.__version__
