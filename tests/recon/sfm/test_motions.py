"""Objects that move in front of the scene are detected by area over many pairs and masked; none if one motion fits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from recon.core.events import Notice
from recon.core.types import Chunk, Frame, Image
from recon.sfm import frontend
from recon.sfm.database import MatchDatabase
from recon.sfm.matching import SiftMatcher
from recon.sfm.motions import Moving, _stretches, find_moving
from recon.sfm.pairs import window_pairs
from tests.cases import motion
from tests.cases.case import picture
from tests.cases.lenses import zoomed
from tests.cases.moving import Figure, before
from tests.recon.sfm.conftest import FEW_FEATURES, read_frame

FRAMES = range(12)
SHAPE = (300, 400)


def frames_with(figures: Sequence[Figure], folder: Path) -> list[Frame]:
    made = before(figures, folder, FRAMES, width=SHAPE[1])
    return [frame_of(index, cv2.imread(str(path))) for index, path in enumerate(sorted(made.source.iterdir()))]


def frame_of(index: int, image: Image | None) -> Frame:
    """A frame that shows a BGR image."""
    assert image is not None
    shape = image.shape[:2]
    pixels = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    return Frame(index, 0.0, pixels, "", shape[::-1], "lens", 0.0, np.ones(shape, np.bool_))


def find(frames: Sequence[Frame], folder: Path) -> Moving:
    database = MatchDatabase(folder / "features.db", FEW_FEATURES, "SIMPLE_RADIAL", None)
    for frame in frames:
        database.add(frame)
    database.match(window_pairs([frame.index for frame in frames], (1, 2, 3, 4)))
    found = find_moving(database, frames)
    database.close()
    return found


def said_of(frames: Sequence[Frame], folder: Path, monkeypatch: pytest.MonkeyPatch, found: Moving) -> list[Notice]:
    """What the front end says of a chunk in which this is found to move, and that it masks nothing."""
    monkeypatch.setattr(frontend, "find_moving", lambda *_: found)
    said: list[Notice] = []
    front_end = frontend.StructureFromMotion(folder, frontend.SfmSettings(matcher=FEW_FEATURES), said.append)
    for frame in frames:
        front_end.database.add(frame)
    front_end.database.match(window_pairs([frame.index for frame in frames], (1, 2, 3, 4)))
    chunk = Chunk(0, tuple(frames), 0)
    masked = front_end._leave_out_moving(chunk) is not chunk
    front_end.close()
    return [*said, Notice("masked")] if masked else said


def test_a_poster_is_flat_and_nothing_of_it_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = motion.poster(tmp_path, moves=0.05, count=8, size=(320, 240))
    frames = [frame_of(index, cv2.imread(str(path))) for index, path in enumerate(sorted(made.source.iterdir()))]
    half = np.zeros((240, 320), np.bool_)
    half[:, :160] = True
    for folder, found in (("one", Moving({}, torn=True)), ("two", Moving({3: half}, 0.2))):
        (tmp_path / folder).mkdir()
        said = said_of(frames, tmp_path / folder, monkeypatch, found)
        sentence = (
            "Chunk 1: the scene is nearly flat: what stands out from its plane may be depth or motion. Nothing is "
            "masked."
        )
        assert said == [Notice(sentence, doubtful=found.torn)]


def test_a_figure_before_a_room_is_not_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = frames_with([Figure(width=0.55)], tmp_path)[:8]
    (said,) = said_of(frames, tmp_path, monkeypatch, Moving({}, torn=True))
    assert "two motions share the images" in said.text


@pytest.mark.parametrize("column", [0.5, 0.17])
def test_a_figure_that_the_camera_follows_is_masked_in_the_middle_and_at_the_side(
    column: float, tmp_path: Path
) -> None:
    figure = Figure(column=column)
    found = find(frames_with([figure], tmp_path), tmp_path)
    assert len(found.masks) >= 0.75 * len(FRAMES)
    assert not found.surrounds
    for index, mask in found.masks.items():
        _, covered = figure.place(index, SHAPE)
        assert (mask & ~covered).mean() < 0.06  # of the picture
        assert (mask & covered).sum() > 0.6 * mask.sum()


def test_nothing_is_masked_where_nothing_moves(tmp_path: Path) -> None:
    found = find(frames_with([], tmp_path), tmp_path)
    assert found.masks == {}
    assert not found.is_doubtful


def test_nothing_moves_where_lenses_differ(tmp_path: Path) -> None:
    zooms = np.random.default_rng(4).choice(np.random.default_rng(5).uniform(1, 1.7, 10), len(FRAMES))
    found = find([frame_of(index, zoomed(picture(index), zooms[index])) for index in FRAMES], tmp_path)
    assert found.masks == {}
    assert not found.is_doubtful


@pytest.mark.parametrize("width", [0.55, 0.7])
def test_a_figure_as_large_as_the_room_makes_the_map_doubtful(width: float, tmp_path: Path) -> None:
    assert find(frames_with([Figure(width=width, height=1.0)], tmp_path), tmp_path).is_doubtful


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (range(5, 13), range(5, 13)),  # 8 in a row
        ([3, 4, 5, 6, 8, 9, 10, 11], [3, 4, 5, 6, 8, 9, 10, 11]),  # one missing
        ([3, 4, 5, 6, 9, 10, 11, 12], []),  # two missing
        (range(5, 12), []),  # 7
        ([0, 2, *range(10, 18), 25], range(10, 18)),
    ],
)
def test_a_stretch_is_eight_frames_of_which_one_may_be_missing_between(found: Sequence[int], kept: range) -> None:
    frames = [replace(frame_of(0, np.zeros((4, 6, 3), np.uint8)), index=100 + 3 * place) for place in range(30)]
    assert _stretches({100 + 3 * place for place in found}, frames) == [100 + 3 * place for place in kept]


def test_nothing_is_masked_where_exif_is_wrong(tmp_path: Path) -> None:
    frames = [replace(frame, focal=4 * 0.78 * SHAPE[1]) for frame in frames_with([], tmp_path)]
    assert find(frames, tmp_path).masks == {}


def test_masks_are_joined_with_the_users() -> None:
    half, top = np.zeros((4, 6), np.bool_), np.zeros((4, 6), np.bool_)
    half[:, :3], top[:1] = True, True
    frames = [Frame(index, 0.0, np.zeros((4, 6, 3), np.uint8), "", (6, 4), "lens", 0.0, ~top) for index in range(2)]
    left_out = Moving({1: half}).leave_out(frames)
    assert left_out[0] is frames[0]
    np.testing.assert_array_equal(left_out[1].mask, ~top & ~half)
    assert Moving({1: half}, 0.2).describe(frames) == (
        "something moves in front of the scene in 1 of 2 frames; 50% of their area is left out of the map."
    )
    assert "are of similar extent" in Moving({1: half}, 0.5).describe(frames)
    assert [moving.is_doubtful for moving in (Moving({1: half}, 0.2), Moving({1: half}, 0.5))] == [False, True]
    assert "Nothing is masked" in Moving({1: half}, 0.2, surrounds=True).describe(frames)
    assert "two motions share the images" in Moving({}, torn=True).describe(frames)
    assert "Two motions remain" in Moving({1: half}, 0.2, torn=True).describe(frames)


def test_features_are_extracted_again_outside_the_mask(tmp_path: Path) -> None:
    frames = [read_frame(index) for index in range(3)]
    database = MatchDatabase(tmp_path / "features.db", SiftMatcher(max_features=500), "SIMPLE_RADIAL", None)
    for frame in frames:
        database.add(frame)
    database.match([(0, 1), (0, 2), (1, 2)])
    kept, before_it = database.verified_matches((0, 2)), database.inliers(0, 1)
    right = np.zeros(frames[1].image.shape[:2], np.bool_)
    right[:, 300:] = True
    database.describe_again([replace(frames[1], mask=right)])
    assert not database.matched((0, 1))
    assert not database.matched((1, 2))
    np.testing.assert_array_equal(database.verified_matches((0, 2)), kept)
    assert database.positions(1)[:, 0].min() > 300
    database.match([(0, 1)])
    assert 50 < database.inliers(0, 1) < before_it
    database.close()
