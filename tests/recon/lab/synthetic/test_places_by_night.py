"""Places on a street by day and by night: what the pictures show, and what the files say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recon.core.bundled import XFEAT
from recon.lab.synthetic import places_by_night
from recon.lab.synthetic.paths import inverse_rigid
from recon.lab.synthetic.places_by_night import (
    ASIDE,
    DAY_SKY,
    EVERY,
    WALKS,
    by_day,
    by_night,
    photograph,
    walk,
    write_places,
)
from recon.lab.synthetic.render import GAMMA, render_single
from recon.lab.synthetic.street import FRONTS, ROAD, Street, part_of, street
from recon.settings import PlaceSettings
from retrieval.benchmark import utm_of
from retrieval.collection import list_images
from retrieval.xfeat_vlad import open_xfeat_vlad

PLACES = 6


@pytest.fixture(scope="module", autouse=True)
def small_images() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("HEIGHT", 96), ("WIDTH", 144), ("TILE", 48), ("FOCAL", 110.0)):
            patch.setattr(places_by_night, name, value)
        yield


@pytest.fixture(scope="module")
def place() -> Street:
    return street(5, EVERY * PLACES)


def seen(place: Street, side: int, *, dark: bool) -> NDArray[np.uint8]:
    pose, random = walk(PLACES, side, np.random.default_rng(0))[2], np.random.default_rng(1)
    return by_night(place, pose, random) if dark else by_day(place, pose)


def test_tiles_show_what_the_whole_street_shows(place: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    pose = walk(PLACES, -1, np.random.default_rng(0))[2]
    monkeypatch.setattr(places_by_night, "FAR", places_by_night.MARGIN)
    present = place.parked != 2
    colour, depth = photograph(place.scene, present, pose)
    intrinsics = torch.tensor([[110.0, 0, 72], [0, 110.0, 48], [0, 0, 1]])
    with torch.inference_mode():
        whole = render_single(
            part_of(place.scene, present), inverse_rigid(pose).float()[None, None], intrinsics, 96, 144, shadows=False
        )
    near = (whole.depth[0, 0] < 80).numpy()  # farther solids than MARGIN are left out
    assert near.mean() > 0.5
    assert np.allclose(depth.numpy()[near], whole.depth[0, 0].numpy()[near], rtol=1e-4)
    assert np.allclose(colour[near], (whole.colour[0, 0].numpy() ** GAMMA)[near], atol=2e-3)


def test_a_place_by_night_is_dark_above_and_noisy_with_the_same_houses(place: Street) -> None:
    day, night = seen(place, -1, dark=False), seen(place, -1, dark=True)
    assert np.array_equal(night, seen(place, -1, dark=True))  # the same for the same seed
    sky = (np.abs(day - 255 * np.array(DAY_SKY)) <= 1).all(axis=2)
    assert sky.mean() > 0.02
    assert np.median(night[sky]) < 60 < np.median(day)
    assert night.max() == 255  # windows and lamps
    noise = np.abs(np.diff(night.astype(float), axis=1)).mean() / night.std()
    assert noise > 1.3 * np.abs(np.diff(day.astype(float), axis=1)).mean() / day.std()


def test_cars_of_the_day_are_gone_by_night_and_everything_else_stays(place: Street) -> None:
    parked = place.parked
    assert (parked == 1).any() and (parked == 2).any() and not place.glowing[parked > 0].any()
    across = place.scene.centre[0, :, 1].abs()
    assert (across[parked > 0] > ROAD).all() and (across[parked > 0] < FRONTS).all()
    assert not torch.equal(place.scene.seed, street(6, EVERY * PLACES).scene.seed[:, :1])


def test_walks_keep_to_their_side(place: Street) -> None:
    for side in (-1, 1):
        poses = walk(30, side, np.random.default_rng(2))
        assert ((side * poses[:, 1, 3] - ASIDE).abs() <= 0.5).all()
        assert ((poses[:, 0, 3] - EVERY * torch.arange(30)).abs() <= 1).all()
        assert (poses[:, 0, 2] > 0.9).all()  # they look along the street


def test_files_state_where_they_were_taken(tmp_path: Path) -> None:
    write_places(tmp_path, 2)
    databases = [list_images(tmp_path / name / "database") for name in WALKS]
    assert all([path.read_bytes() for path in one] == [path.read_bytes() for path in databases[0]] for one in databases)
    for name, (side, _) in WALKS.items():
        paths = list_images(tmp_path / name / "queries")
        assert sorted(round(utm_of(path)[0] / EVERY) for path in paths) == [0, 1]
        assert all(side * utm_of(path)[1] > 1 for path in paths)


@pytest.mark.skipif(XFEAT.path() is None, reason=f"the weight file of XFeat is missing. {XFEAT.remedy}")
def test_pretrained_features_find_places_by_night(place: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("HEIGHT", 192), ("WIDTH", 288), ("TILE", 96), ("FOCAL", 225.0)):
        monkeypatch.setattr(places_by_night, name, value)
    random, describer = np.random.default_rng(3), open_xfeat_vlad(PlaceSettings())
    stored = describer.describe([by_day(place, pose) for pose in walk(PLACES, -1, random)])
    asked = describer.describe([by_night(place, pose, random) for pose in walk(PLACES, -1, random)])
    found = (asked @ stored.T).argmax(axis=1)
    assert (np.abs(found - np.arange(PLACES)) <= 1).sum() >= PLACES - 1
