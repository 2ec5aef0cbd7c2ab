"""``recon fleet serve`` through HTTP: videos, states, files, and everything that must be refused."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from recon.core.errors import SettingsError
from recon.core.types import SparsePoints
from recon.fleet.store import FleetStore, Job, State
from recon.fleet.uploads import NameTakenError, Uploads
from recon.store.lock import sole_writer
from recon.store.map import MapStore
from retrieval.fleet import server
from retrieval.fleet.merge import LOCKED
from retrieval.fleet.server import serve, token_of
from tests.cases.videos import Track, write_video
from tests.retrieval.fleet.http import Client

MOST_BYTES = 100_000
SECRET = "TOP SECRET"


@pytest.fixture
def store(tmp_path: Path) -> FleetStore:
    (tmp_path / "secret.txt").write_text(SECRET)
    return FleetStore(tmp_path / "store")


@pytest.fixture
def uploads(store: FleetStore) -> Uploads:
    return Uploads(store, ("--size", "320"))


@pytest.fixture
def client(store: FleetStore, uploads: Uploads) -> Iterator[Client]:
    with serve(store, uploads, "127.0.0.1", 0, MOST_BYTES) as url:
        yield Client(url, token_of(store.folder))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    pictures = [np.full((48, 64, 3), 20 * number, np.uint8) for number in range(5)]
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", Track(pictures)).read_bytes()


def test_a_video_becomes_a_source_and_a_restart_knows_it(
    client: Client, store: FleetStore, uploads: Uploads, video: bytes
) -> None:
    waiting = {"name": "a_walk", "phase": "waiting", "frames": 0, "seconds": 0.0, "sentence": ""}
    assert client.ask("PUT", "/videos/a%20walk.mp4", video) == (201, waiting)
    path = store.folder / "uploads" / "a_walk.mp4"
    assert path.read_bytes() == video
    job = Job("a_walk", "run", str(path), ("--size", "320"))
    assert uploads.arrived() == [job]
    assert uploads.arrived() == []
    assert client.ask("PUT", "/videos/a%20walk.mp4", video)[0] == 409
    store.write_state("a_walk", State("failed", 1, 7, 2.0, sentence=f"{path} is blank."))
    failed = waiting | {"phase": "failed", "frames": 7, "seconds": 2.0, "sentence": "uploads/a_walk.mp4 is blank."}
    assert client.ask("GET", "/maps/a_walk") == (200, failed)
    assert client.ask("GET", "/maps") == (200, [failed])
    assert client.ask("GET", "/maps/a_walk/files") == (409, {"detail": "The map a_walk is not finished."})

    # A kill after the video was stored, and one while the next was coming.
    (store.folder / "fleet.json").unlink()
    (store.folder / "uploads" / ".coming-next.mp4").write_bytes(b"half")
    assert Uploads(store, ("--size", "320")).jobs == (job,)
    assert [file.name for file in (store.folder / "uploads").iterdir()] == ["a_walk.mp4"]
    assert Uploads(store, ("--fps", "2")).jobs == (job,)  # other options are for other videos


def test_a_map_is_deleted_once_it_is_made(client: Client, store: FleetStore, uploads: Uploads, video: bytes) -> None:
    assert client.ask("PUT", "/videos/walk.mp4", video)[0] == 201
    status, answer = client.ask("DELETE", "/maps/walk")
    assert (status, answer["detail"]) == (409, "The map walk is still being made. Delete it once it is done.")
    store.write_state("walk", State("failed", 1, sentence="It is blank."))
    with sole_writer(store.folder / LOCKED, "recon fleet merge"):
        status, answer = client.ask("DELETE", "/maps/walk")
    assert (status, answer["detail"]) == (409, "The maps are being merged. Delete it later.")
    assert (store.folder / "uploads" / "walk.mp4").exists()
    assert replace(client, token="wrong").ask("DELETE", "/maps/walk")[0] == 401
    assert client.ask("DELETE", "/maps/walk") == (204, b"")
    assert client.ask("DELETE", "/maps/walk") == (404, {"detail": "There is no map walk."})
    assert Uploads(store).jobs == ()
    assert client.ask("PUT", "/videos/walk.mp4", video)[0] == 201  # the name is free


@pytest.mark.parametrize(
    ("file", "content", "status", "sentence"),
    [
        ("walk.mp4", b"no video at all, but text" * 9, 422, "walk.mp4 is no video of a known format."),
        ("walk.mp4", b"", 422, "walk.mp4 is no video of a known format."),
        (
            "list.ts",
            b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/film.ts\n",
            422,
            "list.ts is no video of a known",
        ),
        ("walk.exe", b"", 400, "walk.exe is no name for a video: give at most 100 bytes"),
        ("...mp4", b"", 400, "...mp4 is no name for a video"),
        ("a" * 200 + ".mp4", b"", 400, "is no name for a video"),
        ("walk.mp4", b"0" * (MOST_BYTES + 1), 413, f"The body has {MOST_BYTES + 1} bytes; at most {MOST_BYTES} are"),
    ],
)
def test_what_is_no_video_is_refused_and_leaves_nothing(
    client: Client, store: FleetStore, file: str, content: bytes, status: int, sentence: str
) -> None:
    code, answer = client.ask("PUT", f"/videos/{file}", content)
    assert code == status
    assert sentence in answer["detail"]
    assert str(store.folder) not in answer["detail"]
    assert list((store.folder / "uploads").iterdir()) == []
    assert client.ask("GET", "/maps") == (200, [])


def test_uploads_are_bounded(
    client: Client, store: FleetStore, uploads: Uploads, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = urlsplit(client.url).netloc.split(":")
    head = f"PUT /videos/walk.mp4 HTTP/1.1\r\nHost: x\r\nAuthorization: {client.authorization}\r\n"
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 411 ")
    monkeypatch.setattr(server, "PATIENCE", 0.2)
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(f"{head}Content-Length: 1000\r\n\r\nhalf".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 408 ")
    assert list((store.folder / "uploads").iterdir()) == []
    with uploads.begin("walk.mkv"):
        assert client.ask("PUT", "/videos/walk.mkv", video)[0] == 409  # by somebody else, at the same time
    with uploads.begin("two.mkv") as other:
        assert client.ask("PUT", "/videos/two.mp4", video)[0] == 201
        other.write(video)
        with pytest.raises(NameTakenError, match="There is a map two already"):
            other.finish()  # it would take the place of the first
    assert [file.name for file in (store.folder / "uploads").iterdir()] == ["two.mp4"]
    with monkeypatch.context() as full:
        full.setattr(server, "SPARE_BYTES", 1 << 60)
        assert client.ask("PUT", "/videos/walk.mp4", video)[0] == 507
    with monkeypatch.context() as many:
        many.setattr(server, "MOST_WAITING", 0)
        assert client.ask("PUT", "/videos/walk.mp4", video)[0] == 429
    assert client.ask("PUT", "/videos/walk.mp4", video)[0] == 201


def test_only_what_a_finished_map_exports_can_be_fetched(client: Client, store: FleetStore) -> None:
    store.extend([Job("room", "run", "room.mp4")])
    MapStore(store.map_of("room")).write_places((), (), SparsePoints.empty(), complete=True)
    (store.map_of("room") / "poses.txt").write_text("0 1 2 3")
    (store.map_of("room") / "cloud.ply").symlink_to(store.folder.parent / "secret.txt")
    colmap = store.map_of("room") / "colmap" / "sparse"
    colmap.mkdir(parents=True)
    (colmap / "images.bin").write_bytes(b"\0\1")
    assert client.ask("GET", "/maps/room/files") == (200, {"poses.txt": 7, "colmap/sparse/images.bin": 2})
    assert client.ask("GET", "/maps/room/files/poses.txt") == (200, b"0 1 2 3")
    assert client.ask("GET", "/maps/room/files/poses.txt", Range="bytes=2-4") == (206, b"1 2")
    assert client.ask("GET", "/maps/room/files/colmap/sparse/images.bin") == (200, b"\0\1")
    up = "../../.."
    for path in (
        "/maps/room/files/cloud.ply",
        "/maps/room/files/map/map.db",
        f"/maps/room/files/{up}/secret.txt",
        f"/maps/room/files/{up.replace('.', '%2e').replace('/', '%2f')}%2fsecret.txt",
        f"/maps/room/files//{store.folder.parent}/secret.txt",
        f"/maps/{up}/files/secret.txt",
        "/maps/..%2f../files/secret.txt",
        "/maps/../token",
        "/token",
        f"/static-offline-docs/{up}/{up}/etc/hostname",
    ):
        status, answer = client.ask("GET", path)
        assert status == 404, path
        assert SECRET not in str(answer)
    for path in ("/videos/..%2f..%2fwalk.mp4", "/videos/../walk.mp4", "/videos//walk.mp4"):
        assert client.ask("PUT", path, b"x")[0] in (404, 405), path
    assert {file.name for file in store.folder.parent.iterdir()} == {"secret.txt", "store"}


def test_nothing_is_answered_without_the_token(client: Client, store: FleetStore, video: bytes) -> None:
    assert (store.folder / "token").stat().st_mode & 0o777 == 0o600
    assert len(client.token) == 22
    pages = ("/docs", "/openapi.json", "/static-offline-docs/swagger-ui-bundle.js", "/maps", "/maps/a", "/none", "/")
    for token in ("", client.token[:-1], client.token + "x", "é"):
        stranger = replace(client, token=token)
        for path in pages:
            assert stranger.ask("GET", path)[0] == 401
        assert stranger.ask("PUT", "/videos/walk.mp4", video)[0] == 401
        assert stranger.ask("POST", "/locate", b"x")[0] == 401
    for header in ("", "Basic", "Basic !", f"Bearer {client.token}"):
        assert client.ask("GET", "/maps", Authorization=header)[0] == 401
    assert list((store.folder / "uploads").iterdir()) == []
    status, described = client.ask("GET", "/openapi.json")
    assert status == 200
    assert set(described["paths"]) == {
        "/videos/{file}", "/maps", "/maps/{name}", "/maps/{name}/files", "/maps/{name}/files/{file}", "/locate"
    }  # fmt: skip
    page = client.ask("GET", "/docs")[1].decode()
    assert "https://" not in page.replace("https://fastapi.tiangolo.com", "")
    assert client.ask("GET", "/static-offline-docs/swagger-ui-bundle.js")[0] == 200


def test_too_many_requests_are_told_to_come_later() -> None:
    guard = server.Guard(lambda *_: None, "a" * 16)  # type: ignore[arg-type, return-value]
    right = server.Headers({"authorization": "Basic OmFhYWFhYWFhYWFhYWFhYWE="})
    for _ in range(server.MOST_PER_SECOND):
        assert guard._refusal(right) is None
    refusal = guard._refusal(right)
    assert refusal
    assert (refusal.status_code, refusal.headers["Retry-After"]) == (429, "1")
    guard._passed[0] -= 1
    assert guard._refusal(right) is None


def test_no_photo_is_located_before_there_are_maps(client: Client) -> None:
    assert client.ask("POST", "/locate", b"no photo") == (
        422,
        {"detail": "The photo cannot be read. Send the file of an image, such as a JPEG."},
    )
    photo = io.BytesIO()
    Image.new("RGB", (64, 48)).save(photo, "JPEG")
    sentence = "No map can be searched yet. Ask again once one is done."
    assert client.ask("POST", "/locate", photo.getvalue()) == (409, {"detail": sentence})
    assert client.ask("POST", "/locate", b"x" * 9, Content_Length=str(server.PHOTO_BYTES + 1))[0] == 413


def test_who_waits_while_the_server_ends_is_told(
    store: FleetStore, uploads: Uploads, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "FAREWELL", 0.2)
    with serve(store, uploads, "127.0.0.1", 0, MOST_BYTES) as url:
        client = Client(url, token_of(store.folder))
        waiting = socket.create_connection(urlsplit(url).netloc.split(":"))  # type: ignore[arg-type]
        head = f"PUT /videos/walk.mp4 HTTP/1.1\r\nHost: x\r\nAuthorization: {client.authorization}\r\n"
        waiting.sendall(f"{head}Content-Length: 1000\r\n\r\nhalf".encode())
        while not list((store.folder / "uploads").iterdir()):
            time.sleep(0.01)
    with waiting:
        assert waiting.recv(1000).startswith(b"HTTP/1.1 503 ")
    assert list((store.folder / "uploads").iterdir()) == []
    assert caplog.records == []


def test_a_place_to_listen_and_a_token_must_be_good(store: FleetStore, uploads: Uploads) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(SettingsError, match=rf"at 127.0.0.1, port {port} \(Address already in use\)\. Choose"),
            serve(store, uploads, "127.0.0.1", port, MOST_BYTES),
        ):
            pass
    (store.folder / "token").write_text("short")
    with pytest.raises(SettingsError, match="fewer than 16 characters"):
        token_of(store.folder)
