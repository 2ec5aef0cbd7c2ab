"""Parts of a small exact map: a box, fewer frames, stretches of time, pieces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.core.box import Box
from recon.core.errors import MapError, OutputError, SettingsError
from recon.core.types import SparsePoints
from recon.evaluate.check import check_folder
from recon.mapping.joints import pieces
from recon.parts import crop, split
from recon.store import report
from recon.store.map import ReconstructedMap, open_map, rewrite_depth
from tests.support import PLANE_DEPTH, make_map

RIGHT = Box.of("0.5,-9,0 9,9,9")  # of the plane


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ReconstructedMap:
    """Two submaps, of frames 0 to 4 and 6 to 10; the depth of their middle ones is propagated."""
    found = make_map(tmp_path_factory.mktemp("maps") / "whole")
    for path, middle in zip(found.submap_files, (2, 8), strict=True):
        (_, geometry) = next(found.geometry({middle}))
        rewrite_depth(path, [replace(geometry, propagated=True)])
    return found


def test_a_box_holds_the_depth_and_points_in_it_and_is_a_sound_map(whole: ReconstructedMap, tmp_path: Path) -> None:
    part = crop(whole.folder, tmp_path / "part", RIGHT, keep_every=2)
    made = open_map(part.folder)
    assert (part.frames, part.unwritten) == (3, ())
    assert [frame.index for frame in made.frames] == [0, 4, 8]
    assert [frame.index for frame in made.between] == [2, 6, 10]  # they keep their poses
    assert [one.index for one in made.skipped] == [1]
    for frame, geometry in made.geometry():
        before = next(whole.geometry({frame.index}))[1]
        rows, columns = np.nonzero(before.depth)
        rays = np.column_stack([columns + 0.5, rows + 0.5, np.ones(len(rows))]) @ np.linalg.inv(before.intrinsics).T
        x = frame.world_from_cam.apply(rays * before.depth[rows, columns, None])[:, 0]
        kept = geometry.depth[rows, columns]
        assert np.array_equal(kept > 0, x >= 0.5)
        assert np.array_equal(kept[kept > 0], before.depth[rows, columns][x >= 0.5])
        assert np.array_equal(geometry.colour, before.colour)
        assert not geometry.propagated  # what it repeated may be gone
    assert made.points.positions[:, 0].min() >= 0.5
    assert np.bincount(made.points.point_ids).min() >= 2
    assert [item.sentence for item in check_folder(part.folder).items if not item.ok] == []
    assert report.read(part.folder / "report.json").source == str(whole.folder)


def test_what_is_no_part_is_refused(whole: ReconstructedMap, tmp_path: Path) -> None:
    for text in ("0,0,0", "0,0,0 1,1", "0,0,0 1,1,x", "0,0,0 0,1,1"):
        with pytest.raises(SettingsError, match="two opposite corners"):
            Box.of(text)
    with pytest.raises(SettingsError, match="needs --box, or --keep-every"):
        crop(whole.folder, tmp_path / "part", None)
    with pytest.raises(SettingsError, match="--keep-every must be at least 1, got 0"):
        crop(whole.folder, tmp_path / "part", None, 0)
    with pytest.raises(MapError, match=r'5% of its depth in the box.* the cameras lie in "-1,'):
        crop(whole.folder, tmp_path / "part", Box.of("50,0,0 51,1,1"))
    with pytest.raises(OutputError, match="is not empty"):
        crop(whole.folder, whole.folder, RIGHT)
    with pytest.raises(SettingsError, match="is in one piece"):
        split(whole.folder, tmp_path / "part", ())
    with pytest.raises(SettingsError, match=r"no frame between 7 and the end: .* from 0 to 0\.5"):
        split(whole.folder, tmp_path / "part", (7.0,))
    assert not (tmp_path / "part").exists()


def test_a_split_by_time_gives_the_frames_before_and_after(whole: ReconstructedMap, tmp_path: Path) -> None:
    parts = split(whole.folder, tmp_path / "parts", (0.15,))
    made = [open_map(part.folder) for part in parts]
    assert [part.folder.name for part in parts] == ["part_1", "part_2"]
    assert [[frame.index for frame in one.frames] for one in made] == [[0, 2], [4, 6, 8, 10]]
    propagated = [[geometry.propagated for _, geometry in one.geometry()] for one in made]
    assert propagated == [[False, False], [False, False, True, False]]  # where all frames of the submap remain
    assert [len(one.submap_files) for one in made] == [1, 2]
    for one in made:
        assert set(one.points.frame_indices.tolist()) <= {frame.index for frame in one.frames}
        assert np.allclose(one.points.positions[:, 2], PLANE_DEPTH)


def test_pieces_are_frames_that_share_points(whole: ReconstructedMap) -> None:
    def second_half(frames: np.ndarray) -> np.ndarray:
        return frames > 5

    points = whole.points
    apart = replace(points, point_ids=points.point_ids + len(points.positions) * second_half(points.frame_indices))
    apart = replace(apart, positions=np.tile(points.positions, (2, 1)), colours=np.tile(points.colours, (2, 1)))
    assert [[frame.index for frame in piece] for piece in pieces(whole.frames, apart)] == [[0, 2, 4], [6, 8, 10]]
    assert pieces(whole.frames, SparsePoints.empty()) == [list(whole.frames)]
