"""A phone without a browser: it speaks to the server as the page does."""

from __future__ import annotations

import io
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from PIL import Image as PillowImage

from recon.core.types import Frame
from recon.sources import SourceOptions
from recon.sources.live import LiveSource
from recon.sources.phone import PhoneFeed

SAMPLE = Path(__file__).resolve().parents[3] / "data" / "sample" / "images"
SECONDS = 15.0  # after which a test stops waiting


def until(holds: Callable[[], object], seconds: float = SECONDS) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, "waited too long"
        time.sleep(0.02)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def state(self) -> dict[str, Any]:
        return json.loads(self.body)


def ask(address: str, method: str = "GET", what: str = "", body: bytes | None = None, **query: object) -> Answer:
    """One request on a connection of its own, which accepts any certificate, as its user does."""
    parts = urlsplit(address)
    assert parts.hostname
    trusting = ssl._create_unverified_context()
    connection = HTTPSConnection(parts.hostname, parts.port, timeout=SECONDS, context=trusting)
    try:
        path = f"{parts.path}/{what}" if what else parts.path
        connection.request(method, f"{path}?{urlencode(query)}" if query else path, body)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


@dataclass
class Phone:
    """A phone that sends images one after the other."""

    address: str
    name: str = "mine"
    sent: list[Answer] = field(default_factory=list)

    def ask(self, method: str, what: str, body: bytes | None = None, **query: object) -> Answer:
        return ask(self.address, method, what, body, phone=self.name, **query)

    def image(self, content: bytes, exposed: float) -> Answer:
        self.sent.append(self.ask("POST", "image", content, exposed=exposed))
        return self.sent[-1]


def picture(number: int = 0, width: int = 640) -> bytes:
    """An image of the sample, ``width`` pixels wide, as JPEG."""
    coded = io.BytesIO()
    with PillowImage.open(SAMPLE / f"{number:06d}.jpg") as image:
        image.resize((width, width * 3 // 4), PillowImage.Resampling.BOX).save(coded, "JPEG", quality=90)
    return coded.getvalue()


@contextmanager
def captured(feed: PhoneFeed, options: SourceOptions) -> Iterator[list[Frame]]:
    """Runs the capture of a feed on a thread, once there is a first image; its frames."""
    frames: list[Frame] = []

    def capture() -> None:
        feed.wait()
        frames.extend(item for item in LiveSource("phone", feed, options) if isinstance(item, Frame))

    thread = threading.Thread(target=capture, daemon=True)
    thread.start()
    try:
        yield frames
    finally:
        feed.finish()
        thread.join(SECONDS)
