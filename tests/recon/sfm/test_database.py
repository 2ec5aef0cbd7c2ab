"""The database of a killed run, opened again."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recon.core.errors import MapError, OutputError
from recon.core.types import Camera
from recon.sfm.colmap_file import image_id
from recon.sfm.database import MatchDatabase
from recon.sfm.lens_table import LensState
from recon.sfm.matching import SiftMatcher
from tests.recon.sfm.conftest import read_frame

FINISHED = [0, 1, 2]
PAIRS = list(combinations(FINISHED, 2))


def opened(path: Path, finished: list[int]) -> MatchDatabase:
    return MatchDatabase(path, SiftMatcher(), "SIMPLE_RADIAL", None, finished)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[int, int], int], LensState]:
    """Files of a run that was killed in its second chunk, and the inliers and lenses after the first."""
    folder = tmp_path_factory.mktemp("killed")
    database = opened(folder / "features.db", [])
    for index in FINISHED:
        database.add(read_frame(index))
    database.match(PAIRS)
    inliers, lenses = {pair: database.inliers(*pair) for pair in PAIRS}, database.lenses.state
    # The second chunk: a new frame with matches that are not all verified, another lens, a deleted pair.
    database.add(read_frame(3))
    database.match([(2, 3)])
    database._database.write_matches(image_id(1), image_id(3), np.zeros((20, 2), np.uint32))
    database.lenses.update({0: Camera("SIMPLE_RADIAL", 640, 480, (321.0, 320.0, 240.0, 0.1))})
    database.forget((0, 1))
    shutil.copytree(folder, folder / "left")  # with SQLite's own journal, as after a kill
    database.close()
    return folder / "left", inliers, lenses


@pytest.fixture
def path(left: tuple[Path, dict, LensState], tmp_path: Path) -> Path:
    shutil.copytree(left[0], tmp_path / "map")
    return tmp_path / "map" / "features.db"


def test_the_database_is_restored_to_the_last_finished_frame(path: Path, left: tuple[Path, dict, LensState]) -> None:
    _, inliers, lenses = left
    assert path.with_name("features.db-wal").is_file()
    database = opened(path, FINISHED)
    for index in FINISHED:
        database.add(read_frame(index))
    database.lenses.restore(replace(lenses, lens_of={}))
    assert database.frames == FINISHED
    assert database.lenses.state == lenses
    assert {pair: database.inliers(*pair) for pair in PAIRS if pair != (0, 1)} == {
        pair: count for pair, count in inliers.items() if pair != (0, 1)
    }
    assert [database.matched(pair) for pair in ((0, 1), (2, 3), (1, 3))] == [False, False, False]
    database.add(read_frame(3))
    database.match([(0, 1), (2, 3), (1, 3)])
    assert database.inliers(0, 1) == inliers[0, 1]
    assert min(database.inliers(2, 3), database.inliers(1, 3)) > 100
    assert database.pixel_scale(FINISHED) == 1
    database.close()


def test_what_was_matched_later_is_forgotten(path: Path) -> None:
    """As in a joint adjustment that is repeated: one pair was matched later, one had too few matches before."""
    database = opened(path, FINISHED)
    for index in FINISHED:
        database.add(read_frame(index))
    before = database.tried()
    assert set(before) == {(0, 2), (1, 2)}
    database.match([(0, 1)])
    later = database.inliers(0, 1)
    database.restore_tried({(0, 2): 0, (1, 2): before[1, 2]})
    assert database.tried() == {(0, 2): 0, (1, 2): before[1, 2]}
    assert database.verified_pairs(FINISHED) == [(1, 2)]
    database.restore_tried({(1, 2): before[1, 2]})
    database.match([(0, 1), (0, 2)])
    assert database.tried() == before | {(0, 1): later}
    database.restore_tried({(0, 1): 5, (0, 2): 5, (2, 3): 5})  # (2, 3) is missing, so it may be matched again
    assert database.tried() == {(0, 1): later, (0, 2): before[0, 2]}
    database.close()


@pytest.mark.parametrize("enough", [1, 10_000])
def test_tracked_features_are_matched_alone_where_there_are_enough(
    path: Path, enough: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recon.sfm.database.ENOUGH_TRACKED", enough)
    database = opened(path, FINISHED)
    for index in [*FINISHED, 3]:
        database.add(read_frame(index))
    database.match([(2, 3)])
    before = database.times_matched([0, 1, 2, 3])
    database.match([(1, 3)], tracked=[0, 1, 2, 3])
    rows = database.verified_matches((1, 3))
    alone = [np.all(before[index][found] > 0) for index, found in zip((1, 3), rows.T, strict=True)]
    assert len(rows) > 100
    assert alone == [enough == 1, enough == 1]
    assert list(database.times_matched([1, 3])[3][rows[:, 1]]) == [1] * len(rows)
    database.close()


def test_a_new_run_ignores_the_features_of_a_killed_one(path: Path) -> None:
    path.unlink()
    database = opened(path, [])
    assert database.frames == []
    database.add(read_frame(0))
    assert not database.matched((0, 1))
    database.close()


def test_a_missing_or_damaged_file_is_named(path: Path) -> None:
    with pytest.raises(MapError, match="lacks the features of 1 frame\\."):
        opened(path, [*FINISHED, 9])
    content = bytearray(path.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(MapError, match="is damaged"):
        opened(path, FINISHED)
    path.unlink()
    with pytest.raises(MapError, match=r"features.db is missing.*--overwrite"):
        opened(path, FINISHED)


def test_a_calibration_starts_only_if_its_disk_has_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = opened(tmp_path / "features.db", [])
    database.add(replace(read_frame(0), focal=0.0))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    with pytest.raises(OutputError, match=rf"{re.escape(str(database.path))}: 0\.1 MB are free, 0\.\d MB are needed"):
        database.lenses.calibrate(database.path)
    database.close()
