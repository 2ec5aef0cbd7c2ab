"""``recon info`` on a small exact map."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recon.core.metric import Metric
from recon.core.types import SparsePoints
from recon.store.map import MapStore
from tests.cli.conftest import Recon
from tests.support import OPENCV, RADIAL, change_ledger, make_map

LIGHT = """
import sys
from cli.main import main
try:
    main(["info", sys.argv[1]])
except SystemExit as end:
    assert not end.code
assert not {"numpy", "cv2", "scipy", "pycolmap", "cli.run"} & set(sys.modules)
"""


def test_a_map_at_a_glance(recon: Recon, tmp_path: Path) -> None:
    made = make_map(tmp_path / "run", cameras=(RADIAL, OPENCV))
    report = {
        "version": 1,
        "source": "photos",
        "settings": {"network": {"weights": "VGGT-1B"}, "matcher": "sift"},
        "loops": [{"verdict": "accepted"}, {"verdict": "rejected"}],
        "chunks": [{"first": 0, "last": 4, "warnings": ["blurred"]}, {"first": 5, "last": 9}],
    }
    (tmp_path / "run" / "report.json").write_text(json.dumps(report))
    found = json.loads(recon("info", tmp_path / "run", "--json").out)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert found["bytes_all"] == sum(path.stat().st_size for path in files)
    assert 0 < found["bytes_map"] < found["bytes_all"]
    assert found["extent"][0] == pytest.approx(2.0)  # six cameras, 0.4 apart
    assert found["lenses"][1] == [vars(OPENCV) | {"params": list(OPENCV.params)}, 3]
    assert (found["mapped"], found["between"], found["unplaced"]) == (6, 0, {"unreadable": 1})
    assert (found["sources"], found["made_by"], found["loops"]) == (["photos"], "network VGGT-1B", [1, 2])
    assert (found["metric"], found["doubts"]) == (None, ["frames 0 to 4: blurred"])
    outcome = recon("info", tmp_path / "run")
    assert "  scale     the map's own unit; recon scale gives it metres\n" in outcome.out
    MapStore(tmp_path / "run").write_places(
        made.frames, made.skipped, SparsePoints.empty(), complete=True, metric=Metric(3, 0.0123)
    )
    outcome = recon("info", tmp_path / "run")
    assert "  scale     metres (error 0.0123 m, by 3 known lengths or positions)\n" in outcome.out
    assert " m, of the camera centres" in outcome.out


def test_neither_a_heavy_package_nor_another_command_is_imported(tmp_path: Path) -> None:
    make_map(tmp_path)
    ended = subprocess.run([sys.executable, "-c", LIGHT, tmp_path], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_what_is_no_map_or_damaged_is_named(recon: Recon, tmp_path: Path) -> None:
    outcome = recon("info", tmp_path / "nothing")
    assert (outcome.code, outcome.err) == (2, f"recon: {tmp_path}/nothing does not exist. Give the folder of a run.\n")
    make_map(tmp_path / "run")
    change_ledger(tmp_path / "run", "map", lambda rows: rows[0].update(complete="yes"))
    outcome = recon("info", tmp_path / "run")
    assert (outcome.code, outcome.out) == (2, "")
    expected = "map/map.db is damaged: expected `int`, got `str` - at `map[0].complete`"
    assert outcome.err.startswith(f"recon: {tmp_path}/run/{expected}")
