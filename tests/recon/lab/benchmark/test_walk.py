"""The long walk's parts: the path, the drift, the geometry that odometry gives, and the table."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from recon.core.similarity import Sim3
from recon.core.types import Chunk, DepthMap, Image
from recon.lab.benchmark.walk import (
    DriftingCamera,
    Milestone,
    WalkResult,
    WalkSettings,
    drifting,
    long_walk,
    rmse,
    table,
    write_map,
)
from recon.mapping.placement import Placement
from recon.store.map import open_map

EXACT = WalkSettings(frames=120, laps=2, turn=0.0, scale=1.0)
DRIFTING = WalkSettings(frames=120, laps=2, turn=0.5, scale=1.01)


@pytest.fixture(scope="module", autouse=True)
def _rendered_once() -> Iterator[None]:
    """Cameras that drift differently see the same."""
    render = DriftingCamera._render
    known: dict[bytes, tuple[Image, DepthMap]] = {}

    def rendered(camera: DriftingCamera, index: int) -> tuple[Image, DepthMap]:
        pose = camera.world_from_cam[index].numpy().tobytes()
        if pose not in known:
            known[pose] = render(camera, index)
        return known[pose]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DriftingCamera, "_render", rendered)
        yield


def test_laps_pass_near_each_other_but_not_at_the_same_places() -> None:
    centres = long_walk(EXACT)[:, :3, 3]
    assert centres.shape == (120, 3)
    apart = (centres[:60] - centres[60:]).norm(dim=1)
    assert 0.02 < float(apart.mean()) < 0.5
    steps = centres.diff(dim=0).norm(dim=1)
    assert float(steps.max()) < 1.5 * float(steps.min())


def test_every_step_adds_the_same_error() -> None:
    true = long_walk(DRIFTING).numpy()
    found = drifting(true, DRIFTING)
    assert found[0].isclose(Sim3.from_matrix(true[0]))
    for index in (1, 40, 119):
        step = Sim3.from_matrix(true[index - 1]).inverse() @ Sim3.from_matrix(true[index])
        error = step.inverse() @ found[index - 1].inverse() @ found[index]
        assert error.scale == pytest.approx(1.01)
        assert np.degrees(np.arccos((np.trace(error.rotation) - 1) / 2)) == pytest.approx(0.5)
        assert found[index].scale == pytest.approx(1.01**index)


def chunks_of(settings: WalkSettings) -> tuple[DriftingCamera, list[Chunk]]:
    """The first eight frames, as two chunks that share two."""
    camera = DriftingCamera(settings)
    frames = tuple(islice(camera.frames(), 8))
    return camera, [Chunk(0, frames[:5], 0), Chunk(1, frames[3:], 2)]


@pytest.mark.parametrize(("settings", "low", "high"), [(EXACT, 0.0, 1e-4), (DRIFTING, 3e-3, 0.1)])
def test_chunks_in_separate_units_make_one_map(settings: WalkSettings, low: float, high: float) -> None:
    camera, chunks = chunks_of(settings)
    grown = Placement()
    for chunk in chunks:
        grown.place(chunk, camera.reconstruct(chunk))
    placed = list(grown.main.values())
    assert [frame.index for frame in placed] == list(range(8))
    assert low <= rmse(placed, camera.world_from_cam.numpy()) < high


def test_overlap_is_that_of_the_views() -> None:
    camera = DriftingCamera(EXACT)
    assert camera.overlap(0, 0) > 0.99
    assert camera.overlap(0, 1) > 0.5
    assert camera.overlap(0, 30) < 0.1  # the other way around


def test_the_table_shows_every_milestone() -> None:
    marks = (Milestone(1000, 0.5, 0.1, 812.3), Milestone(2000, 1.25, 0.125, 820.0))
    text = table(WalkResult(WalkSettings(), marks, 200, 60, 1, 99.5))
    assert "| 2,000 | 1.250 | 0.125 | 820 MB |" in text
    assert "60 loops of 200 candidates, 1 wrong; 100 s." in text


def test_a_map_of_the_walk_is_finished_and_true(tmp_path: Path) -> None:
    write_map(tmp_path, frames=9, laps=3)
    found = open_map(tmp_path)
    assert (len(found.frames), found.complete) == (9, True)
    lap = long_walk(WalkSettings(frames=3, laps=1)).numpy()
    assert rmse(found.frames, np.concatenate([lap, lap, lap])) < 1e-5
    assert sorted(path.name for path in found.images.iterdir()) == [frame.name for frame in found.frames]
    depths = [geometry.depth for _, geometry in found.geometry()]
    np.testing.assert_array_equal(depths[1], depths[7])
