"""As many lenses as the images suggest: zooms of the sample at half its size, through the front end."""

import json
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from recon.core.events import Event, Notice
from recon.core.types import Chunk, ChunkGeometry, Frame
from recon.depth.views import Depth, PosedView
from recon.mapping.alignment import fit_similarity
from recon.sfm.database import MatchDatabase
from recon.sfm.frontend import SfmSettings, StructureFromMotion
from recon.sources.base import Cameras
from tests.cases.case import picture, sample_truth
from tests.cases.lenses import zoomed
from tests.recon.sfm.conftest import SIFT

FOCAL = 250.0
ZOOM = 1.5
FRAMES = 13
CHUNKS = (range(10), range(5, FRAMES))


class FlatDepth:
    def depth(self, views: list[PosedView], solved: Mapping[int, Depth]) -> list[Depth]:
        ones = [np.ones(view.mask.shape, np.float32) for view in views]
        return [Depth(one, one) for one in ones]


def factor(index: int) -> float:
    return ZOOM if index % 2 else 1.0


def read_frame(index: int, zoom: float | None = None, lens: str = "320x240") -> Frame:
    image = zoomed(picture(index), factor(index) if zoom is None else zoom)
    image = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), (320, 240), interpolation=cv2.INTER_AREA)
    pixels = np.asarray(image, dtype=np.uint8)
    return Frame(index, float(index), pixels, f"{index}.jpg", (320, 240), lens, 0.0, np.ones((240, 320), bool))


def settings(cameras: Cameras = "auto") -> SfmSettings:
    return SfmSettings(depth_stage=FlatDepth(), depth_size=64, cameras=cameras, matcher=SIFT)


def ate(poses: Mapping[int, np.ndarray]) -> float:
    truth = sample_truth(range(FRAMES))
    found = np.array([np.linalg.inv(pose)[:3, 3] for pose in poses.values()])
    wanted = np.array([truth[index][:3, 3] for index in poses])
    aligned = fit_similarity(found, wanted, np.ones(len(found))).apply(found)
    return float(np.sqrt(((aligned - wanted) ** 2).sum(axis=1).mean()))


def chunk_of(number: int) -> Chunk:
    return Chunk(number, tuple(read_frame(index) for index in CHUNKS[number]), 0 if number == 0 else 5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ChunkGeometry], dict, list[Event]]:
    """Two chunks, the first recalled by another process, and the memory after the second."""
    folder, events = tmp_path_factory.mktemp("zoom"), list[Event]()
    first = StructureFromMotion(folder, settings(), events.append)
    geometry, memory = first.reconstruct(chunk_of(0)), json.loads(json.dumps(first.memory()))
    first.close()
    second = StructureFromMotion(folder, settings(), events.append, list(CHUNKS[0]))
    second.recall(chunk_of(0), geometry, memory)
    more = second.reconstruct(chunk_of(1))
    after = json.loads(json.dumps(second.memory()))
    second.close()
    return folder, [geometry, more], after, events


def test_zooming_every_second_image_gives_two_lenses(
    run: tuple[Path, list[ChunkGeometry], dict, list[Event]],
) -> None:
    _, (first, _), _, events = run
    assert [frame.index for frame in first.frames] == list(CHUNKS[0])
    for frame in first.frames:
        assert frame.camera.params[0] == pytest.approx(FOCAL * factor(frame.index), rel=0.02)
    assert ate({frame.index: frame.cam_from_chunk for frame in first.frames}) < 0.02
    assert Notice("Chunk 1: one lens does not fit all images of the same size; several are estimated.") in events


def test_the_next_chunk_uses_the_same_lenses(run: tuple[Path, list[ChunkGeometry], dict, list[Event]]) -> None:
    _, (_, second), memory, _ = run
    assert [frame.index for frame in second.frames] == list(CHUNKS[1])
    assert len(set(memory["lens_of"].values())) == 2
    for frame in second.frames:
        assert frame.camera.params[0] == pytest.approx(FOCAL * factor(frame.index), rel=0.02)
    assert ate({frame.index: frame.cam_from_chunk for frame in second.frames}) < 0.02


def test_the_lens_of_every_image_is_in_the_database(
    run: tuple[Path, list[ChunkGeometry], dict, list[Event]],
) -> None:
    folder, _, memory, _ = run
    database = MatchDatabase(folder / "features.db", SIFT, "SIMPLE_RADIAL", None, range(FRAMES))
    for index in range(FRAMES):
        database.add(read_frame(index))
    assert {str(index): number for index, number in database.lenses.by_frame.items()} == memory["lens_of"]
    database.close()


@pytest.mark.parametrize(("cameras", "expected"), [("auto", [1, 2, 1]), ("one", [1, 1, 1]), ("per-image", [1, 2, 3])])
def test_the_user_says_how_many_lenses_there_are(tmp_path: Path, cameras: Cameras, expected: list[int]) -> None:
    database = MatchDatabase(tmp_path / "features.db", SIFT, "SIMPLE_RADIAL", None, cameras=cameras)
    for index, lens in enumerate(("a 320x240", "b 320x240", "a 320x240")):
        database.add(read_frame(index, 1.0, lens))
    assert list(database.lenses.by_frame.values()) == expected
    database.close()


def test_a_lens_that_no_image_used_any_more_is_restored(tmp_path: Path) -> None:
    database = MatchDatabase(tmp_path / "features.db", SIFT, "SIMPLE_RADIAL", None)
    for index in range(2):
        database.add(read_frame(index, 1.0))
    before = database.lenses.state
    database.lenses.use(dict.fromkeys(range(2), database.lenses.add(0)))
    database.lenses.set_focal(2, 321.0)
    assert database.lenses[1].params[0] == 321.0
    database.close()
    again = MatchDatabase(tmp_path / "features.db", SIFT, "SIMPLE_RADIAL", None, range(2))
    for index in range(2):
        again.add(read_frame(index, 1.0))
    assert again.lenses.by_frame == {0: 2, 1: 2}
    again.lenses.restore(before)
    assert again.lenses.state.lens_of == before.lens_of
    assert again.lenses[0].params.tolist() == before.lenses[1][0]
    again.close()
