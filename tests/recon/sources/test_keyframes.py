"""Keyframes of a window that moves over a texture, so that the true motion is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from recon.core.types import Frame, Image, PassedFrame, SkippedFrame
from recon.plan import random_texture
from recon.sources import SourceOptions, open_source
from recon.sources.base import Candidate
from recon.sources.keyframes import FAR, FAST_WAY, FEW, LATELY, MANY, MOST_HELD, NEAR, PROBED, keyframe_share, pick

WIDTH, HEIGHT = 320, 240
TEXTURE = random_texture(3 * WIDTH, HEIGHT)


def view(left: float) -> Image:
    column = round(left)
    return np.ascontiguousarray(TEXTURE[:, column : column + WIDTH])


WIDE_TEXTURE = random_texture(7 * WIDTH, HEIGHT)


def wide_view(left: float) -> Image:
    return np.ascontiguousarray(WIDE_TEXTURE[:, round(left) : round(left) + WIDTH])


def candidates(pictures: Iterable[Image]) -> list[Candidate]:
    mask = np.ones((HEIGHT, WIDTH), dtype=bool)
    return [
        Candidate(Frame(index, index / 10, picture, f"{index}.jpg", (WIDTH, HEIGHT), "lens", 0.0, mask), lambda: None)
        for index, picture in enumerate(pictures)
    ]


def picked(pictures: Iterable[Image]) -> list[int]:
    return [item.frame.index for item in pick(candidates(pictures)) if isinstance(item, Candidate)]


def test_keyframes_are_as_far_apart_as_asked_whatever_the_speed() -> None:
    slow = np.arange(0, 300, 2.0)
    fast = np.arange(300, 1900, 8.0)
    lefts = np.concatenate([slow, fast])
    steps = np.diff(lefts[picked(map(wide_view, lefts))])
    assert len(steps) > 40
    assert steps[:-1].min() >= NEAR * WIDTH - 1
    assert steps.max() <= FAR * WIDTH + 4


def test_the_share_of_keyframes_is_that_of_the_first_frames() -> None:
    slow_then_still = [view(4 * min(place, PROBED)) for place in range(3 * PROBED)]
    looked_at = iter(candidates(slow_then_still))
    share = keyframe_share(looked_at, seconds=60)
    assert share == len(picked(slow_then_still[:PROBED])) / PROBED
    assert 0.05 < share < 0.2
    assert len(list(looked_at)) == 2 * PROBED
    assert keyframe_share(iter(candidates(slow_then_still)), seconds=0) == 1.0
    assert keyframe_share([]) == 0.0


def test_slow_motion_gives_a_keyframe_now_and_then() -> None:
    taken = picked(view(index / 3) for index in range(200))
    assert np.diff(taken).max() <= MANY + MOST_HELD
    assert len(taken) >= 5


def test_standing_still_costs_nothing() -> None:
    lefts = [*range(0, 40, 2), *[40] * 80, *range(40, 80, 2)]
    taken = picked(map(view, lefts))
    assert [index for index in taken if 20 < index < 100] == []
    assert taken[-1] >= 100


def test_every_frame_of_fast_motion_is_taken() -> None:
    assert picked(view(left) for left in range(0, 600, 40)) == list(range(15))


def test_sharp_frames_are_preferred_to_blurred_neighbours() -> None:
    def picture(index: int) -> Image:
        sharp = view(index)
        return sharp if index % 4 == 0 else np.asarray(cv2.GaussianBlur(sharp, (0, 0), 1.0))

    taken = picked(map(picture, range(400)))
    assert len(taken) > 6
    assert all(index % 4 == 0 for index in taken[:-1])  # the last one has no alternative


def test_going_straight_ahead_is_motion() -> None:
    picture = random_texture(2 * WIDTH, 2 * HEIGHT)

    def ahead(index: int) -> Image:
        scale = 1.0 + 0.01 * index
        width, height = round(WIDTH / scale), round(HEIGHT / scale)
        top, left = HEIGHT - height // 2, WIDTH - width // 2
        return np.asarray(cv2.resize(picture[top : top + height, left : left + width], (WIDTH, HEIGHT)))

    assert 3 <= len(picked(map(ahead, range(80)))) <= 8


def test_a_cut_and_a_blank_wall_are_keyframes() -> None:
    blank = np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8)
    assert picked([view(0), view(0), view(500), view(500), blank, view(500)]) == [0, 2, 4, 5]


def test_noise_in_the_dark_is_no_motion() -> None:
    random, dark = np.random.default_rng(0), view(0) * 0.2
    pictures = (np.clip(dark + random.normal(0, 5, dark.shape), 0, 255).astype(np.uint8) for _ in range(100))
    assert len(picked(pictures)) <= 3


def test_darkness_is_no_motion() -> None:
    assert picked([np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 20) == [0]


def with_bonnet(share: float) -> list[Image]:
    """Pictures of which the lower part moves with the camera, as a car's bonnet does. Most corners are there."""
    rows, bonnet = round((1 - share) * HEIGHT), view(0)
    pale = 96 + TEXTURE // 4
    return [
        np.vstack([pale[:rows, 3 * index : 3 * index + WIDTH], bonnet[rows:]]).astype(np.uint8) for index in range(100)
    ]


def test_what_moves_with_the_camera_does_not_outvote_the_rest() -> None:
    assert 7 <= len(picked(with_bonnet(0.75))) <= 10


def test_corners_in_masked_parts_do_not_count() -> None:
    pictures = with_bonnet(0.85)
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[: round(0.15 * HEIGHT)] = True
    masked = [replace(item, frame=replace(item.frame, mask=mask)) for item in candidates(pictures)]
    assert sum(isinstance(item, Candidate) for item in pick(masked)) >= 7
    assert len(picked(pictures)) == 1


def test_the_slow_rest_of_a_fast_video_is_taken_if_it_is_short() -> None:
    steps = [30] * 50 + [0] * 60
    taken = picked(map(wide_view, np.cumsum(steps)))
    assert taken == list(range(len(taken)))
    assert 50 + LATELY // 2 < len(taken) < 50 + LATELY + FEW * len(steps)


def test_the_choices_of_an_earlier_run_are_repeated_and_the_next_ones_are_as_without_a_break() -> None:
    lefts = np.cumsum([2] * 40 + [5] * 20)
    whole = picked(map(wide_view, lefts))
    for end in (23, 50):
        earlier = [index for index in whole if index < end]
        assert _repeated(lefts, earlier) == whole
        ended = picked(map(wide_view, lefts[:end]))  # the frames held at the end were decided
        again = _repeated(lefts, ended)
        assert again[: len(ended)] == ended
        assert np.diff(lefts[again]).max() <= FAR * WIDTH + 8


def _repeated(lefts: np.ndarray, earlier: list[int]) -> list[int]:
    items = pick(candidates(map(wide_view, lefts)), earlier)
    return [item.frame.index for item in items if isinstance(item, Candidate)]


def test_every_frame_of_a_fast_video_is_taken_although_it_is_slow_in_between() -> None:
    steps = [2] * 25 + [*[30, 2, 30]] * 10
    kept = [item for item in pick(candidates(map(wide_view, np.cumsum(steps)))) if isinstance(item, Candidate)]
    taken = [item.frame.index for item in kept]
    assert taken[-12:-1] == list(range(len(steps) - 12, len(steps) - 1))
    assert len([index for index in taken if index < 25]) < 5
    assert np.diff([item.way for item in kept])[-10:-1].tolist() == [FAST_WAY] * 9  # a live run can spare none of them


def test_a_jump_starts_from_the_frame_before_it() -> None:
    """Frames 4 and 5 share more with each other than with the keyframe 0."""
    lefts = [*(0, 5, 10, 15, 20), *(90, 90, 90)]
    assert picked(map(view, lefts)) == [0, 4, 5]


@given(st.lists(st.integers(0, 12), max_size=40))
@settings(max_examples=12)
def test_every_frame_comes_once_and_in_order(steps: list[int]) -> None:
    lefts = np.minimum(np.cumsum([0, *steps]), 2 * WIDTH)
    given_frames = candidates(map(view, lefts))
    items = list(pick(given_frames))
    assert [item.frame.index if isinstance(item, Candidate) else item.index for item in items] == [
        *range(len(given_frames))
    ]
    ways = [item.way for item in items if isinstance(item, Candidate)]
    assert ways == sorted(ways)


def test_few_frames_are_held() -> None:
    read = 0

    def reading() -> Iterable[Candidate]:
        nonlocal read
        for candidate in candidates(view(left / 2) for left in range(80)):
            read += 1
            yield candidate

    for decided, _ in enumerate(pick(reading())):
        assert read - decided <= MOST_HELD + 2


def test_originals_of_passed_over_frames_are_not_kept(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for index, left in enumerate([*range(0, 30, 3), *[30] * 5]):
        PillowImage.fromarray(view(left)).save(folder / f"{index:02d}.png")
    (folder / "05.png").write_bytes(b"")
    source = open_source(str(folder), SourceOptions(keyframes="select"), tmp_path / "images")
    items = list(source)
    taken = [item.name for item in items if isinstance(item, Frame)]
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == taken
    assert sum(isinstance(item, PassedFrame) for item in items) == 15 - 1 - len(taken)
    assert [item.name for item in items if isinstance(item, SkippedFrame)] == ["05.png"]
    again = [item.frame.index for item in source.candidates() if isinstance(item, Candidate)]
    assert again == [index for index in range(15) if index != 5]


@pytest.mark.parametrize("keyframes", ["all", "select"])
def test_photos_from_different_places_are_all_taken(tmp_path: Path, keyframes: str) -> None:
    for index, left in enumerate((0, 300, 100, 500)):
        PillowImage.fromarray(view(left)).save(tmp_path / f"{index}.png")
    options = SourceOptions(keyframes=keyframes)  # type: ignore[arg-type]
    assert sum(isinstance(item, Frame) for item in open_source(str(tmp_path), options)) == 4
