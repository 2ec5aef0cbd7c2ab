"""A rig of two cameras gives a map in the unit of its file, and COLMAP reads the rig from the export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from recon.core.refusal import Hindrance
from recon.core.similarity import Sim3
from recon.exports.colmap import colmap_model
from recon.pipeline import reconstruct
from recon.settings import RunSettings
from recon.sfm.database import MatchDatabase
from recon.sfm.evidence import find_hindrance
from recon.sfm.matching import SiftMatcher
from recon.sources import SourceOptions, open_source
from recon.store.map import ReconstructedMap, open_map
from tests.panoramas import walk
from tests.rigs import cam_from_rig, write_colmap_config, write_rig

POSES = walk(9)[:6]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_rig(tmp_path_factory.mktemp("stereo") / "images", POSES)
    write_colmap_config(folder / "rig_config.json")
    return folder


@pytest.fixture(scope="module")
def stereo(images: Path) -> ReconstructedMap:
    settings = RunSettings(SourceOptions(rig=images / "rig_config.json"), depth="classical", quality="fast")
    report = reconstruct(images, images.parent / "out", settings)
    assert report.frames_placed == 2 * len(POSES) and not report.suspicions
    assert any("unit of the rig file" in notice for notice in report.notices)
    return open_map(images.parent / "out")


def test_the_map_has_the_unit_of_the_rig(stereo: ReconstructedMap) -> None:
    turn, start = POSES[0]  # the world has the axes of the first camera, here those of the rig
    for frame in stereo.frames:
        rotation, centre = POSES[frame.index // 2]
        rig_from_cam = np.linalg.inv(cam_from_rig()[frame.index % 2])
        true = turn.T @ (centre + rotation @ rig_from_cam[:3, 3] - start)
        assert np.linalg.norm(frame.world_from_cam.translation - true) < 0.01  # of 1.9 m
        between = frame.cam_from_world[:3, :3] @ turn.T @ rotation @ rig_from_cam[:3, :3]
        assert np.degrees(np.arccos(min(1.0, (np.trace(between) - 1) / 2))) < 0.3


def test_colmap_reads_the_rig(stereo: ReconstructedMap) -> None:
    model = pycolmap.Reconstruction(stereo.folder / "colmap" / "sparse" / "0")
    (rig,) = model.rigs.values()
    ((_, pose),) = rig.non_ref_sensors.items()
    assert pose is not None and np.allclose(pose.matrix(), cam_from_rig()[1][:3], atol=1e-6)
    assert [len(model.frames[number].data_ids) for number in sorted(model.frames)] == [2] * len(POSES)
    for frame in stereo.frames:
        image = model.image(frame.index + 1)
        assert image.name == frame.name
        assert np.allclose(image.cam_from_world().matrix(), frame.cam_from_world[:3], atol=1e-6)
    assert model.compute_mean_reprojection_error() < 0.5


def test_cameras_that_see_nothing_in_common_are_refused(images: Path, tmp_path: Path) -> None:
    source = open_source(str(images), SourceOptions(rig=images / "rig_config.json", max_frames=2))
    database = MatchDatabase(tmp_path / "features.db", SiftMatcher(max_features=200), "PINHOLE", None)
    for candidate in source.candidates():
        database.add(candidate.frame)  # type: ignore[union-attr]
    assert database.shots.within(database.frames) == [(0, 1), (2, 3)]
    assert find_hindrance(database, database.frames, None) == Hindrance.RIG
    database.match(database.shots.within(database.frames))
    assert find_hindrance(database, database.frames, None) != Hindrance.RIG
    assert database.shots.to_begin_with(database.frames, database.inliers).keys() in ({0, 1}, {2, 3})
    database.close()


def test_a_shot_that_does_not_lie_as_the_rig_says_is_no_shot_of_it(stereo: ReconstructedMap) -> None:
    frame = stereo.frames[3]
    pose = frame.world_from_cam
    moved = replace(frame, world_from_cam=Sim3(pose.scale, pose.rotation, pose.translation + 0.01))
    model = colmap_model(replace(stereo, frames=(*stereo.frames[:3], moved, *stereo.frames[4:])))
    assert sorted(len(one.data_ids) for one in model.frames.values()) == [1, 1, 2, 2, 2, 2, 2]
    assert np.allclose(model.image(moved.index + 1).cam_from_world().matrix(), moved.cam_from_world[:3])
