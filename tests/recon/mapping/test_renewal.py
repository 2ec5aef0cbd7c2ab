"""Depth that a joint adjustment contradicts, computed again from the images of an exact map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image as PillowImage

from recon.core.events import Event, Progress
from recon.core.similarity import Array
from recon.core.types import FrameGeometry, SparseModel
from recon.mapping.correction import Renewed, correct, misfit
from recon.mapping.renewal import renew_depth
from recon.store.map import ReconstructedMap, frames_in, images_folder, open_map, read_arrays, rewrite_depth
from tests.support import make_map

WRONG = 4


@pytest.fixture
def made(tmp_path: Path) -> ReconstructedMap:
    return make_map(tmp_path)


def geometry_of(folder: Path, index: int) -> FrameGeometry:
    ((_, geometry),) = open_map(folder).geometry([index])
    return geometry


def bend(folder: Path, factors: Array) -> None:
    """Multiply the depth of one frame, column by column, as a wrong lens does; its intrinsics are wrong as well."""
    geometry = geometry_of(folder, WRONG)
    (path,) = [path for path in open_map(folder).submap_files if WRONG in frames_in(path)]
    wrong = np.diag([1.3, 1.3, 1.0]) @ geometry.intrinsics
    rewrite_depth(path, [replace(geometry, intrinsics=wrong, depth=(geometry.depth * factors).astype(np.float32))])


def renewed(folder: Path, frames: set[int]) -> tuple[Renewed, list[Event]]:
    told: list[Event] = []
    return renew_depth(folder, frames, "classical", told.append), told


def stale_frames(reconstruction: ReconstructedMap) -> frozenset[int]:
    poses = {frame.index: frame.cam_from_world for frame in reconstruction.frames}
    cameras = {frame.index: frame.camera for frame in reconstruction.frames}
    names = {frame.index: (frame.name, frame.timestamp) for frame in reconstruction.frames}
    return correct(reconstruction, SparseModel(poses, cameras, reconstruction.points), names).stale


def test_bent_depth_is_found_and_computed_again(made: ReconstructedMap) -> None:
    assert stale_frames(made) == frozenset()
    before = {frame.index: geometry_of(made.folder, frame.index) for frame in made.frames}
    bend(made.folder, np.linspace(0.6, 1.5, before[WRONG].depth.shape[1]))
    assert stale_frames(open_map(made.folder)) == {WRONG}
    found, told = renewed(made.folder, {WRONG})
    after = {frame.index: geometry_of(made.folder, frame.index) for frame in made.frames}
    for index in after.keys() - {WRONG}:
        assert_array_equal(after[index].depth, before[index].depth)
    np.testing.assert_allclose(after[WRONG].intrinsics, before[WRONG].intrinsics)
    both = (after[WRONG].depth > 0) & (before[WRONG].depth > 0)
    assert both.mean() > 0.5
    assert misfit(after[WRONG].depth[both], before[WRONG].depth[both]) < 0.01
    assert found.depths == {WRONG: pytest.approx(np.median(before[WRONG].depth[both]), rel=0.02)}
    assert stale_frames(open_map(made.folder)) == frozenset()
    assert told == [Progress("depth", 1, 1)]


def test_scale_jumps_are_judged_by_the_new_depth(made: ReconstructedMap) -> None:
    bend(made.folder, np.full(geometry_of(made.folder, WRONG).depth.shape[1], 1.4))
    found, _ = renewed(made.folder, {WRONG})
    (doubts,) = found.doubts.values()
    assert doubts.scale_jump < 0.02


def test_depth_that_fits_stays(made: ReconstructedMap) -> None:
    before = geometry_of(made.folder, WRONG)
    renewed(made.folder, {WRONG})
    assert_array_equal(geometry_of(made.folder, WRONG).depth, before.depth)


def test_useless_depth_is_dropped(made: ReconstructedMap) -> None:
    """No depth can be computed from an image of another place."""
    path = images_folder(made.folder) / f"image_{WRONG:04d}.jpg"
    path.write_bytes((images_folder(made.folder) / "image_0000.jpg").read_bytes())
    bend(made.folder, np.linspace(0.3, 3, geometry_of(made.folder, WRONG).depth.shape[1]))
    renewed(made.folder, {WRONG})
    after = geometry_of(made.folder, WRONG)
    assert not after.depth.any()
    assert not after.confidence.any()


def test_an_image_that_is_missing_or_has_changed_is_named(made: ReconstructedMap) -> None:
    bend(made.folder, np.linspace(0.6, 1.5, geometry_of(made.folder, WRONG).depth.shape[1]))
    before = geometry_of(made.folder, WRONG)
    path = images_folder(made.folder) / f"image_{WRONG:04d}.jpg"
    PillowImage.new("RGB", (50, 90)).save(path)
    assert renewed(made.folder, {WRONG})[0].unread == (f"{path} has changed",)
    path.unlink()
    (reason,) = renewed(made.folder, {WRONG})[0].unread
    assert reason.startswith(f"{path}: ")
    assert_array_equal(geometry_of(made.folder, WRONG).depth, before.depth)


def test_a_resumed_run_reads_the_intrinsics_of_the_new_depth(made: ReconstructedMap) -> None:
    bend(made.folder, np.linspace(0.6, 1.5, geometry_of(made.folder, WRONG).depth.shape[1]))
    renewed(made.folder, {WRONG})
    stored = {index: found for path in made.submap_files for index, found in read_arrays(path).items()}
    _, intrinsics = stored[WRONG]
    assert intrinsics is not None
    np.testing.assert_allclose(intrinsics[0, 0], 70)
