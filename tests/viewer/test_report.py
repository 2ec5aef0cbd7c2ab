"""``report.html``: its verdict and warnings, its drawings, and that a browser needs nothing else to show it."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from recon.core.errors import MapError
from recon.core.places import LoopRecord
from recon.core.stopwatch import StageTime
from recon.core.types import SkippedFrame
from recon.exports.ply import read_points, write_ply
from recon.settings import RunSettings
from recon.store.map import ReconstructedMap
from recon.store.report import ChunkReport, RunReport, write
from tests.support import make_map
from viewer.report import write_report
from viewer.report.figures import bars_per_frame, is_gap, path_drawing
from viewer.report.findings import findings, verdict

GOOD = RunReport(
    source="walk <b>&",
    settings=RunSettings(),
    versions={"python": "3.11"},
    frames_read=6,
    frames_placed=6,
    skipped=(),
    chunks=(ChunkReport(0, 0, 4, 3, 3, 0.0, 1.0), ChunkReport(1, 6, 10, 3, 3, 0.01, 1.0)),
    stages=(StageTime("matching", 2.0, 3.0, 2), StageTime("mapping", 1.0, 1.0, 1)),
    seconds=3.0,
    peak_memory_bytes=10**9,
    notices=("The lens changed.",),
    interrupted=False,
    loops=(LoopRecord(10, 0, 0, 1, 0.9, 120, 0.001, 4.0, 0.5, "accepted", ""),),
    processor_seconds=4.0,
)
DOUBTFUL = replace(GOOD.chunks[1], warnings=("the scale jumps by 18% before frame 8",))


class Page(HTMLParser):
    """The elements of a page, what they link to, and their text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> ReconstructedMap:
    reconstruction = make_map(tmp_path_factory.mktemp("report"))
    write_ply(reconstruction, reconstruction.folder / "cloud.ply")
    return reconstruction


@pytest.fixture(scope="module")
def page(walk: ReconstructedMap) -> str:
    write(replace(GOOD, chunks=(GOOD.chunks[0], DOUBTFUL)), walk.folder / "report.json")
    return write_report(walk.folder).read_text()


def test_the_page_names_the_result_first_and_loads_nothing(page: str) -> None:
    shown = Page(page)
    assert "1 of 2 parts of this map is doubtful" in shown.text
    assert "Frames 6 to 10: the scale jumps by 18% before frame 8." in shown.text
    assert shown.text.index("doubtful") < shown.text.index("6 of 6") < shown.text.index("matching")
    assert "walk <b>&" in shown.text  # as text, not as an element
    assert "b" not in shown.tags
    assert shown.sources and all(source.startswith("data:image/jpeg;base64,") for source in shown.sources)
    assert "http" not in re.sub(r"http-equiv", "", page)
    assert len(page) < 5_000_000


def test_the_page_holds_the_cloud_and_the_path(page: str, walk: ReconstructedMap) -> None:
    stored = re.search(r'id="cloud-data">(.*?)</script>', page)
    assert stored
    data = json.loads(stored[1])
    positions = np.frombuffer(base64.b64decode(data["positions"]), "<u2").reshape(-1, 3) / 32767.5 - 1
    cloud = read_points(walk.folder / "cloud.ply")
    assert 0.97 * len(cloud.positions) < len(positions) <= len(cloud.positions)
    assert len(base64.b64decode(data["colours"])) == 3 * len(positions)
    path = np.array(data["path"])
    # A plane stays a plane, at the distance of the cameras in the same unit.
    normal = np.linalg.svd(positions - positions.mean(axis=0), full_matrices=False)[2][2]
    assert np.abs((positions - positions.mean(axis=0)) @ normal).max() < 2e-3
    gaps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    true = np.linalg.norm(np.diff([frame.world_from_cam.translation for frame in walk.frames], axis=0), axis=1)
    assert gaps / gaps.sum() == pytest.approx(true / true.sum(), abs=1e-3)


def test_a_map_without_a_cloud_has_a_page_too(walk: ReconstructedMap, tmp_path: Path) -> None:
    make_map(tmp_path)
    write(GOOD, tmp_path / "report.json")
    assert "There is no cloud.ply to show." in write_report(tmp_path).read_text()
    (tmp_path / "report.json").unlink()
    with pytest.raises(MapError):
        write_report(tmp_path)


def test_verdicts_and_their_order() -> None:
    lost = tuple(SkippedFrame(number, f"{number}.jpg", "no overlap", "unplaced") for number in range(3))
    few = replace(GOOD, frames_placed=3, skipped=lost)
    folded = replace(few, suspicions=("the path is folded",), unwritten=("cloud.ply is missing: disk full.",))
    assert verdict(GOOD) == ("good", "All 6 frames were placed")
    assert verdict(few) == ("partial", "Only 3 of 6 frames were placed")
    assert verdict(replace(GOOD, interrupted=True))[0] == "partial"
    assert verdict(GOOD, complete=False)[0] == "partial"
    assert verdict(folded)[0] == "doubtful"
    said = [one.text for one in findings(folded)]
    assert said[0] == "The path is folded."
    assert said[1].startswith("3 frames have no place, the first 0.jpg, the last 2.jpg: no overlap.")
    assert said[-1] == "cloud.ply is missing: disk full."
    assert not list(findings(GOOD))


def test_a_drawing_keeps_proportions_and_marks_doubt() -> None:
    drawn = path_drawing(np.array([[0.0, 0], [2, 0], [2, 1]]), [1], [(0, 2)], "path")
    lines = re.findall(r'class="path" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', drawn)
    (x0, y0, x1, y1), (_, _, x2, y2) = np.array(lines, dtype=float)
    assert (x1 - x0, y1 - y0) == (592, 0)
    assert (x2 - x1, y1 - y2) == (0, 296)  # up in the drawing is up in the map
    assert drawn.count('class="doubt"') == 2
    assert drawn.count('class="loop"') == 1
    assert 'r="5"' in path_drawing(np.zeros((1, 2)), [], [], "a single place")


def test_the_cameras_of_a_rig_do_not_hide_its_path() -> None:
    walk = np.repeat(np.column_stack([np.arange(20.0), np.zeros(20)]), 6, axis=0)
    assert not is_gap(walk).any()
    assert not is_gap(np.zeros((3, 2))).any()


def test_a_jump_to_another_source_is_no_part_of_the_path() -> None:
    walk = np.column_stack([np.arange(60.0), np.zeros(60)])
    places = np.concatenate([walk, walk + 500])
    assert np.flatnonzero(is_gap(places)).tolist() == [59]
    drawn = path_drawing(places, [], [], "path")
    assert (drawn.count('class="gap"'), drawn.count('class="path"')) == (1, 118)


def test_bars_show_the_least_of_neighbours() -> None:
    values = np.full(3000, 100.0)
    values[1500] = 1
    drawn = bars_per_frame(values, [1500], "points")
    heights = [float(height) for height in re.findall(r'height="([\d.]+)"/>', drawn)]
    assert len(heights) == 592
    assert sum(height < 2 for height in heights) == 1
    assert drawn.count("bar weak") == 1
