"""The page in headless Chromium, whose camera shows images of the sample."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import numpy as np
import pytest
from PIL import Image as PillowImage

from recon.core.types import Image
from recon.sources import SourceOptions
from recon.sources.phone import PhoneFeed
from tests.viewer import scene
from tests.viewer.phone.phones import SAMPLE, Phone, captured, picture
from viewer import phone

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--ignore-certificate-errors", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
    "--remote-debugging-port=0", "--user-data-dir=profile",
)  # fmt: skip
SHOWN = 6  # images of the sample that the camera shows, again and again
OPTIONS = SourceOptions(size=320, keyframes="all")
SECONDS = 90.0  # after which the test stops waiting
Result = TypeVar("Result")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


class Browser:
    """A tab of Chromium, driven by the DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._calls = socket, 0

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": parameters})
        while (message := await self._socket.receive_json()).get("id") != self._calls:
            pass
        return message["result"]

    async def run(self, script: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def text(self, name: str) -> str:
        return await self.run(f"document.getElementById('{name}')?.textContent ?? ''")

    async def until(self, holds: Callable[[], Awaitable[object]]) -> None:
        give_up = time.monotonic() + SECONDS
        while not await holds():
            assert time.monotonic() < give_up, await self.run("document.body.innerText")
            await asyncio.sleep(0.1)


def in_browser(film: Path, use: Callable[[Browser], Coroutine[Any, Any, Result]]) -> Result:
    """Run ``use`` with a tab of a new browser."""

    async def drive() -> Result:
        port_file = film.parent / "profile" / "DevToolsActivePort"
        give_up = time.monotonic() + SECONDS
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert time.monotonic() < give_up
            await asyncio.sleep(0.1)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port_file.read_text().split()[0]}/json") as answer:
                tabs = [tab for tab in await answer.json(content_type=None) if tab["type"] == "page"]
            async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                return await use(Browser(socket))

    assert CHROMIUM
    command = [CHROMIUM, *FLAGS, f"--use-file-for-fake-video-capture={film}", "about:blank"]
    chromium = subprocess.Popen(command, cwd=film.parent, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        return asyncio.run(drive())
    finally:
        chromium.terminate()
        chromium.wait()


def film_of_sample(folder: Path) -> Path:
    """Motion JPEG, each image for a fifth of a second at Chromium's 30 images a second."""
    film = folder / "sample.mjpeg"
    film.write_bytes(b"".join(picture(number) * 6 for number in range(SHOWN)))
    return film


def likeness(shown: Image, number: int) -> float:
    """The correlation of an image with one of the sample."""
    with PillowImage.open(SAMPLE / f"{number:06d}.jpg") as image:
        true = np.asarray(image.resize((320, 240), PillowImage.Resampling.BOX))
    return float(np.corrcoef(true.ravel(), shown.ravel())[0, 1])


def test_a_browser_is_the_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed, sizes = PhoneFeed(OPTIONS), list[int]()
    offer = feed.offer
    monkeypatch.setattr(feed, "offer", lambda shot: sizes.append(len(shot.jpeg)) or offer(shot))
    with phone.serve(feed, OPTIONS, "127.0.0.1") as served, captured(feed, OPTIONS) as frames:

        async def use(tab: Browser) -> tuple[int, str]:
            await tab.call("Network.enable")
            await tab.call("Page.navigate", url=served.address)
            await tab.until(lambda: tab.text("start"))
            await tab.run("document.getElementById('start').click()")
            await tab.until(lambda: asyncio.to_thread(lambda: len(frames) >= 5))
            assert await tab.text("state") == "Starting"
            # Another phone is refused, and the map and the state of the tracker are shown.
            assert Phone(served.address, "other").ask("GET", "state").status == 409
            served.screen(scene.chunk_event(0))
            served.screen(next(iter(scene.tracked_events(1))))
            await tab.until(lambda: tab.run("document.getElementById('empty').hidden"))
            await tab.until(lambda: tab.run("document.getElementById('state').textContent === 'Tracking'"))
            assert (await tab.text("advice"), await tab.text("placed")) == ("Go on.", "3")
            # The same phone continues after its page has been loaded again.
            before = len(frames)
            await tab.call("Page.reload")
            await tab.until(lambda: tab.run("document.body?.dataset.state === 'off'"))
            await tab.run("document.getElementById('start').click()")
            await tab.until(lambda: asyncio.to_thread(lambda: len(frames) >= before + 5))
            # A slow network gets smaller images, which are enlarged on arrival.
            slow = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": 40_000}  # bytes a second
            await tab.call("Network.emulateNetworkConditions", offline=False, **slow)
            await tab.until(lambda: asyncio.to_thread(lambda: min(sizes) < 0.5 * max(sizes)))
            await tab.call("Network.emulateNetworkConditions", offline=False, **slow | {"uploadThroughput": -1})
            await tab.run("document.getElementById('finish').click()")
            await tab.until(lambda: tab.run("document.getElementById('state').textContent === 'Finishing'"))
            return before, await tab.run("JSON.stringify(document.getElementById('video').srcObject.active)")

        before, active = in_browser(film_of_sample(tmp_path), use)
    assert json.loads(active) is False  # the camera is off
    assert feed.over
    assert {frame.image.shape for frame in frames} == {(240, 320, 3)}
    alike = [max(likeness(frame.image, number) for number in range(SHOWN)) for frame in frames]
    assert min(alike) > 0.98, alike  # of neighbouring images, 0.73; Chromium changes the contrast
    steps = np.diff([frame.timestamp for frame in frames])
    assert steps.min() > 0.08, steps  # ten a second at most
    assert np.median(steps) < 1
    assert len(frames) >= before + 5
