"""The server of the phone's page: HTTPS for one phone that knows the token, and nothing for anybody else.

The page sends each image as a request of its own. The answer comes when the capture has seen the image, and says how
the run is doing: it is the acknowledgement that paces the phone. A WebSocket would do the same, but Safari on iOS is
reported to refuse those to a self-signed certificate, even to one that the user has accepted for the page.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import math
import secrets
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import resources
from string import Template
from typing import Any

from aiohttp import web

from recon.core.errors import SettingsError
from recon.core.failures import reason_of
from recon.sources.base import SourceOptions
from recon.sources.phone import PhoneFeed, Shot
from viewer.phone.certificate import tls_context
from viewer.phone.screen import PhoneScreen

logger = logging.getLogger(__name__)

USUAL_PORT = 8443  # so that a firewall can be opened for it
USUAL_RATE = 10.0  # images a second that the page sends at most, unless --fps says otherwise
MOST_BYTES = 4 * 2**20  # of an image
MOST_PER_SECOND = 100  # requests with the token
MOST_RECEIVED = 4  # images at a time
READ_SECONDS = 10.0  # for the body of a request
ANSWER_SECONDS = 5.0  # for the capture to see an image
AWAY_SECONDS = 10.0  # after the last request of a phone another may take its place
FAREWELL_SECONDS = 3.0  # for the page to learn that the run has ended
Answer = Callable[[web.Request], Awaitable[web.Response]]
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "Permissions-Policy": "camera=(self)",
}
POLICY = (
    "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@contextmanager
def serve(feed: PhoneFeed, options: SourceOptions, host: str) -> Iterator[PhoneServer]:
    """Serve the page at the IP address ``host`` of this machine while the block runs, on a thread of its own.

    Raises SettingsError if ``host`` is no such address.
    """
    listening = _listening(host)
    context, fingerprint = tls_context(host)
    server = PhoneServer(feed, options, listening, context, fingerprint)
    thread = threading.Thread(target=server.run, name="phone", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        feed.finish()
        server.stop()
        thread.join()


class PhoneServer:
    """Receives images for ``feed`` and answers with the state of ``screen``; see ``serve``.

    address: of the page, with the token. fingerprint: SHA-256 of the certificate, in hexadecimal.
    """

    def __init__(
        self,
        feed: PhoneFeed,
        options: SourceOptions,
        listening: socket.socket,
        context: ssl.SSLContext,
        fingerprint: str,
    ) -> None:
        self.screen = PhoneScreen()
        self.fingerprint = fingerprint
        self._feed, self._listening, self._context = feed, listening, context
        self._token = secrets.token_urlsafe(16)
        host, port = listening.getsockname()
        self.address = f"https://{host}:{port}/{self._token}"
        self._settings = {"size": options.size, "rate": options.fps or USUAL_RATE}
        self._phone, self._heard = "", -math.inf  # the phone in use, and when its last request came
        self._requests: deque[float] = deque(maxlen=MOST_PER_SECOND)
        self._receiving = 0
        self._told_end = threading.Event()
        self._loop, self._stopping = asyncio.new_event_loop(), asyncio.Event()

    def run(self) -> None:
        """Serve until ``stop`` is called."""
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.run_until_complete(self._end_requests())
            self._loop.close()

    def stop(self) -> None:
        """End the server, once a phone that is still there knows that the run is over."""
        if time.monotonic() - self._heard < AWAY_SECONDS and self.screen.state()["finished"]:
            self._told_end.wait(FAREWELL_SECONDS)
        self.screen.close()
        self._soon(self._stopping)

    async def _serve(self) -> None:
        application = web.Application(client_max_size=MOST_BYTES)
        application.router.add_route("*", "/{path:.*}", self._answer)
        application.on_response_prepare.append(_without_details)
        runner = web.AppRunner(application, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        assert runner.server
        connection = partial(_Connection, runner.server, loop=self._loop, access_log=None)  # type: ignore[arg-type]
        listening = await self._loop.create_server(
            connection, sock=self._listening, ssl=self._context, ssl_handshake_timeout=READ_SECONDS
        )
        await self._stopping.wait()
        listening.close()
        await runner.cleanup()

    async def _end_requests(self) -> None:
        """End what a phone that is still there has asked for."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _answer(self, request: web.Request) -> web.Response:
        token, _, what = request.path.removeprefix("/").partition("/")
        answers: dict[tuple[str, str], Answer] = {
            ("GET", ""): self._page,
            ("GET", "state"): self._state,
            ("GET", "map"): self._map,
            ("POST", "image"): self._image,
            ("POST", "finish"): self._finish,
        }
        answer = answers.get((request.method, what))
        known = hmac.compare_digest(token.encode(errors="replace"), self._token.encode())
        if not known or answer is None:
            return web.Response(status=404)
        return web.Response(status=429) if self._is_too_fast() else await answer(request)

    async def _page(self, _: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        parts = {
            "nonce": nonce,
            "settings": json.dumps(self._settings),
            "style": _asset("phone", "page.css"),
            "cloud": _asset("report", "cloud.js"),
            "script": _asset("phone", "page.js"),
        }
        text = Template(_asset("phone", "page.html")).substitute(parts)
        return web.Response(
            text=text, content_type="text/html", headers={"Content-Security-Policy": POLICY.format(nonce=nonce)}
        )

    async def _image(self, request: web.Request) -> web.Response:
        """Hand an image to the capture, and answer once that has seen it."""
        exposed = _seconds(request.query.get("exposed", ""))
        if exposed is None:
            return web.Response(status=400)
        if not self._is_the_phone(request):
            return web.Response(status=409)
        if self._receiving >= MOST_RECEIVED:
            return web.Response(status=429)
        self._receiving += 1
        try:
            async with asyncio.timeout(READ_SECONDS):
                jpeg = await request.read()
            arrived, seen = time.monotonic(), asyncio.Event()
            taken = self._feed.offer(Shot(jpeg, exposed, arrived, lambda: self._soon(seen)))
            if taken:
                with suppress(TimeoutError):
                    await asyncio.wait_for(seen.wait(), ANSWER_SECONDS)
        except TimeoutError:
            return web.Response(status=408)
        finally:
            self._receiving -= 1
        return await self._state(request, taken=taken, seconds=time.monotonic() - arrived)

    async def _map(self, _: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(self.screen.map))

    async def _finish(self, request: web.Request) -> web.Response:
        if self._is_the_phone(request):
            self._feed.finish()
        return await self._state(request)

    async def _state(self, request: web.Request, **more: Any) -> web.Response:
        if not self._is_the_phone(request):
            return web.Response(status=409)
        state = self.screen.state()
        if state["finished"]:
            self._told_end.set()
        size = self._feed.sizes[0] if self._feed.sizes else None
        return web.json_response(state | {"begun": self._feed.begun, "over": self._feed.over, "run": size, **more})

    def _soon(self, event: asyncio.Event) -> None:
        """Set an event of the server's thread from another one."""
        with suppress(RuntimeError):  # the server has ended
            self._loop.call_soon_threadsafe(event.set)

    def _is_the_phone(self, request: web.Request) -> bool:
        """Whether a request comes from the phone in use, or from one that takes its place because it is away."""
        phone, now = request.query.get("phone", ""), time.monotonic()
        if phone != self._phone and now - self._heard < AWAY_SECONDS:
            return False
        self._phone, self._heard = phone, now
        return True

    def _is_too_fast(self) -> bool:
        now = time.monotonic()
        if len(self._requests) == MOST_PER_SECOND and now - self._requests[0] < 1:
            return True
        self._requests.append(now)
        return False


class _Connection(web.RequestHandler):
    """Answers what is no request as one without the token, and logs no visitors."""

    __slots__ = ()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.Response:
        if status >= 500:
            logger.error("The server for the phone failed (%s: %s).", type(exc).__name__, exc)
            logger.debug("", exc_info=exc)
        refusal = web.Response(status=500 if status >= 500 else 404, headers=HEADERS | {"Server": ""})
        refusal.force_close()
        return refusal


async def _without_details(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
    response.headers.pop("Server", None)  # aiohttp names itself and its version


def _asset(folder: str, name: str) -> str:
    return (resources.files(f"viewer.{folder}") / name).read_text(encoding="utf-8")


def _seconds(text: str) -> float | None:
    with suppress(ValueError):
        seconds = float(text)
        return seconds if math.isfinite(seconds) else None
    return None


def _listening(host: str) -> socket.socket:
    """A socket that listens at ``host``, on the usual port if it is free. Raises SettingsError."""
    reason: object = "it is not of the form 192.168.1.2"
    with suppress(ValueError):
        if ipaddress.IPv4Address(host).is_unspecified:
            reason = "it stands for all of them"
        else:
            for port in (USUAL_PORT, 0):
                try:
                    return socket.create_server((host, port))
                except OSError as error:
                    reason = reason_of(error)
    raise SettingsError(f"--host {host} is not an address of this machine ({reason}). Give one that the phone reaches.")
