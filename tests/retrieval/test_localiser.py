"""Photos located in a small exact map of the sample's room, and photos of other rooms."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from scipy.spatial.transform import Rotation

from recon.core.errors import MapError, SourceError
from recon.core.events import Event, Notice, Progress
from recon.core.metric import Metric
from recon.core.similarity import Sim3
from recon.core.types import Camera, SparsePoints
from recon.lab.synthetic.look_alikes import rearranged, redecorated
from recon.lab.synthetic.scenes import Scene
from recon.plan import random_texture
from recon.sources import SourceOptions
from recon.store.lock import sole_writer
from recon.store.map import MapStore, move_map, open_map
from retrieval import arrival
from retrieval.localiser import Localiser, Location, open_localiser
from retrieval.map_index import move_index
from tests.retrieval.maps import MAPPED, UNIT, as_frame, make_room_map, mapped_frame, take_photo, true_pose
from tests.retrieval.scenes import HEIGHT, WIDTH
from tests.support import forget_depth

PAGE = Path(__file__).resolve().parents[2] / "docs" / "locate.md"
PHOTO = 5
CLOSE = 0.01  # map units; the room is 12 wide


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map whose index is stored."""
    folder = tmp_path_factory.mktemp("room")
    make_room_map(folder)
    open_localiser(folder)
    return folder


@pytest.fixture(scope="module")
def localiser(folder: Path) -> Localiser:
    return open_localiser(folder)


def assert_at(found: Location, index: int, close: float = CLOSE) -> None:
    assert found.world_from_cam is not None, found.reason
    difference = true_pose(index).inverse() @ found.world_from_cam
    assert np.linalg.norm(difference.translation) < close
    assert np.degrees(Rotation.from_matrix(difference.rotation).magnitude()) < 20 * close


def test_a_photo_is_located(localiser: Localiser) -> None:
    found = localiser.locate(as_frame(take_photo(PHOTO)))
    assert_at(found, PHOTO)
    assert found.camera == mapped_frame(PHOTO).camera
    assert found.frame is not None
    assert found.frame.index in (4, 6)
    assert found.inliers > 200
    assert found.agreement > 0.9
    assert 0 < found.position_deviation < CLOSE
    assert found.pixels.shape == found.frame_pixels.shape
    assert len(found.pixels) >= found.inliers / len(MAPPED)


@pytest.mark.parametrize("zoom", [1.05, 1.3])
def test_another_lens_is_recognised_and_estimated(localiser: Localiser, zoom: float) -> None:
    # With the map's lens, 5% of zoom agree with as many features, and move the camera by 5% of the distance.
    found = localiser.locate(as_frame(take_photo(PHOTO, zoom=zoom)))
    assert_at(found, PHOTO, 5 * CLOSE)
    assert found.camera is not None
    focal = mapped_frame(PHOTO).camera.params[0]
    assert found.camera.params[0] == pytest.approx(zoom * focal, rel=0.01)


def test_a_wrong_focal_length_in_exif_is_overruled(localiser: Localiser) -> None:
    photo = as_frame(take_photo(PHOTO, zoom=1.3))
    focal = mapped_frame(PHOTO).camera.params[0]
    for stated in (1.3, 1.0):
        assert_at(localiser.locate(replace(photo, focal=stated * focal)), PHOTO, 5 * CLOSE)


def test_a_given_lens_is_used(localiser: Localiser) -> None:
    lens = mapped_frame(PHOTO).camera
    assert_at(localiser.locate(as_frame(take_photo(PHOTO)), lens), PHOTO)
    wrong = Camera(lens.model, lens.width, lens.height, (2 * lens.params[0], 2 * lens.params[1], *lens.params[2:]))
    assert localiser.locate(as_frame(take_photo(PHOTO)), wrong).world_from_cam is None


@pytest.mark.parametrize("scene", [redecorated(1), rearranged(2)])
def test_a_room_that_looks_like_it_is_another_place(localiser: Localiser, scene: Scene) -> None:
    found = localiser.locate(as_frame(take_photo(PHOTO, scene)))
    assert found.world_from_cam is None
    assert found.reason


def test_a_photo_of_nothing_is_of_no_place(localiser: Localiser) -> None:
    found = localiser.locate(as_frame(np.full((240, WIDTH, 3), 90, np.uint8)))
    assert found.world_from_cam is None
    assert found.reason == "only 0 features match"
    assert found.frame is None


def test_a_camera_is_found_before_the_map_may_grow(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first image shows nothing of the place, the second does."""
    Pillow.fromarray(random_texture(WIDTH, HEIGHT)).save(tmp_path / "1.png")
    Pillow.fromarray(take_photo(PHOTO)).save(tmp_path / "2.png")
    told: list[Event] = []
    watched = partial(arrival.find_camera, folder, str(tmp_path), SourceOptions(), told.append, watch=True)
    watched()
    assert [event.done for event in told if isinstance(event, Progress)] == [0, 1]
    assert isinstance(told[-1], Notice)
    assert re.match(f"{tmp_path} shows the place in {folder}, near 000[46].png", told[-1].text)
    monkeypatch.setattr(arrival, "MOST_TRIED", 1)
    with pytest.raises(SourceError, match=f"None of 1 images of {tmp_path} is of the place in {folder}"):
        watched()


def test_a_source_that_is_not_live_is_refused_before_the_map_is_prepared(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "open_localiser", lambda *_, **__: pytest.fail("the map was prepared"))
    with pytest.raises(SourceError, match=r"walk\.mp4 is neither .* --realtime if it is a video"):
        arrival.find_camera(folder, "walk.mp4", SourceOptions(), lambda _: None)


def test_a_stored_index_is_used_and_a_damaged_or_old_one_is_made_again(folder: Path, tmp_path: Path) -> None:
    copy, told = tmp_path / "map", list[str]()
    shutil.copytree(folder, copy)
    index = copy / "map" / "places.npz"
    before = index.read_bytes()
    open_localiser(copy, tell=told.append)
    assert not told
    index.write_bytes(before[: len(before) // 2])
    assert_at(open_localiser(copy, tell=told.append).locate(as_frame(take_photo(PHOTO))), PHOTO)
    assert told == ["Preparing the map for photos again, as it is damaged or the map has changed: 3 frames."]
    fewer = open_map(copy).frames[:2]
    MapStore(copy).write_places(fewer, (), SparsePoints.empty(), complete=True)
    found = open_localiser(copy, tell=told.append).locate(as_frame(take_photo(PHOTO)))
    assert len(told) == 2
    assert_at(found, PHOTO)


def test_an_index_moves_along_with_its_map(folder: Path, tmp_path: Path) -> None:
    copy, told = tmp_path / "map", list[str]()
    shutil.copytree(folder, copy)
    before, metres = open_map(copy), Sim3(UNIT, np.eye(3), np.array([7.0, 0, 0]))
    move_map(copy, metres, Metric(1, None))
    move_index(before, open_map(copy), metres)
    found = open_localiser(copy, tell=told.append).locate(as_frame(take_photo(PHOTO)))
    assert not told
    assert found.world_from_cam is not None
    assert np.allclose(found.world_from_cam.translation, metres.apply(true_pose(PHOTO).translation), atol=CLOSE)
    (copy / "map" / "places.npz").unlink()
    move_index(before, open_map(copy), metres)  # there is none to move
    assert not (copy / "map" / "places.npz").exists()


def test_damage_that_is_found_later_names_the_file(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "map"
    shutil.copytree(folder, copy)
    index = copy / "map" / "places.npz"
    opened, content = open_localiser(copy), bytearray(index.read_bytes())
    content[1000:9000] = bytes(8000)
    index.write_bytes(content)
    with pytest.raises(MapError, match=r"places\.npz is damaged\. Delete it"):
        opened.locate(as_frame(take_photo(PHOTO)))


def test_a_map_in_use_is_prepared_in_memory(folder: Path, tmp_path: Path) -> None:
    copy, told = tmp_path / "map", list[str]()
    shutil.copytree(folder, copy)
    (copy / "map" / "places.npz").unlink()
    with sole_writer(copy, "run"):
        assert_at(open_localiser(copy, tell=told.append).locate(as_frame(take_photo(PHOTO))), PHOTO)
    assert told[1].startswith("The preparation is not stored.")
    assert not (copy / "map" / "places.npz").exists()


def test_a_map_without_its_images_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "map"
    shutil.copytree(folder, copy)
    (copy / "map" / "places.npz").unlink()
    (copy / "colmap" / "images" / "0006.png").write_bytes(b"no image")
    with pytest.raises(MapError, match=r"0006\.png, an image of the map, cannot be read"):
        open_localiser(copy)


def test_a_map_without_depth_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "map"
    shutil.copytree(folder, copy)
    (copy / "map" / "places.npz").unlink()
    forget_depth(copy)
    with pytest.raises(MapError, match="has no frame with depth"):
        open_localiser(copy)
    assert not list((copy / "map").glob("places*"))


def test_the_example_of_the_page_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path / "out" / "demo")
    Pillow.fromarray(take_photo(PHOTO)).save(tmp_path / "photo.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    exec(compile(program, "locate.md", "exec"), {})
    assert capsys.readouterr().out.startswith("camera centre [")
