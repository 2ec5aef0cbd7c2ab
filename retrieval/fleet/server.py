"""A store over HTTP: receives videos, says how their maps are, locates photos, and gives out what maps export.

It only receives, reads and asks: ``recon.fleet`` makes the maps, ``retrieval.fleet`` merges them and locates photos.
Every request needs the token, as the password of HTTP Basic authentication. Errors are ``{"detail": SENTENCE}``.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from base64 import b64decode
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from fastapi.security import HTTPBasic
from fastapi_offline import FastAPIOffline
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recon import __version__
from recon.core.errors import OutputError, ReconError, SettingsError, SourceError
from recon.core.failures import reason_of
from recon.core.files import write_atomically
from recon.core.types import Frame
from recon.core.workers import Kept, workers_of_environment
from recon.fleet.store import FleetStore
from recon.fleet.uploads import NameTakenError, Uploads
from recon.folder import MAP, OUTPUTS
from recon.sources import SourceOptions, open_source
from retrieval.fleet.locate import FleetLocation
from retrieval.fleet.merge import ATLAS, FOLDER
from retrieval.location_file import content_of

TOKEN = "token"  # noqa: S105 - the name of a file in the store
SHORTEST_TOKEN = 16  # characters
MOST_PER_SECOND = 50  # requests with the token
MOST_CONNECTIONS = 100
MOST_RECEIVED = 4  # videos at a time
MOST_WAITING = 100  # videos whose maps are not made
MOST_ASKED = 8  # photos that wait for an answer
PHOTO_BYTES = 50_000_000
SPARE_BYTES = 2_000_000_000  # of the disk, left to the maps
PATIENCE = 30.0  # seconds without a byte of a body
FAREWELL = 3  # seconds for what is being sent when the server ends
STATUS: dict[type[ReconError], int] = {NameTakenError: 409, SettingsError: 400, SourceError: 422, OutputError: 507}
HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
BODY = {"requestBody": {"required": True, "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}}


@dataclass(frozen=True)
class MapState:
    """How far a map is. frames: mapped so far. seconds: of work. sentence: why it failed, or what is missing."""

    name: str
    phase: Literal["waiting", "running", "lost", "done", "failed"]
    frames: int
    seconds: float
    sentence: str


@dataclass(frozen=True)
class PhotoLocation:
    """Where a photo was taken. map: that shows the place; null if none looks like the photo. group: of maps in one
    world, null if the map is in a world of its own. The other fields are those of ``recon locate --out``.
    """

    map: str | None
    group: int | None
    located: bool
    reason: str
    world_from_cam: list[list[float]] | None = None
    position_deviation: float | None = None
    rotation_deviation_deg: float | None = None
    camera: dict[str, Any] | None = None
    inliers: int = 0
    matched: int = 0
    agreement: float = 0.0
    frame: str | None = None


@contextmanager
def serve(store: FleetStore, uploads: Uploads, host: str, port: int, most_bytes: int) -> Iterator[str]:
    """Serve a store while the block runs, on a thread of its own; the address. port: 0 for a free one. most_bytes: of
    a video.

    Raises SettingsError if nothing can listen there, or for a token that is too short, and OutputError.
    """
    token = token_of(store.folder)
    with _listening(host, port) as listening, Locating(store) as locating:
        config = uvicorn.Config(
            application(store, uploads, locating, token, most_bytes),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=FAREWELL,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="server", daemon=True)
        thread.start()
        try:
            yield f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        finally:
            with _silent(logging.getLogger("uvicorn.error")):  # what is cut off now is no fault
                server.should_exit = True
                thread.join()


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def token_of(folder: Path) -> str:
    """The token of a store, made if there is none: 128 random bits in a file that only its owner may read.

    Raises SettingsError if it is too short, and OutputError.
    """
    path = folder / TOKEN
    if not path.exists():
        mask = os.umask(0o077)
        try:
            write_atomically(path, lambda file: file.write(secrets.token_urlsafe(16).encode()))
        finally:
            os.umask(mask)
    token = path.read_text(encoding="utf-8", errors="replace").strip()
    if len(token) < SHORTEST_TOKEN:
        raise SettingsError(f"The token in {path} has fewer than {SHORTEST_TOKEN} characters. Delete it for a new one.")
    return token


def application(store: FleetStore, uploads: Uploads, locating: Locating, token: str, most_bytes: int) -> FastAPI:
    """The requests that are answered. most_bytes: of a video."""
    app = FastAPIOffline(
        redoc_url=None,
        title="recon",
        version=__version__,
        description="Send videos, watch their maps being made, locate photos in them, and fetch what they export. "
        "The password is the token of the store; the user name does not matter.",
        dependencies=[Depends(HTTPBasic(auto_error=False))],  # documents what ``Guard`` asks for
    )
    app.add_middleware(Guard, token=token)
    receiving = asyncio.Semaphore(MOST_RECEIVED)

    @app.exception_handler(ReconError)
    def refuse(_: Request, error: Exception) -> Response:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
        return JSONResponse({"detail": str(error)}, status)

    @app.get("/", include_in_schema=False)
    def start() -> Response:
        return RedirectResponse("/docs")

    @app.put("/videos/{file}", status_code=201, openapi_extra=BODY)
    async def send_video(file: str, request: Request) -> MapState:
        """Send a video. The map gets the name of the file, and is made when its turn comes."""
        _require_room(store.folder, _length(request, most_bytes))
        states = await asyncio.to_thread(_states, store)
        if sum(state.phase in ("waiting", "running", "lost") for state in states) >= MOST_WAITING:
            raise HTTPException(429, f"{MOST_WAITING} videos wait already. Send this one later.")
        if receiving.locked():
            raise HTTPException(429, f"{MOST_RECEIVED} videos are being received. Send this one later.")
        async with receiving:
            with uploads.begin(file) as upload:
                async for data in _body(request):
                    await asyncio.to_thread(upload.write, data)
                job = await asyncio.to_thread(upload.finish)
        return _state(store, job.name)

    @app.get("/maps")
    def list_maps() -> list[MapState]:
        """How far all maps are."""
        return _states(store)

    @app.get("/maps/{name}")
    def show_map(name: str) -> MapState:
        """How far a map is."""
        return _state(store, name)

    @app.delete("/maps/{name}", status_code=204, response_class=Response)
    async def delete_map(name: str) -> None:
        """Delete a map that is finished or failed, with its places and its video."""
        state = await asyncio.to_thread(_state, store, name)
        if state.phase not in ("done", "failed"):
            raise HTTPException(409, f"The map {name} is still being made. Delete it once it is done.")
        await locating.delete(name, uploads.changing)

    @app.get("/maps/{name}/files")
    def list_files(name: str) -> dict[str, int]:
        """The files that a finished map exports, with their sizes in bytes."""
        return {file: path.stat().st_size for file, path in _exports(store, name).items()}

    @app.get("/maps/{name}/files/{file:path}", response_class=FileResponse)
    def fetch_file(name: str, file: str) -> Response:
        """A file that a finished map exports."""
        path = _exports(store, name).get(file)
        if path is None:
            raise HTTPException(404, f"The map {name} exports no file {file}.")
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)

    @app.post("/locate", openapi_extra=BODY)
    async def locate_photo(request: Request) -> PhotoLocation:
        """Send a photo, to find out where it was taken, in all maps that have been merged."""
        _length(request, PHOTO_BYTES)
        with tempfile.TemporaryDirectory() as folder:
            photo = Path(folder) / "photo"  # its kind is told by its content
            with photo.open("wb") as file:
                async for data in _body(request):
                    file.write(data)
            return await locating.locate(photo)

    return app


class Guard:
    """Lets no request pass without the token, and not too many with it."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()
        self._passed: deque[float] = deque(maxlen=MOST_PER_SECOND)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        begun = False

        async def send_privately(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            await (self._refusal(Headers(scope=scope)) or self._app)(scope, receive, send_privately)
        except asyncio.CancelledError:  # the server ends
            if not begun:
                farewell = JSONResponse({"detail": "The server was told to end. Ask again later."}, 503)
                await farewell(scope, receive, send_privately)

    def _refusal(self, headers: Headers) -> Response | None:
        if not hmac.compare_digest(_password(headers.get("authorization", "")), self._token):
            sentence = "The token is missing or wrong. Give that of the store as password, with any user name."
            return JSONResponse({"detail": sentence}, 401, {"WWW-Authenticate": 'Basic realm="recon"'})
        now = time.monotonic()
        if len(self._passed) == MOST_PER_SECOND and now - self._passed[0] < 1:
            sentence = f"More than {MOST_PER_SECOND} requests came within a second. Ask again later."
            return JSONResponse({"detail": sentence}, 429, {"Retry-After": "1"})
        self._passed.append(now)
        return None


def _password(authorization: str) -> bytes:
    scheme, _, encoded = authorization.partition(" ")
    with suppress(ValueError):
        if scheme.lower() == "basic":
            return b64decode(encoded, validate=True).partition(b":")[2]
    return b""


class Locating:
    """Locates photos in the merged maps of a store, one after the other, in a process of its own."""

    def __init__(self, store: FleetStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, "locate")  # a localiser belongs to one thread
        self._workers = workers_of_environment()
        self._asked = 0
        self._localiser: Kept | None = None
        self._merged = 0  # when the maps were that it knows [ns]

    async def locate(self, photo: Path) -> PhotoLocation:
        """Raises SourceError if ``photo`` is no image, MapError, and HTTPException if no map can be searched."""
        if self._asked >= MOST_ASKED:
            raise HTTPException(429, f"{MOST_ASKED} photos wait already. Ask again later.")
        self._asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._located, photo)
        finally:
            self._asked -= 1

    async def delete(self, name: str, changing: threading.Lock) -> None:
        """Delete a map with its places. changing: the lock of the store's list. HTTPException while maps are merged."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._delete, name, changing)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._workers.close()

    def _located(self, photo: Path) -> PhotoLocation:
        frame = _read(photo)
        found: FleetLocation = self._opened().call("locate", frame)
        group = found.group if found.group >= 0 else None
        if found.location is None:
            return PhotoLocation(None, None, located=False, reason="no map looks like it")
        return PhotoLocation(found.map, group, **content_of(found.location))

    def _delete(self, name: str, changing: threading.Lock) -> None:
        try:
            with changing:
                self._workers.call("geometry", "retrieval.fleet.merge:delete_maps", self._store.folder, [name])
        except OutputError as error:
            raise HTTPException(409, "The maps are being merged. Delete it later.") from error

    def _opened(self) -> Kept:
        """The localiser for the maps as they were merged last."""
        try:
            merged = (self._store.folder / FOLDER / ATLAS).stat().st_mtime_ns
        except FileNotFoundError as error:
            raise HTTPException(409, "No map can be searched yet. Ask again once one is done.") from error
        if self._localiser is None or merged != self._merged:
            self._workers.end("geometry")
            opening = "retrieval.fleet.locate:FleetLocaliser"
            self._localiser = self._workers.keep("geometry", opening, self._store.folder, self._store.finished_maps())
            self._merged = merged
        return self._localiser


def _read(photo: Path) -> Frame:
    try:
        source = open_source(str(photo), SourceOptions(max_frames=2))
        return next(item for item in source if isinstance(item, Frame))
    except (SourceError, StopIteration) as error:
        raise SourceError("The photo cannot be read. Send the file of an image, such as a JPEG.") from error


def _states(store: FleetStore) -> list[MapState]:
    return [_state_of(store, job.name) for job in store.jobs()]


def _state(store: FleetStore, name: str) -> MapState:
    _require_known(store, name)
    return _state_of(store, name)


def _state_of(store: FleetStore, name: str) -> MapState:
    state = store.state(name)
    sentence = state.sentence.replace(f"{store.folder}/", "")
    return MapState(name, "lost" if state.is_lost else state.phase, state.frames, state.seconds, sentence)


def _require_known(store: FleetStore, name: str) -> None:
    """Only names of maps become paths."""
    if not any(job.name == name for job in store.jobs()):
        raise HTTPException(404, f"There is no map {name}.")


def _exports(store: FleetStore, name: str) -> dict[str, Path]:
    """The files that a finished map has for other programs, by their names in its folder."""
    _require_known(store, name)
    if not store.is_done(name):
        raise HTTPException(409, f"The map {name} is not finished.")
    folder = store.map_of(name).resolve()
    written = [folder / output for output in OUTPUTS if output != MAP]
    files = [file for path in written for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return {
        file.relative_to(folder).as_posix(): file
        for file in files
        if file.is_file() and file.resolve().is_relative_to(folder)
    }


def _length(request: Request, most: int) -> int:
    """The size of a body that is still to come [bytes]."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise HTTPException(411, "State the size of the body, with the header Content-Length.")
    if int(length) > most:
        raise HTTPException(413, f"The body has {int(length)} bytes; at most {most} are taken.")
    return int(length)


def _require_room(folder: Path, size: int) -> None:
    if shutil.disk_usage(folder).free < size + SPARE_BYTES:
        raise HTTPException(507, "The disk is too full for this video. Delete what is not needed.")


async def _body(request: Request) -> AsyncIterator[bytes]:
    """A body as it comes. HTTPException if the client stops sending."""
    parts = request.stream()
    try:
        while True:
            async with asyncio.timeout(PATIENCE):
                data = await anext(parts, None)
            if data is None:
                return
            yield data
    except TimeoutError as error:
        raise HTTPException(408, f"Nothing came for {PATIENCE:.0f} seconds. Send it again.") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "The connection ended too early. Send it again.") from error


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise SettingsError(
            f"Nothing can listen at {host}, port {port} ({reason_of(error)}). Choose another --host or --port."
        ) from error
