"""Starts Rerun's own program, with a window or a web page, for this machine only. Nothing here imports rerun.

The program collects usage data by default. Setting ``CI`` in its environment turns that off without touching the user's
configuration file.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

from recon.core.errors import DependencyError, MapError, SettingsError
from recon.store.ledger import Ledger
from recon.store.missing import about_replaced, why_no_map
from viewer.page import serve_page

RECORDING = "recording.rrd"
LOOPBACK = "127.0.0.1"
STARTS_WITHIN = 20.0  # seconds


def show(folder: Path, *, web: bool = False) -> None:
    """Open ``folder/recording.rrd`` in Rerun's window, or serve it to this machine's browser with ``web``.

    Returns when the window is closed or Ctrl-C is pressed. Raises MapError if the folder has no recording, and
    DependencyError, which names the file and says how to open it elsewhere, if no window can be opened.
    """
    path = folder / RECORDING
    if not path.is_file():
        raise MapError(_why_no_recording(folder))
    if web:
        _serve(path)
        return
    elsewhere = f"Open {path} with 'rerun {path.name}' on a machine that has a screen, or serve it with --web."
    if not has_display():
        raise DependencyError(f"This machine has no display to open a window on. {elsewhere}")
    window = start_rerun(str(path), "--port", str(free_port()))
    if _wait(window) != 0:
        raise DependencyError(f"The Rerun window could not be opened or crashed. {elsewhere}")


def _why_no_recording(folder: Path) -> str:
    ledger = Ledger(folder)
    if not ledger.has("map"):
        return why_no_map(folder)
    if (folder / "report.json").is_file() and not ledger.has("parts"):
        return f"{folder} has no recording; only runs make one. Open {folder / 'report.html'} in a browser."
    return (
        f"{folder} has no recording, as its run did not use --viewer record. Make one with: recon run SOURCE --out "
        f"{shlex.quote(str(folder))} --viewer record --resume. To rebuild the map too, use --overwrite in place of "
        f"--resume.{about_replaced(folder)}"
    )


def open_window() -> str:
    """Open an empty Rerun window that outlives this process, and return the address it listens on.

    Raises DependencyError if there is no display or the window does not open.
    """
    if not has_display():
        raise DependencyError("This machine has no display to open a window on.")
    port = free_port()
    window = start_rerun("--port", str(port), "--expect-data-soon", own_session=True)
    if not comes_up(window, port):
        raise DependencyError("The Rerun window could not be opened on this machine's display.")
    return f"rerun+http://{LOOPBACK}:{port}/proxy"


def has_display() -> bool:
    """Whether a window is likely to open: X11 and Wayland set environment variables, other systems always can."""
    return sys.platform in ("win32", "darwin") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def start_rerun(*arguments: str, own_session: bool = False, host: str = LOOPBACK) -> subprocess.Popen[bytes]:
    """Start Rerun's program, listening on ``host``, by default for this machine only, and sending no usage data.

    ``own_session`` lets it outlive this process and ignore its Ctrl-C. Raises DependencyError if the rerun-sdk package
    is not installed.
    """
    command = [str(_program()), *arguments, "--bind", host]
    quiet = {"CI": "1", "RUST_LOG": "error"}
    return subprocess.Popen(command, env=os.environ | quiet, start_new_session=own_session, stdout=subprocess.DEVNULL)


def _program() -> Path:
    """The executable inside the rerun-sdk package; its ``rerun`` script would add a process in between."""
    package = importlib.util.find_spec("rerun_cli")
    if package is not None and package.origin is not None:
        for name in ("rerun", "rerun.exe", "Rerun.app/Contents/MacOS/Rerun"):
            path = Path(package.origin).parent / name
            if path.is_file():
                return path
    raise DependencyError("The Rerun viewer is not installed. Install it with: pip install rerun-sdk")


def serve(path: Path | None, host: str = LOOPBACK) -> tuple[subprocess.Popen[bytes], str, str]:
    """Serve the web viewer, with the recording ``path`` or with what will be logged.

    host: address of this machine to listen on. Returns the process that serves the data, the address to log to and the
    page's address; the page lives as long as this process, the server at most as long.
    Raises SettingsError if ``host`` is not an address of this machine, DependencyError if nothing starts.
    """
    data, files, page = (free_port(host) for _ in range(3))
    recording = [] if path is None else [str(path)]
    ports = ("--port", str(data), "--web-viewer-port", str(files), "--cors-allow-origin", f"http://{host}:{page}")
    server = start_rerun(*recording, "--serve-web", *ports, host=host)
    atexit.register(server.terminate)
    if not comes_up(server, data, host) or not comes_up(server, files, host):
        elsewhere = "" if path is None else f" Open {path} with 'rerun {path.name}' elsewhere."
        raise DependencyError(f"Rerun's web viewer did not start.{elsewhere}")
    serve_page(f"http://{host}:{files}", host, page)
    source = f"rerun+http://{host}:{data}/proxy"
    return server, source, f"http://{host}:{page}?url={quote(source, safe='')}"


def comes_up(process: subprocess.Popen[bytes], port: int, host: str = LOOPBACK) -> bool:
    """Wait until a started process listens on a port of this machine; end it if it does not in time."""
    give_up = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < give_up and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return True
        time.sleep(0.05)
    process.kill()
    return False


def free_port(host: str = LOOPBACK) -> int:
    """A free TCP port. Raises SettingsError if ``host`` is not an address of this machine."""
    if host in ("", "0.0.0.0", "::"):  # noqa: S104  the page must know the address of its data
        raise SettingsError("--web-host takes a single address of this machine, not a wildcard.")
    try:
        with socket.socket() as probe:
            probe.bind((host, 0))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise SettingsError(f"--web-host {host} is not an address of this machine ({error.strerror}).") from error


def _serve(path: Path) -> None:
    server, _, address = serve(path)
    print(f"Serving {path} at {address}\nPress Ctrl-C to stop.", flush=True)
    if _wait(server) != 0:
        raise DependencyError(f"Rerun's web viewer stopped. Open {path} with 'rerun {path.name}' on another machine.")


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Exit status of a process. Ctrl-C reaches it too and counts as success, as the user ended it."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        return 0
