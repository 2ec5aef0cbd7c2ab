"""The server of the phone's page: what it answers, to whom, and how much of it."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from recon.core.errors import SettingsError
from recon.core.events import Finished
from recon.sources import SourceOptions
from recon.sources.phone import MOST_WAITING, PhoneFeed
from tests.viewer.phone.phones import Phone, ask, captured, picture, until
from viewer import phone
from viewer.phone import certificate, server

OPTIONS = SourceOptions(size=640, keyframes="all")
HOST = "127.0.0.1"


@pytest.fixture
def feed() -> PhoneFeed:
    return PhoneFeed(OPTIONS)


@pytest.fixture
def served(feed: PhoneFeed) -> Iterator[phone.PhoneServer]:
    with phone.serve(feed, OPTIONS, HOST) as running:
        yield running


def test_without_the_token_there_is_nothing(served: phone.PhoneServer) -> None:
    origin, token = served.address.rsplit("/", 1)
    answers = [
        ask(f"{origin}/{path}", method)
        for path in ("", "state", "x" * 22, token[:-1], token + "x", f"x/{token}", "%FF%00", "%ED%B2%80")
        for method in ("GET", "POST", "PUT", "HEAD", "OPTIONS")
    ]
    answers += [ask(origin + path, "POST", what) for path in ("/", "/x") for what in ("image", "finish", "state")]
    answers += [ask(served.address, *request) for request in (("PUT", "image"), ("GET", "x"), ("GET", "finish"))]
    assert {(answer.status, answer.body) for answer in answers} == {(404, b"")}
    assert {name for answer in answers for name in answer.headers} == {
        "Content-Length", "Date", *server.HEADERS
    }  # fmt: skip
    assert len(token) == 22  # 128 bits


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_answered_likewise(
    served: phone.PhoneServer, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    where = (HOST, urlsplit(served.address).port)
    with socket.create_connection(where) as plain, ssl._create_unverified_context().wrap_socket(plain) as secured:
        secured.sendall(sent)
        received = b"".join(iter(lambda: secured.recv(4096), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 404 Not Found\r\n")
    assert b"aiohttp" not in head
    assert body == b""
    assert capfd.readouterr().err == ""


def test_tokens_and_certificates_are_new_each_time(served: phone.PhoneServer) -> None:
    with phone.serve(PhoneFeed(OPTIONS), OPTIONS, HOST) as other:
        assert served.address.rsplit("/", 1)[1] != other.address.rsplit("/", 1)[1]
        assert served.fingerprint != other.fingerprint
        assert urlsplit(served.address).port != urlsplit(other.address).port


def test_the_certificate_is_for_this_address_alone(served: phone.PhoneServer) -> None:
    where = (HOST, urlsplit(served.address).port)
    der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(where))
    assert hashlib.sha256(der).hexdigest() == served.fingerprint
    trusting = ssl.create_default_context(cadata=der)
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    with socket.create_connection(where) as plain, trusting.wrap_socket(plain, server_hostname=HOST) as secured:
        assert secured.version() == "TLSv1.3"
    with socket.create_connection(where) as plain, pytest.raises(ssl.SSLCertVerificationError, match="IP address"):
        trusting.wrap_socket(plain, server_hostname="127.0.0.2")


def test_the_private_key_does_not_stay_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate.tempfile, "tempdir", str(tmp_path))
    certificate.tls_context(HOST)
    assert list(tmp_path.iterdir()) == []


def test_the_page_loads_nothing_from_elsewhere(served: phone.PhoneServer) -> None:
    page = ask(served.address)
    policy = page.headers["Content-Security-Policy"]
    nonce = re.findall("script-src 'nonce-(.+?)'", policy)[0]
    text = page.body.decode()
    assert policy.startswith("default-src 'none';")
    assert text.count(f'nonce="{nonce}"') == 3
    assert not re.findall(r"(?:src|href)=|https?:", text)
    assert nonce not in ask(served.address).body.decode()
    assert page.headers["Referrer-Policy"] == "no-referrer"


def test_an_image_is_answered_when_the_capture_has_seen_it(feed: PhoneFeed, served: phone.PhoneServer) -> None:
    mine = Phone(served.address)
    with captured(feed, OPTIONS) as frames:
        assert mine.image(picture(), 0.0).state["run"] == [640, 480]  # gives the size alone
        until(lambda: feed.begun)
        for number in range(3):
            state = mine.image(picture(number), 10 + number / 10).state
            assert (state["taken"], state["over"], state["tracking"]) == (True, False, "waiting")
            assert len(frames) >= number  # the last may not have been read yet
        assert not mine.image(b"nonsense", 11.0).state["over"]
        assert mine.ask("POST", "finish").state["over"]
        until(lambda: len(frames) == 3)
        assert not mine.image(picture(), 12.0).state["taken"]
    assert [frame.timestamp for frame in frames] == pytest.approx([0.0, 0.1, 0.2])


def test_images_that_nobody_reads_do_not_pile_up(
    feed: PhoneFeed, served: phone.PhoneServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.5)
    mine = Phone(served.address)
    threads = [threading.Thread(target=mine.image, args=(picture(), 1.0)) for _ in range(MOST_WAITING + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = sorted(answer.state["taken"] for answer in mine.sent)
    assert answers == [False, *[True] * MOST_WAITING]
    seconds = [answer.state["seconds"] for answer in mine.sent if answer.state["taken"]]
    assert all(0.4 < value < 2 for value in seconds)


def test_a_second_phone_is_told_so_and_may_take_over_from_one_that_is_gone(
    served: phone.PhoneServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = Phone(served.address), Phone(served.address, "other")
    assert mine.ask("GET", "state").status == 200
    assert [other.ask("GET", "state").status, other.image(picture(), 0.0).status] == [409, 409]
    assert other.ask("POST", "finish").status == 409
    assert not mine.ask("GET", "state").state["over"]
    monkeypatch.setattr(server, "AWAY_SECONDS", 0.0)
    assert other.ask("GET", "state").status == 200
    monkeypatch.setattr(server, "AWAY_SECONDS", 10.0)
    assert mine.ask("GET", "state").status == 409


def test_requests_are_limited_in_size_and_rate(served: phone.PhoneServer, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Phone(served.address)
    assert mine.image(bytes(server.MOST_BYTES + 1), 0.0).status == 413
    for nonsense in ("", "nan", "inf", "1e999", "x"):
        assert mine.ask("POST", "image", b"", exposed=nonsense).status == 400
    monkeypatch.setattr(server, "MOST_RECEIVED", 0)
    assert mine.image(picture(), 0.0).status == 429
    served._requests.extend([float("inf")] * server.MOST_PER_SECOND)
    assert mine.ask("GET", "state").status == 429


def test_the_page_learns_that_the_run_is_over_before_the_server_ends(feed: PhoneFeed) -> None:
    with phone.serve(feed, OPTIONS, HOST) as running:
        mine = Phone(running.address)
        mine.ask("GET", "state")
        running.screen(Finished(Path(), 12, 14))
        told: list[str] = []
        later = threading.Timer(0.3, lambda: told.append(mine.ask("GET", "state").state["finished"]))
        later.start()
    later.join()
    assert told == ["12 of 14 images"]
    with pytest.raises(OSError):
        ask(running.address)


@pytest.mark.parametrize("host", ["0.0.0.0", "198.51.100.7", "localhost", "192.168.1"])
def test_an_address_of_another_machine_is_refused(feed: PhoneFeed, host: str) -> None:
    sentence = re.escape(f"--host {host} is not an address of this machine")
    with pytest.raises(SettingsError, match=sentence), phone.serve(feed, OPTIONS, host):
        pass
