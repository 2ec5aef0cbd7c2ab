"""``recon report A B``: what differs between two runs, in the terminal and as a page."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cli.main import main
from recon.core.similarity import Sim3
from recon.evaluate.runs import compare_runs
from recon.settings import RunSettings
from recon.sources import SourceOptions
from recon.store.map import move_map
from recon.store.report import write
from tests.support import make_map
from tests.viewer.test_report import GOOD


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and another of the same images with other settings, in a world of twice the unit."""
    folder = tmp_path_factory.mktemp("runs")
    first, second = (make_map(folder / name).folder for name in ("one", "two"))
    move_map(second, Sim3(2.0, np.eye(3)[[1, 2, 0]], np.ones(3)), None)
    write(GOOD, first / "report.json")
    settings = RunSettings(SourceOptions(size=400), depth="classical")
    write(replace(GOOD, settings=settings, frames_placed=5, suspicions=("it folds",)), second / "report.json")
    return first, second


def test_what_differs_is_listed(runs: tuple[Path, Path]) -> None:
    rows, sentence = compare_runs(*runs)
    table = {row[0].strip(): row[1:] for row in rows}
    assert table["source.size"] == (str(SourceOptions().size), "400")
    assert table["depth"] == ("filled", "classical")
    assert "chunk" not in table and "source" not in table
    assert table["placed"] == ("6 of 6", "5 of 6")
    assert table["doubts"] == ("none", "it folds")
    assert table["matching"] == ("3.0 s", "3.0 s")
    assert sentence.startswith("6 images by name have a pose in both. After the best similarity, of scale 0.5, ")
    assert "lie 0.000% of the extent of the first run apart" in sentence


def test_the_command_prints_and_writes_it(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, runs), "--out", str(tmp_path / "both.html")])
    assert not ended.value.code
    said = capsys.readouterr().out
    assert re.search(r"^placed +6 of 6 +5 of 6$", said, flags=re.MULTILINE)
    page = (tmp_path / "both.html").read_text()
    assert "<td>placed</td><td>6 of 6</td><td>5 of 6</td>" in page and "http" not in page
    assert not (runs[0] / "report.html").exists()
    with pytest.raises(SystemExit) as ended:
        main(["report", str(runs[0]), "--out", str(tmp_path / "page.html")])
    assert ended.value.code == 2
    before = (runs[0] / "report.json").read_bytes()
    for name in ("report.json", "report.html"):
        with pytest.raises(SystemExit) as ended:
            main(["report", *map(str, runs), "--out", str(runs[0] / name)])
        assert ended.value.code == 2
    assert (runs[0] / "report.json").read_bytes() == before


def test_runs_of_other_images_have_no_common_poses(runs: tuple[Path, Path], tmp_path: Path) -> None:
    made = make_map(tmp_path, scales=(1.0, 1.0))
    write(replace(GOOD, source="elsewhere"), tmp_path / "report.json")
    rows, sentence = compare_runs(runs[0], made.folder)
    assert rows[0] == ("source", "walk <b>&", "elsewhere")
    assert sentence.startswith("The poses cannot be compared: the runs share 2 images by name")
