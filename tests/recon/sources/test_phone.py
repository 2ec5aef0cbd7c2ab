"""Images of a phone: what is taken, when it was exposed, and when the phone counts as lost."""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from recon.core.errors import SourceError
from recon.core.events import Notice
from recon.core.types import Frame, Image
from recon.plan import random_texture
from recon.sources import SourceOptions, phone
from recon.sources.live import LiveSource
from recon.sources.phone import MOST_WAITING, ExposureClock, PhoneFeed, Shot, decoded

OPTIONS = SourceOptions(size=160, keyframes="all")
SECONDS = 10.0  # after which a test stops waiting


def jpeg(pixels: Image, kind: str = "JPEG") -> bytes:
    coded = io.BytesIO()
    PillowImage.fromarray(pixels).save(coded, kind)
    return coded.getvalue()


PICTURE = jpeg(random_texture(160, 120))


def offer(feed: PhoneFeed, content: bytes, exposed: float) -> threading.Event:
    """Offer an image as soon as there is room, as the page does; what is set when the capture has seen it."""
    done = threading.Event()
    give_up = time.monotonic() + SECONDS
    while not feed.offer(Shot(content, exposed, time.monotonic(), done.set)):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    return done


def begun(feed: PhoneFeed, folder: Path | None = None) -> Iterator[object]:
    """What a source of this feed yields, once the capture has begun."""
    assert not feed.sizes
    threading.Timer(0.05, offer, (feed, PICTURE, 0.0)).start()
    feed.wait()
    return iter(LiveSource("phone", feed, OPTIONS, folder))


def test_images_have_the_size_of_the_first_and_the_time_of_their_exposure(tmp_path: Path) -> None:
    feed = PhoneFeed(OPTIONS)
    items = begun(feed, tmp_path)
    assert feed.sizes == ((160, 120),)
    half = random_texture(80, 60)

    def send() -> None:
        while not feed.begun:
            time.sleep(0.01)
        for exposed, content in ((100.0, PICTURE), (100.25, jpeg(half)), (101.5, PICTURE)):
            assert offer(feed, content, exposed).wait(SECONDS)
        feed.finish()

    threading.Thread(target=send).start()
    frames = [item for item in items if isinstance(item, Frame)]
    assert [frame.timestamp for frame in frames] == pytest.approx([0.0, 0.25, 1.5])
    assert [frame.image.shape for frame in frames] == [(120, 160, 3)] * 3
    assert [path.name for path in sorted(tmp_path.iterdir())] == [frame.name for frame in frames]
    enlarged = np.asarray(PillowImage.fromarray(half).resize((160, 120)), np.float64)
    assert np.abs(enlarged - frames[1].image).mean() < 12  # of 255; the texture is noise
    assert feed.over
    assert not feed.offer(Shot(PICTURE, 102.0, 0.0, lambda: None))


def test_what_is_no_image_of_the_run_counts_as_damaged() -> None:
    feed = PhoneFeed(OPTIONS)
    source = LiveSource("phone", feed, OPTIONS)
    threading.Timer(0.05, offer, (feed, PICTURE, 0.0)).start()
    feed.wait()
    upright, large = jpeg(random_texture(120, 160)), jpeg(random_texture(320, 240))
    png = jpeg(random_texture(160, 120), "PNG")

    def send() -> None:
        while not feed.begun:
            time.sleep(0.01)
        for number, content in enumerate((PICTURE, b"", b"\xff\xd8", PICTURE[:-400], png, upright, large, PICTURE)):
            assert offer(feed, content, float(number)).wait(SECONDS)
        feed.finish()

    threading.Thread(target=send).start()
    assert [item.timestamp for item in source if isinstance(item, Frame)] == [0.0, 7.0]
    assert (source.status.captured, source.status.damaged) == (2, 6)


def test_no_more_images_wait_than_the_page_may_send() -> None:
    feed = PhoneFeed(OPTIONS)
    shots = [Shot(PICTURE, 0.0, 0.0, lambda: None)] * (MOST_WAITING + 3)
    assert [feed.offer(shot) for shot in shots] == [True] * MOST_WAITING + [False] * 3


def test_a_lost_phone_continues_the_run_and_one_that_stays_away_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phone, "SILENCE", 0.3)
    monkeypatch.setattr(phone, "LOOK", 0.05)
    feed = PhoneFeed(OPTIONS, patience=0.5)
    items = begun(feed)
    said: list[str] = []
    times: list[float] = []
    for item in items:
        if isinstance(item, Frame):
            times.append(item.timestamp)
        if isinstance(item, Notice):
            said.append(item.text)
            if len(said) == 1:
                offer(feed, PICTURE, 50.0)
    assert times == [0.0]
    assert said == [
        "The phone sends no images. Waiting for up to 0.5 s.",
        "The phone is back after 0 s.",
        "The phone sends no images. Waiting for up to 0.5 s.",
        "The phone did not come back: ending with what was captured.",
    ]


def test_a_capture_ended_on_the_phone_before_its_first_image_is_an_error() -> None:
    feed = PhoneFeed(OPTIONS)
    threading.Timer(0.05, feed.finish).start()
    with pytest.raises(SourceError, match="ended on the phone before its first image"):
        feed.wait()


@pytest.mark.parametrize(
    ("shots", "seconds"),
    [
        # exposed, arrived: delays of the network do not matter.
        ([(1000.0, 5.0), (1000.1, 5.4), (1000.2, 5.41)], [0.0, 0.1, 0.2]),
        # Requests may overtake each other, and an image may come twice.
        ([(1000.0, 5.0), (1000.2, 5.1), (1000.1, 5.2), (1000.2, 5.3), (1000.3, 5.4)], [0.0, 0.2, None, None, 0.3]),
        # Another phone, or a clock that is set: the time of arrival tells how much time has passed.
        ([(1000.0, 5.0), (1000.1, 5.1), (7.0, 8.0), (7.5, 8.6)], [0.0, 0.1, 3.0, 3.5]),
        ([(1000.0, 5.0), (9e9, 6.0), (9e9 + 0.5, 6.5)], [0.0, 1.0, 1.5]),
    ],
)
def test_time_passes_as_on_the_clock_of_the_phone(
    shots: list[tuple[float, float]], seconds: list[float | None]
) -> None:
    clock = ExposureClock()
    found = [clock.seconds(exposed, arrived) for exposed, arrived in shots]
    as_numbers = [[math.nan if value is None else value for value in values] for values in (found, seconds)]
    np.testing.assert_allclose(*as_numbers, atol=1e-5)


def test_only_whole_jpegs_of_the_size_asked_for_are_decoded() -> None:
    pixels = np.full((30, 40, 3), (200, 60, 20), np.uint8)
    image = decoded(jpeg(pixels), 40)
    assert image is not None
    assert np.abs(image.astype(int) - pixels).max() <= 3
    assert decoded(jpeg(pixels), 39) is None
    assert decoded(jpeg(pixels)[:200], 40) is None
    assert decoded(jpeg(pixels, "GIF"), 40) is None
