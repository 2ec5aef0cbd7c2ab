"""The run report: nothing is lost between writing and reading, and times and memory are real."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.core.errors import MapError
from recon.core.stopwatch import StageTime
from recon.core.types import Camera, SkippedFrame
from recon.settings import RunSettings
from recon.sources import SourceOptions
from recon.store.report import ChunkReport, RunReport, main_versions, read, write

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
    stages=(StageTime("features", 1.25, 2.5, 3, 400), StageTime("depth", 2.0)),
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
    with pytest.raises(MapError, match=r"contains no map: .*map\.db is missing"):
        read(tmp_path / "report.json")


def test_versions_name_python_and_the_packages() -> None:
    versions = main_versions()
    assert versions["python"].startswith("3.")
    assert versions["numpy"] == np.__version__
