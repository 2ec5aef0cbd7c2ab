"""Only what stays in place is masked, however the camera moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest

from recon.core.events import Event
from recon.core.types import Chunk, Frame, Image, Mask
from recon.sources.overlay import Evidence, OverlayFinder, without_swaying
from tests.cases import overlays
from tests.cases.case import picture
from tests.cases.moving import Figure

VIEWS = 16


def frames_of(images: Sequence[Image], first: int = 0) -> tuple[Frame, ...]:
    return tuple(
        Frame(first + n, 0.0, image, f"{n}.jpg", image.shape[1::-1], "lens", 0.0, np.ones(image.shape[:2], bool))
        for n, image in enumerate(images)
    )


def masked(images: Sequence[Image]) -> Mask:
    """The pixels masked in all images of one chunk."""
    chunk = OverlayFinder(lambda _: None).leave_out(Chunk(0, frames_of(images), 0))
    return ~chunk.frames[-1].mask


@pytest.fixture(scope="module")
def room() -> list[Image]:
    return [picture(index) for index in range(VIEWS)]


def compressed(image: Image) -> Image:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1], 1), np.uint8)


@pytest.mark.parametrize(
    ("draw", "least", "most"),
    [
        (overlays.with_clock, 0.9, 0.08),
        (overlays.with_flight_data, 0.75, 0.08),
        (overlays.with_logo, 0.6, 0.05),
        (overlays.with_watermark, 0.95, 0.01),
        (overlays.with_bars, 1.0, 0.27),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 0.5, 1.6])
def test_overlay_is_masked(room: list[Image], draw: overlays.Drawing, least: float, most: float, scale: float) -> None:
    drawn = [draw(image.copy(), number) for number, image in enumerate(room)]
    changed = np.min([np.abs(a.astype(int) - b).max(axis=2) > 40 for a, b in zip(drawn, room, strict=True)], axis=0)
    size = (round(640 * scale), round(480 * scale))
    found = masked([compressed(cv2.resize(image, size, interpolation=cv2.INTER_AREA)) for image in drawn])
    wanted = cv2.resize(changed.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    assert found[wanted].mean() >= least
    assert wanted.mean() < found.mean() <= most


def test_edges_of_a_bonnet_are_masked_and_nothing_above_it(room: list[Image]) -> None:
    found = masked([overlays.with_bonnet(image.copy(), 0) for image in room])
    assert found[385:405, 200:400].mean() > 0.7
    assert not found[:370].any()


def shaking(image: Image) -> list[Image]:
    random = np.random.default_rng(0)
    moves = [np.array([[1, 0, x], [0, 1, y]]) for x, y in random.uniform(-3, 3, (40, 2))]
    return [np.asarray(cv2.warpAffine(image, move, (640, 480), borderMode=cv2.BORDER_REFLECT)) for move in moves]


def fading(image: Image) -> Image:
    """A scene with a dark lower left corner."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    light = np.clip(np.hypot(image.shape[0] - rows, columns) / 300, 0.05, 1)
    return np.asarray((image * light[..., None]).astype(np.uint8))


def noisy(image: Image) -> list[Image]:
    random = np.random.default_rng(0)
    return [np.clip(image + random.normal(0, 4, image.shape), 0, 255).astype(np.uint8) for _ in range(24)]


@pytest.mark.parametrize(
    "seen",
    [
        lambda room: room,
        lambda room: noisy(room[0]),
        lambda room: [*noisy(room[0]), *room],
        lambda room: shaking(room[0]),
        lambda room: [fading(image) for image in room],
        lambda room: [np.full_like(image, 200) for image in room],
        lambda room: [np.vstack([np.full_like(image[:200], 235), image[200:]]) // 2 + 100 for image in room[:6]],
        lambda room: [overlays.with_clock(image.copy(), 0) for image in room[:11]],
    ],
    ids=["room", "still", "starts late", "trembles", "dark corner", "blank", "sky, few views", "too few views"],
)
def test_scene_is_not_masked(room: list[Image], seen: Callable[[list[Image]], list[Image]]) -> None:
    assert not masked(seen(room)).any()


def test_a_figure_that_the_camera_follows_is_no_overlay() -> None:
    """It sways by a few pixels, so that some of its edges point the same way in all pictures."""
    seen = []
    for step in range(30):
        small = cv2.resize(picture(step), (200, 150), interpolation=cv2.INTER_AREA)
        worn, covered = Figure(width=0.45, height=1.0).place(step, small.shape[:2])
        seen.append(np.where(covered[..., None], worn, small))
    frames = frames_of(seen)
    evidence = Evidence()
    for frame in frames:
        evidence.look(frame.image)
    overlay = evidence.overlay()
    assert overlay is not None
    assert overlay.any()
    assert not without_swaying(overlay, seen).any()
    chunk = Chunk(0, frames, 0)
    assert OverlayFinder(pytest.fail).leave_out(chunk) is chunk


def test_an_opaque_overlay_is_kept_and_a_swaying_figure_is_not() -> None:
    still = np.zeros((40, 60, 3), np.uint8)
    still[10:30, 20:40] = 200
    edge = np.zeros((40, 60), np.bool_)
    edge[8:12, 18:42] = True
    np.testing.assert_array_equal(without_swaying(edge, [still] * 12), edge)
    swaying = [np.roll(still, step % 3 - 1, axis=0) for step in range(12)]
    assert not without_swaying(edge, swaying).any()
    np.testing.assert_array_equal(without_swaying(edge, swaying[:5]), edge)  # too few images


def test_an_overlay_applies_to_later_chunks_joins_the_users_mask_and_is_reported_once(room: list[Image]) -> None:
    said: list[Event] = []
    finder = OverlayFinder(said.append)
    drawn = frames_of([overlays.with_clock(image.copy(), 0) for image in room])
    first = finder.leave_out(Chunk(0, drawn, 0))
    left = drawn[-1].mask.copy()
    left[:, :320] = False
    later = replace(drawn[-1], index=VIEWS, mask=left)
    second = finder.leave_out(Chunk(1, (*drawn[-2:], later), 2))
    assert np.array_equal(second.frames[0].mask, first.frames[0].mask)
    assert np.array_equal(second.frames[2].mask, first.frames[0].mask & left)
    upright = frames_of([np.rot90(image).copy() for image in room[:2]], VIEWS + 1)
    third = Chunk(2, (later, *upright), 1)
    assert finder.leave_out(third).frames[1:] == upright  # of another shape, without known views
    (notice,) = said
    assert "is left out of the map" in notice.text


def test_chunks_without_an_overlay_are_unchanged(room: list[Image]) -> None:
    chunk = Chunk(0, frames_of(room), 0)
    assert OverlayFinder(lambda _: None).leave_out(chunk) is chunk
