import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import viewer
from recon.core.errors import DependencyError, MapError
from tests.viewer import scene
from viewer import launch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with viewer.record(tmp_path / viewer.RECORDING, strict=True) as listener:
        listener(scene.chunk_event(0))
    return tmp_path


def test_folder_without_recording(tmp_path: Path) -> None:
    with pytest.raises(MapError, match=r"contains no map: .* is missing"):
        viewer.show(tmp_path)


def test_no_display_names_the_file_and_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "has_display", lambda: False)
    with pytest.raises(DependencyError, match="no display") as caught:
        viewer.show(folder)
    assert str(folder / viewer.RECORDING) in str(caught.value)
    assert "--web" in str(caught.value)


def test_a_missing_display_is_detected_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not launch.has_display()
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert launch.has_display()


def test_window_that_does_not_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "has_display", lambda: True)
    monkeypatch.setattr(launch, "start_rerun", lambda *_, **__: subprocess.Popen([sys.executable, "-c", "exit(1)"]))
    with pytest.raises(DependencyError, match="could not be opened"):
        viewer.show(folder)
    with pytest.raises(DependencyError, match="could not be opened"):
        launch.open_window()


def test_missing_rerun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match="pip install rerun-sdk"):
        launch.start_rerun("--version")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the listening addresses from /proc")
def test_web_serves_on_this_machine_only_until_ctrl_c(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code = f"import viewer, pathlib; viewer.show(pathlib.Path({str(folder)!r}), web=True)"
    environment = os.environ | {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_DATA_HOME": str(home)}
    server = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job ignores Ctrl-C, and so would every process that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        address = server.stdout.readline().split()[-1]
        assert address.startswith("http://127.0.0.1:")
        page, data = (int(part) for part in _ports(address))
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert b"<html" in answer.read()
            policy = answer.headers["Content-Security-Policy"]
        assert "connect-src 'self' http://127.0.0.1:* blob: data:" in policy
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{page}/nothing", timeout=60)
        assert _listening(page) == _listening(data) == {"0100007F"}
    finally:
        os.killpg(server.pid, signal.SIGINT)
    assert server.wait(timeout=120) == 0
    assert not [path for path in home.rglob("*") if path.is_file()]


@pytest.mark.skipif(sys.platform != "linux", reason="only there every 127.x.y.z is this machine")
def test_another_address_serves_page_and_data_there_alone(tmp_path: Path) -> None:
    shown, address = viewer.web(tmp_path, "127.0.0.2", strict=True)
    with shown:
        shown(scene.chunk_event(0))
        page, data = (int(part) for part in _ports(address))
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert "connect-src 'self' http://127.0.0.2:* blob: data:" in answer.headers["Content-Security-Policy"]
        assert address.startswith("http://127.0.0.2:")
        assert _listening(page) == _listening(data) == {"0200007F"}
        assert _allowed_origin(data, address.split("?")[0]) == address.split("?")[0]
        assert _allowed_origin(data, "http://elsewhere.example") is None


def _allowed_origin(port: int, origin: str) -> str | None:
    """The data server's answer to a browser that asks whether a page of ``origin`` may use it."""
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    request = urllib.request.Request(f"http://127.0.0.2:{port}/", method="OPTIONS", headers=asked)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers["Access-Control-Allow-Origin"]


def _ports(address: str) -> tuple[str, str]:
    page, source = address.split("?url=")
    return page.rsplit(":", 1)[1], source.split("%3A")[2].split("%2F")[0]


def _listening(port: int) -> set[str]:
    """Local addresses, in the kernel's hexadecimal notation, on which this machine listens at a port."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                local, state = line.split()[1], line.split()[3]
                if state == "0A" and int(local.split(":")[1], 16) == port:
                    found.add(local.split(":")[0])
    return found
