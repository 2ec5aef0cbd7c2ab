"""``recon locate`` on a small exact map; tests/retrieval/test_localiser.py tests the poses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.cli.conftest import Recon
from tests.retrieval.maps import make_room_map, take_photo, true_pose
from tests.retrieval.scenes import HEIGHT, WIDTH

PHOTO = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map, and beside it ``photos`` with one of the place and a blank one."""
    folder = tmp_path_factory.mktemp("room")
    make_room_map(folder / "map")
    photos = folder / "photos"
    photos.mkdir()
    Pillow.fromarray(take_photo(PHOTO)).save(photos / "here.png")
    Pillow.new("RGB", (WIDTH, HEIGHT), "gray").save(photos / "nowhere.png")
    return folder


def test_photos_are_located_with_file_and_pictures(recon: Recon, folder: Path, tmp_path: Path) -> None:
    out, pictures = tmp_path / "found.json", tmp_path / "pictures"
    outcome = recon("locate", folder / "map", folder / "photos", "--out", out, "--matches", pictures)
    assert outcome.code == 0, outcome.err
    assert outcome.err == "note: Preparing the map for photos: 3 frames.\n"
    _, here, nowhere, summary = outcome.out.splitlines()
    assert here.startswith("here.png  ")
    assert here.endswith((" 0004.png", " 0006.png"))
    assert nowhere.split("  ")[-1].strip() == "not of this place: only 0 features match"
    assert summary.startswith("1 of 2 photos are of this place.")
    content = json.loads(out.read_text())
    assert content["version"] == 1
    first, second = content["photos"]
    assert first["photo"] == str(folder / "photos" / "here.png")
    assert np.allclose(first["world_from_cam"], true_pose(PHOTO).matrix(), atol=0.01)
    assert first["located"] and not second["located"]
    assert second["world_from_cam"] is None
    assert [path.name for path in pictures.iterdir()] == ["0000_here.jpg"]
    with Pillow.open(pictures / "0000_here.jpg") as picture:
        assert picture.size == (1280, 500)
    again = recon("locate", folder / "map", folder / "photos" / "here.png")
    assert again.err == ""
    assert again.out.splitlines()[1] == here


def test_an_unreadable_photo_is_named_after_all_others_are_located(recon: Recon, folder: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(folder / "photos", photos)
    (photos / "broken.jpg").write_bytes(b"no image")
    outcome = recon("locate", folder / "map", photos)
    assert outcome.code == 2
    assert "1 of 2 photos are of this place." in outcome.out
    last = outcome.err.splitlines()[-1]
    assert last.startswith(f"recon: 1 of the photos cannot be read, the first {photos / 'broken.jpg'}: it is not an im")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing", "photos"), "nothing does not exist. Give the folder of a run."),
        (("photos", "photos"), "photos contains no map"),
        (("map", "nothing.jpg"), "nothing.jpg does not exist."),
        (("map", "photos", "--intrinsics", "1"), "--intrinsics"),
    ],
)
def test_what_cannot_be_located_is_refused(
    recon: Recon, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(folder)
    outcome = recon("locate", *arguments)
    assert outcome.code == 2
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1
