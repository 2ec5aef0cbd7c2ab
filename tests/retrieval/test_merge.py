"""Halves of a walk through the sample's room, mapped apart and merged, beside a map of a room that looks like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import open3d
import pytest
from scipy.spatial.transform import Rotation

from recon.core.errors import MapError, OutputError, SettingsError
from recon.core.metric import Metric
from recon.core.similarity import Sim3
from recon.core.types import SparsePoints
from recon.evaluate.check import check_folder
from recon.lab.synthetic.look_alikes import redecorated
from recon.mapping.joining import DEVIATIONS
from recon.store import report
from recon.store.map import MapStore, ReconstructedMap, move_map, open_map
from recon.store.merged import numbered
from retrieval import compare as comparing
from retrieval import meetings
from retrieval import merge as merging
from retrieval.compare import compare_maps
from retrieval.meetings import find_meetings
from retrieval.merge import Merged, merge, place_maps
from tests.retrieval.maps import MAP_FROM_ROOM, make_room_map, sample_frame, store_map, true_pose
from tests.retrieval.scenes import WIDTH

FIRST, SECOND = (0, 6, 12, 18), (6, 12, 18, 24)  # of the sample, with the same images in the middle
OTHER_FROM_ROOM = Sim3(0.7, Rotation.from_rotvec([0.2, 0.4, -1.0]).as_matrix(), np.array([3.0, 1, -2]))
CLOSE = 0.06  # map units; the cameras are 5 from what they see, and eight frames determine a lens to 1%


def sample_map(folder: Path, positions: Sequence[int], map_from_room: Sim3, bent: int = -1) -> ReconstructedMap:
    """bent: a position whose depth is wrong by up to a fifth, in waves from left to right."""
    frames = [sample_frame(position, map_from_room) for position in positions]
    bend = (1 + 0.2 * np.sin(np.linspace(0, 16 * np.pi, WIDTH))).astype(np.float32)
    frames = [replace(frame, depth=frame.depth * bend) if frame.index == bent else frame for frame in frames]
    return store_map(folder, frames, map_from_room)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two maps of the room, and one of another room."""
    folder = tmp_path_factory.mktemp("maps")
    sample_map(folder / "first", FIRST, MAP_FROM_ROOM)
    sample_map(folder / "second", SECOND, OTHER_FROM_ROOM, bent=SECOND[-1])
    make_room_map(folder / "foreign", FIRST[1:], scene=redecorated(1))
    return folder


@pytest.fixture(scope="module")
def merged(folder: Path) -> Merged:
    return merge([folder / "foreign", folder / "first", folder / "second"], folder / "merged")


def test_maps_that_meet_are_one_and_others_are_named(folder: Path, merged: Merged) -> None:
    assert merged.joined == (1, 2)
    assert merged.apart == (folder / "foreign",)
    assert merged.adjusted
    assert merged.unwritten == ()
    made = open_map(folder / "merged")
    assert [frame.name for frame in made.frames][2:5] == ["0012.png", "0018.png", "000025_0006.png"]
    assert [frame.index for frame in made.frames] == [*FIRST, *(19 + index for index in SECOND)]
    for frame, position in zip(made.frames, FIRST + SECOND, strict=True):
        error = true_pose(position).inverse() @ frame.world_from_cam
        assert np.linalg.norm(error.translation) < CLOSE
        assert Rotation.from_matrix(error.rotation).magnitude() < 0.01
    for frame, geometry in made.geometry():
        position = frame.index if frame.index in FIRST else frame.index - 19
        true = sample_frame(position, MAP_FROM_ROOM).depth
        sure = (true > 0) & (geometry.sure().depth > 0)
        ratio = frame.world_from_cam.scale * geometry.depth[sure] / true[sure]
        assert sure.mean() > 0.1
        assert np.median(ratio) == pytest.approx(1, abs=0.01)
        assert np.median(np.abs(ratio - 1)) < 0.01
    assert len(made.points.positions) > 200


def test_parts_of_a_video_meet_where_they_share_three_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie within one window, which lets one pair stand for all others."""
    maps = [
        make_room_map(tmp_path / "first", (3, 4, 5, 6), MAP_FROM_ROOM),
        make_room_map(tmp_path / "second", (4, 5, 6, 7), OTHER_FROM_ROOM),
    ]
    members = numbered([(one, Sim3.identity()) for one in maps])
    poses = place_maps(maps, find_meetings(members, lambda event: None))
    assert poses[1].isclose(MAP_FROM_ROOM @ OTHER_FROM_ROOM.inverse(), atol=0.1)
    monkeypatch.setattr(meetings, "SAME", 2.0)
    assert len(place_maps(maps, find_meetings(members, lambda event: None))) == 1


def test_the_merged_map_is_whole_and_says_where_it_comes_from(folder: Path, merged: Merged) -> None:
    assert check_folder(merged.folders[1].parent / "merged").ok
    found = report.read(folder / "merged" / "report.json")
    assert found.source == f"{folder / 'first'} + {folder / 'second'}"
    accepted = [line for line in found.loops if line.verdict == "accepted"]
    assert len(accepted) >= 3
    assert all((line.first, line.second) == (0, 1) for line in accepted)
    assert all(0 < line.after < DEVIATIONS for line in accepted)
    assert any(line.after != line.before for line in accepted)  # the joint adjustment moved them
    assert all(line.earlier in FIRST and line.frame - 19 in SECOND for line in found.loops)
    assert not (folder / "merged" / "map" / "features.db").exists()


def test_a_map_in_metres_is_the_world(folder: Path, tmp_path: Path, merged: Merged) -> None:
    first = sample_map(tmp_path / "first", FIRST, MAP_FROM_ROOM)
    second = sample_map(tmp_path / "second", SECOND, OTHER_FROM_ROOM)
    metres = OTHER_FROM_ROOM.inverse()
    move_map(second.folder, metres, Metric(4, 0.01))
    meetings = [meeting for meeting in merged.meetings if meeting.members == (1, 2)]
    rows = [replace(meeting, members=(0, 1)) for meeting in meetings]
    maps = [open_map(first.folder), open_map(second.folder)]
    poses = merging.place_maps(maps, rows)
    assert list(poses) == [1, 0]
    assert merging._Group.of(maps, poses, rows).metric == Metric(4, 0.01)


def test_maps_that_do_not_meet_are_not_merged(
    folder: Path, tmp_path: Path, merged: Merged, monkeypatch: pytest.MonkeyPatch
) -> None:
    meetings = [meeting for meeting in merged.meetings if meeting.members == (0, 1)]
    assert any("look different" in meeting.reason for meeting in meetings)  # although their geometry agrees
    monkeypatch.setattr(merging, "find_meetings", lambda members, tell: meetings)
    found = merge([folder / "foreign", folder / "first"], tmp_path / "out")
    assert found.joined == ()
    assert found.apart == (folder / "foreign", folder / "first")
    assert not (tmp_path / "out").exists()


def test_maps_of_one_place_are_compared_and_others_are_not(
    folder: Path, tmp_path: Path, merged: Merged, monkeypatch: pytest.MonkeyPatch
) -> None:
    def met(first: int, second: int) -> None:
        own = [replace(one, members=(0, 1)) for one in merged.meetings if one.members == (first, second)]
        monkeypatch.setattr(comparing, "find_meetings", lambda members, tell: own)

    met(1, 2)
    found = compare_maps(folder / "first", folder / "second", tmp_path / "out")
    assert found.comparison is not None
    assert found.comparison.changes == ()
    true = MAP_FROM_ROOM @ OTHER_FROM_ROOM.inverse()
    assert found.comparison.first_from_second.isclose(true, atol=0.05)
    assert not (tmp_path / "out" / comparing.PICTURE).exists()  # nothing to show
    assert len(open3d.io.read_point_cloud(tmp_path / "out" / comparing.CLOUD).points) > 10_000
    met(0, 1)
    assert compare_maps(folder / "foreign", folder / "first", tmp_path / "none").comparison is None
    assert not (tmp_path / "none").exists()
    with pytest.raises(SettingsError, match="two different maps"):
        compare_maps(folder / "first", folder / "first", tmp_path / "none")


def test_what_cannot_be_merged_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [folder / "first", folder / "second"]
    with pytest.raises(SettingsError, match="two or more different maps"):
        merge([folder / "first", folder / "first"], tmp_path / "out")
    with pytest.raises(OutputError, match="is not empty"):
        merge(pair, folder / "foreign")
    unfinished = sample_map(tmp_path / "unfinished", FIRST[:2], MAP_FROM_ROOM)
    MapStore(unfinished.folder).write_places(unfinished.frames, (), SparsePoints.empty(), complete=False)
    with pytest.raises(MapError, match="is not finished"):
        merge([folder / "first", unfinished.folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()
