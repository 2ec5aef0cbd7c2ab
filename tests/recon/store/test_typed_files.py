"""A wrong type in any JSON file of a run is refused: the message names the file, the field, and the expected type."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recon.core.errors import MapError
from recon.core.refusal import Hindrance
from recon.core.similarity import Sim3
from recon.core.types import Chunk, ChunkGeometry, SkippedFrame, SparsePoints, Submap
from recon.settings import RunSettings
from recon.store import report
from recon.store.archive import save_arrays
from recon.store.finished import finished_world, keep_finished
from recon.store.journal import Journal
from recon.store.map import MapStore, open_map
from tests.recon.store.test_report import REPORT
from tests.support import chunk_geometry, frame_of, make_map, placed_frame

SKIPPED = SkippedFrame(9, "9.jpg", "is empty")


def resume(run: Path) -> Journal:
    return Journal.resume(run, "photos", RunSettings(), None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one chunk, with every JSON file that a run can have."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "map").mkdir()
    found = chunk_geometry(range(2), Sim3.identity())
    geometry = ChunkGeometry(
        found.frames, found.points, {2: Hindrance.STILL.unplaced}, {0: found.frames[0].cam_from_chunk}
    )
    chunk = Chunk(0, tuple(frame_of(index) for index in range(3)), 0)
    journal = Journal.begin(folder, "photos", RunSettings())
    store = MapStore(folder)
    store.write_submap(Submap(0, geometry, Sim3.identity(), 0.0), {0, 1})
    journal.write(chunk, geometry, {"lens": 1})
    frames = tuple(placed_frame(index) for index in range(2))
    store.write_places(frames, (SKIPPED,), SparsePoints.empty(), complete=True)
    keep_finished(folder, {frame.index: frame.world_from_cam for frame in frames})
    report.write(REPORT, folder / "report.json")
    return folder


def test_complete_files_are_restored(run: Path) -> None:
    (chunk,) = resume(run).finished
    assert chunk.memory == {"lens": 1}
    assert chunk.unplaced == {2: Hindrance.STILL.unplaced}
    assert [row.camera for row in chunk.placed] == [placed_frame(index).camera for index in range(2)]
    assert open_map(run).skipped == (SKIPPED,)
    assert finished_world(run).keys() == {0, 1}
    assert report.read(run / "report.json") == REPORT


@pytest.mark.parametrize(
    ("name", "way", "wrong", "read", "words"),
    [
        ("report.json", ("settings", "chunk"), "40", report.read, r"`int`, got `str` - at `settings\.chunk`"),
        ("report.json", ("settings", "source", "masks"), 3, report.read, r"expected `str`, got `int` - at .*\.masks`"),
        ("report.json", ("settings", "overlap"), 99, report.read, "damaged: --chunk must be larger than --overlap"),
        ("report.json", ("chunks", 1, "warnings"), "no", report.read, r"`array`.* `chunks\[1\]\.warnings`"),
        ("map/map.json", ("frames", 1, "index"), None, open_map, r"`int`, got `null` - at `frames\[.*\.index`"),
        ("map/map.json", ("cameras", 0, "model"), "FISH", open_map, r"value 'FISH' - at `cameras.*model`"),
        ("map/map.json", ("frames", 0, "camera"), 7, open_map, "IndexError"),
        ("map/run.json", ("parts", 0, "first"), "0", resume, r"got `str` - at `parts\[.*\.first`"),
        ("map/chunk_0000.json", ("placed", 0, "intrinsics"), 1, resume, r"`array`, got `int` - at `placed"),
        ("map/chunk_0000.json", ("unplaced", "2", "kind"), "odd", resume, r"value 'odd' - at `unplaced"),
        ("map/chunk_0000.json", ("revised",), [], resume, r"expected `object`, got `array` - at `revised`"),
        ("map/finished.json", ("1",), "here", finished_world, r"expected `array`, got `str` - at `\$\["),
        ("map/finished.json", ("1",), [[1.0, 2.0]], finished_world, "LinAlgError"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_refused_with_file_and_field(
    run: Path, name: str, way: tuple[str | int, ...], wrong: object, read: Callable[[Path], object], words: str
) -> None:
    path = run / name
    whole = path.read_text()
    content = place = json.loads(whole)
    for step in way[:-1]:
        place = place[step]
    place[way[-1]] = wrong
    path.write_text(json.dumps(content))
    try:
        with pytest.raises(MapError, match=words) as refused:
            read(path if name == "report.json" else run)
        assert str(refused.value).startswith(f"{path} is damaged")
    finally:
        path.write_text(whole)


@pytest.mark.parametrize(
    ("name", "way", "wrong", "read", "words"),
    [
        ("map/map.json", ("frames", 0, "camera"), -1, open_map, "frame 0 with camera -1 of 1"),
        ("map/map.json", ("frames", 0, "index"), -1, open_map, "frame -1 with camera 0 of 1"),
        ("map/map.json", ("frames", 0, "index"), 1, open_map, "it has a frame twice"),
        ("map/map.json", ("cameras", 0, "params"), [140.0], open_map, "4 parameters, got 160 x 120"),
        ("map/map.json", ("cameras", 0, "width"), 0, open_map, "needs a positive size"),
        ("map/map.json", ("frames", 0, "world_from_cam"), [[0.0] * 4] * 4, open_map, "positive scale"),
        ("map/run.json", ("parts", 0, "settings", "intrinsics"), {"model": "PINHOLE", "width": 9, "height": 9,
         "params": [1.0]}, resume, "a PINHOLE camera needs a positive size and 4 parameters"),
        ("map/chunk_0000.json", ("overlap",), -1, resume, "its frames are numbered wrongly"),
        ("map/chunk_0000.json", ("overlap",), 4, resume, "its frames are numbered wrongly"),
        ("map/chunk_0000.json", ("frames", 0, "index"), -1, resume, "its frames are numbered wrongly"),
        ("map/chunk_0000.json", ("frames", 0, "index"), 2, resume, "its frames are numbered wrongly"),
        ("map/chunk_0000.json", ("placed", 0, "index"), 9, resume, "its frames are numbered wrongly"),
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_refused(
    run: Path, name: str, way: tuple[str | int, ...], wrong: object, read: Callable[[Path], object], words: str
) -> None:
    test_a_wrong_type_is_refused_with_file_and_field(run, name, way, wrong, read, words)


@pytest.mark.parametrize(
    ("array", "change"),
    [
        ("point_ids", lambda ids: ids + 1000),
        ("point_ids", lambda ids: ids - 1000),
        ("point_ids", lambda ids: ids[:-1]),
        ("pixels", lambda pixels: pixels[:, :1]),
        ("colours", lambda colours: colours[1:]),
    ],
)
def test_points_that_do_not_fit_together_are_refused(
    tmp_path: Path, array: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    made = make_map(tmp_path)
    arrays = vars(made.points)
    path = tmp_path / "map" / "points.npz"
    with path.open("wb") as file:
        save_arrays(file, arrays | {array: change(arrays[array])})
    with pytest.raises(MapError, match=r"points\.npz is damaged: its arrays do not fit together"):
        open_map(tmp_path)
