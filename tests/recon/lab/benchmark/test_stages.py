"""The table and plot of stages: sorted by processor time, with every figure of the report, readable as an image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recon.core.errors import MapError
from recon.core.stopwatch import StageTime
from recon.lab.benchmark.stages import measure, table, write_results
from recon.store.report import write
from tests.recon.store.test_report import REPORT

STAGES = (
    StageTime("read", 4.0, 1.0, 12, 100_000_000),
    StageTime("matching", 5.0, 6.0, 3, 250_000_000),
    StageTime("other", 1.0, 1.0, 0, 300_000_000),
)
RUN = replace(
    REPORT,
    stages=STAGES,
    seconds=10.0,
    processor_seconds=8.0,
    peak_memory_bytes=300_000_000,
    frames_read=3,
    passed_over=1,
)


def test_the_table_of_a_finished_run_has_its_figures_longest_first(tmp_path: Path) -> None:
    write(RUN, tmp_path / "report.json")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table(measure(str(tmp_path), tmp_path)).splitlines()
    ]
    assert rows[2:] == [
        ["matching", "6.0", "75%", "1500", "5.0", "3", "250"],
        ["read", "1.0", "12%", "250", "4.0", "12", "100"],
        ["other", "1.0", "12%", "250", "1.0", "", "300"],
        ["whole run", "8.0", "100%", "2000", "10.0", "", "300"],
    ]


def test_the_plot_is_an_image_with_bars(tmp_path: Path) -> None:
    write_results(RUN, tmp_path)
    assert (tmp_path / "stages.md").read_text() == table(RUN)
    pixels = np.asarray(Image.open(tmp_path / "stages.png").convert("RGB")).reshape(-1, 3)
    for colour in ((0x9E, 0xC5, 0xE8), (0x1F, 0x4E, 0x79)):
        assert (pixels == colour).all(axis=1).sum() > 1000


def test_a_source_without_a_run_is_run_first_and_a_failed_run_is_reported(tmp_path: Path) -> None:
    with pytest.raises(MapError, match=r"out/run does not exist"):
        measure(str(tmp_path / "none"), tmp_path / "out")
    assert "none" in (tmp_path / "out" / "run.log").read_text()
