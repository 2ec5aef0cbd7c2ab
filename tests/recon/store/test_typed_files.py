"""A value of a wrong type in the ledger or report of a run is refused, with the file, the field and the right type."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from recon.store.ledger import Table
from recon.store.map import MapStore, open_map
from tests.recon.store.test_report import REPORT
from tests.support import change_ledger, chunk_geometry, frame_of, make_map, placed_frame

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
    keep_finished(store.ledger, {frame.index: frame.world_from_cam for frame in frames})
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
    ("way", "wrong", "words"),
    [
        (("settings", "chunk"), "40", r"`int`, got `str` - at `settings\.chunk`"),
        (("settings", "source", "masks"), 3, r"expected `str`, got `int` - at .*\.masks`"),
        (("settings", "overlap"), 99, "damaged: --chunk must be larger than --overlap"),
        (("chunks", 1, "warnings"), "no", r"`array`.* `chunks\[1\]\.warnings`"),
    ],
)
def test_a_wrong_type_in_the_report_is_refused(
    run: Path, tmp_path: Path, way: tuple[str | int, ...], wrong: object, words: str
) -> None:
    path = tmp_path / "report.json"
    content = json.loads((run / "report.json").read_text())
    put(content, way, wrong)
    path.write_text(json.dumps(content))
    with pytest.raises(MapError, match=words) as refused:
        report.read(path)
    assert str(refused.value).startswith(f"{path} is damaged")


def put(content: Any, way: tuple[str | int, ...], value: object) -> None:
    for step in way[:-1]:
        content = content[step]
    content[way[-1]] = value


@pytest.mark.parametrize(
    ("table", "way", "wrong", "read", "words"),
    [
        ("map", (0, "complete"), 2, open_map, r"invalid enum value 2 - at `map\[.*\.complete`"),
        ("map", (0, "metric"), {"observations": "3"}, open_map, r"`int`, got `str` - at `map\[.*metric"),
        ("map", (0, "world_from_points"), [[1.0]], open_map, "IndexError"),
        ("frames", (1, "timestamp"), "soon", open_map, r"`float`, got `str` - at `frames\[.*\.timestamp`"),
        ("frames", (1, "name"), None, open_map, r"`str`, got `null` - at `frames\[.*\.name`"),
        ("frames", (0, "index"), -1, open_map, "frame -1"),
        ("frames", (0, "mapped"), 2, open_map, r"invalid enum value 2 - at `frames"),
        ("frames", (0, "camera", "model"), "FISH", open_map, r"value 'FISH' - at `frames\[.*\.camera.*model`"),
        ("frames", (0, "camera", "params"), [140.0], open_map, "4 parameters, got 160 x 120"),
        ("frames", (0, "camera", "width"), 0, open_map, "needs a positive size"),
        ("frames", (0, "world_from_cam"), [[0.0] * 4] * 4, open_map, "positive scale"),
        ("skipped", (0, "kind"), "odd", open_map, r"value 'odd' - at `skipped\[.*\.kind`"),
        ("parts", (0, "start"), "0:00", resume, r"got `str` - at `parts\[.*\.start`"),
        ("parts", (0, "settings", "intrinsics"), {"model": "PINHOLE", "width": 9, "height": 9, "params": [1.0]},
         resume, "a PINHOLE camera needs a positive size and 4 parameters"),
        ("chunks", (0, "placed", 0, "intrinsics"), 1, resume, r"`array`, got `int` - at `chunks\[.*placed"),
        ("chunks", (0, "unplaced", "2", "kind"), "odd", resume, r"value 'odd' - at `chunks\[.*unplaced"),
        ("chunks", (0, "revised"), [], resume, r"expected `object`, got `array` - at `chunks\[.*revised`"),
        ("chunks", (0, "number"), 1, resume, "lacks chunk 0, although later chunks are finished"),
        ("chunks", (0, "overlap"), -1, resume, "the frames of chunk 0 are numbered wrongly"),
        ("chunks", (0, "overlap"), 4, resume, "are numbered wrongly"),
        ("chunks", (0, "frames", 0, "index"), -1, resume, "are numbered wrongly"),
        ("chunks", (0, "frames", 0, "index"), 2, resume, "are numbered wrongly"),
        ("chunks", (0, "placed", 0, "index"), 9, resume, "are numbered wrongly"),
        ("earlier", (1, "world_from_cam"), "here", finished_world, r"expected `array`, got `str` - at `earlier\["),
        ("earlier", (1, "world_from_cam"), [[1.0, 2.0]], finished_world, "LinAlgError"),
        ("files", (0, "bytes"), "many", open_map, r"`int`, got `str` - at `files\[.*\.bytes`"),
        ("files", (0, "name"), "../points.npz", open_map, "names a file '../points.npz', which is not beside it"),
    ],
)  # fmt: skip
def test_a_wrong_value_in_the_ledger_is_refused(
    run: Path,
    table: Table,
    way: tuple[str | int, ...],
    wrong: object,
    read: Callable[[Path], object],
    words: str,
) -> None:
    path = run / "map" / "map.db"
    whole = path.read_bytes()
    change_ledger(run, table, lambda rows: put(rows, way, wrong))
    try:
        with pytest.raises(MapError, match=words) as refused:
            read(run)
        assert str(refused.value).startswith(f"{path} ")
    finally:
        path.write_bytes(whole)


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
