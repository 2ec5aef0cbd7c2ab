"""A map of version 3, as the program before the ledger wrote it: unfinished, and extending a finished one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recon.core.errors import MapError
from recon.core.metric import Metric
from recon.core.refusal import Hindrance
from recon.core.similarity import Sim3
from recon.core.types import SkippedFrame
from recon.store.finished import finished_world
from recon.store.journal import FrameRecord, read_journal
from recon.store.ledger import Ledger
from recon.store.map import move_map, open_map, stored_metric
from recon.store.summary import summarise
from tests.recon.store.test_map import CAMERA, POINTS, WIDE_CAMERA, placed

JSON = {"map.json", "run.json", "chunk_0000.json", "chunk_0001.json", "finished.json"}
IDENTITY = Sim3.identity()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Path(__file__).with_name("version_3"), tmp_path / "run"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "map").iterdir()}


def expect_complete(folder: Path) -> None:
    """Assert that nothing of the map is missing."""
    found = open_map(folder)
    assert [(frame.index, frame.camera) for frame in found.frames] == [
        (3, CAMERA),
        (4, CAMERA),
        (7, CAMERA),
        (8, WIDE_CAMERA),
    ]
    assert [frame.index for frame in found.between] == [5]
    for frame in found.posed:
        was = placed(frame.index, frame.camera)
        assert (frame.name, frame.timestamp) == (was.name, was.timestamp)
        assert frame.world_from_cam.isclose(was.world_from_cam, atol=1e-12)
    assert found.skipped == (
        SkippedFrame(6, "6.jpg", "the file is empty"),
        SkippedFrame(9, "9.jpg", "little new", "passed"),
    )
    assert np.array_equal(found.points.positions, POINTS.positions)
    assert [geometry.index for _, geometry in found.geometry()] == [3, 4, 7, 8]
    assert not found.complete
    assert stored_metric(folder) == Metric(3, 0.01, (1.0, 2.0, 3.0))
    assert sorted(finished_world(folder)) == [3, 4]
    journal = read_journal(folder)
    assert [(part.source, part.settings.chunk) for part in journal.parts] == [("/photos", 3)]
    assert [sorted(frame.index for frame in chunk.frames) for chunk in journal.finished] == [[3, 4, 7], [7, 8]]
    assert journal.frames[8] == FrameRecord(8, 8 / 30, "000008.jpg", (800, 480), "lens", 0.0, "ab" * 16)
    assert journal.finished[0].unplaced == {7: Hindrance.STILL.unplaced}
    assert journal.finished[0].memory == {"context": {"3": [[1.0, 0, 0, 0]]}}
    assert journal.finished[1].revised == {3: np.eye(4).tolist()}
    summary = summarise(folder)
    assert (summary.mapped, summary.between, summary.unplaced) == (4, 1, {"unreadable": 1, "passed": 1})
    assert [frames for _, frames in summary.lenses] == [4, 1]
    assert summary.sources == ("/photos",)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_reader_opens_it_and_changes_nothing(old: Path, version: int) -> None:
    change(old, "map.json", lambda rows: rows.update(version=version))
    before = content(old)
    expect_complete(old)
    assert content(old) == before


def test_the_first_writer_converts_it(old: Path) -> None:
    move_map(old, IDENTITY, stored_metric(old))
    assert sorted(content(old)) == ["map.db", "points.npz", "submap_0000.npz", "submap_0001.npz"]
    expect_complete(old)
    files = Ledger(old).files()
    assert list(files) == ["submap_0000", "submap_0001", "points"]
    assert {file.crc32 for file in files.values()} == {None}


@pytest.mark.parametrize("moment", ["_create", "_require_ours"])
def test_a_kill_leaves_the_old_map_or_the_new_one(old: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    before = content(old)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, moment, killed)
        if moment == "_require_ours":
            patched.setattr("recon.store.legacy.discard", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            move_map(old, IDENTITY, None)
    after = content(old)
    assert (after == before) == (moment == "_create")
    assert after.keys() >= JSON
    expect_complete(old)
    move_map(old, IDENTITY, stored_metric(old))
    assert not JSON & content(old).keys()
    expect_complete(old)


def test_a_run_of_version_1_is_not_resumed_or_converted(old: Path) -> None:
    for name in ("run.json", "chunk_0000.json", "chunk_0001.json"):
        change(old, name, lambda rows: rows.update(version=1))
    with pytest.raises(MapError, match=r"chunk_0000\.json has version 1, this program reads 2\. Rebuild the map"):
        read_journal(old)
    assert summarise(old).sources == ("/photos",)
    move_map(old, IDENTITY, None)
    assert len(open_map(old).frames) == 4
    assert not Ledger(old).has("parts")


def test_maps_of_early_builds_identify_passed_frames_by_their_reason(old: Path) -> None:
    reasons = ("was passed over as it shows little new, and the map has no points to place it by", "the file is empty")
    rows = [{"index": number, "name": f"{number}.jpg", "reason": reason} for number, reason in enumerate(reasons)]
    change(old, "map.json", lambda places: places.update(skipped=rows))
    assert [frame.kind for frame in open_map(old).skipped] == ["passed", "unplaced"]


def change(folder: Path, name: str, how: Callable[[Any], object]) -> None:
    path = folder / "map" / name
    found = json.loads(path.read_text())
    how(found)
    path.write_text(json.dumps(found))


@pytest.mark.parametrize("keep", [0, 1, 40, 400])
@pytest.mark.parametrize(
    ("name", "read"),
    [("map.json", open_map), ("run.json", read_journal), ("chunk_0001.json", read_journal)],
)
def test_a_truncated_file_is_named(old: Path, name: str, read: Callable[[Path], object], keep: int) -> None:
    path = old / "map" / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(MapError, match=rf"{name} is damaged"):
        read(old)
    before = content(old)
    with pytest.raises(MapError, match=rf"{name} is damaged"):  # nothing that is damaged is converted
        move_map(old, IDENTITY, None)
    assert content(old) == before


@pytest.mark.parametrize(
    ("name", "how", "read", "words"),
    [
        ("map.json", lambda rows: rows.update(version=4), open_map, "has version 4, this program reads 3"),
        ("map.json", lambda rows: rows.update(frames=5), open_map, "is damaged"),
        ("map.json", lambda rows: rows.update(frames=[{"index": 0}]), open_map, "is damaged"),
        ("map.json", lambda rows: rows.update(complete=None), open_map, r"`int`, got `str` - at `map\[0\]\.complete`"),
        ("map.json", lambda rows: rows.update(cameras=[]), open_map, "frame 3 with camera 0 of 0"),
        ("map.json", lambda rows: rows["frames"][0].update(camera=-1), open_map, "frame 3 with camera -1 of 2"),
        ("map.json", lambda rows: rows["frames"][0].update(index=4), open_map, "it has a frame twice"),
        ("map.json", lambda rows: rows["frames"][1].update(index=None), open_map, r"got `null` - at `frames\[1\]\.ind"),
        ("map.json", lambda rows: rows["frames"][1].update(name="../x"), open_map, "not inside the run's folder"),
        ("map.json", lambda rows: rows.update(skipped=[{"nonsense": 1}]), open_map, "is damaged"),
        ("run.json", lambda rows: rows["parts"][0].update(first="0"), read_journal, r"got `str` - at `parts\[0\]\.fir"),
        ("chunk_0000.json", lambda rows: rows.update(overlap=-1), read_journal, "numbered wrongly"),
        ("finished.json", lambda rows: rows.update({"3": "here"}), finished_world, r"got `str` - at `earlier\[0\]"),
    ],
)
def test_a_wrong_value_is_named(
    old: Path, name: str, how: Callable[[Any], object], read: Callable[[Path], object], words: str
) -> None:
    change(old, name, how)
    with pytest.raises(MapError, match=words) as refused:
        read(old)
    assert str(refused.value).startswith(f"{old}/map/")


def test_a_missing_chunk_is_named(old: Path) -> None:
    (old / "map" / "chunk_0000.json").unlink()
    with pytest.raises(MapError, match=r"chunk_0000\.json is missing, although later chunks are finished"):
        read_journal(old)


def test_paths_need_not_be_valid_utf8(old: Path) -> None:
    Ledger(old).replace("parts", [{"first": 0, "start": 0.0, "source": "\udcff", "settings": {}}])
    assert [part.source for part in read_journal(old).parts] == ["\udcff"]
