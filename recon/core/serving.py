"""The main function of a worker process, and functions called inside it; see ``recon.core.workers``."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import pkgutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import IO, Any

from recon.core.colmap_log import FATAL, LEVEL
from recon.core.errors import ReconError
from recon.core.events import Event
from recon.core.failures import short
from recon.core.messages import receive, send
from recon.core.stopwatch import StageTime, Stopwatch, peak_memory

STOP = signal.SIGUSR1  # ends a worker; it cleans up unless it is inside a native call
DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Request:
    """function: "module:name", or a method name of the kept object ``of``. keep: number to keep the result under."""

    function: str
    arguments: tuple[Any, ...]
    named: Mapping[str, Any] = field(default_factory=dict)
    of: int = 0
    keep: int = 0


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result or error of a call, and its cost. processor_seconds: of the worker since its start."""

    result: Any
    error: Exception | None
    stages: tuple[StageTime, ...]
    processor_seconds: float
    peak_memory: int


def serve(descriptor: int, parent: int) -> None:
    """Answer the calls from a socket until it closes. parent: process id."""
    signal.signal(STOP, _interrupt)
    _die_with(parent)
    os.environ.setdefault(LEVEL, str(FATAL))
    kept: dict[int, Any] = {}
    with suppress(KeyboardInterrupt, ConnectionError):
        _channels.append(socket.socket(fileno=descriptor))
        while True:
            _answer(_channels[0], _outcome(receive(_channels[0]), kept))
    os._exit(0)


def tell(event: Event, /) -> None:
    """Send an event to the run's listener."""
    send(_channels[0], event)


def note_crashes(path: Path) -> None:
    """Append the stack to a file if this worker crashes."""
    with suppress(OSError):
        _crash_files.append(path.open("a", encoding="utf-8"))
        faulthandler.enable(_crash_files[-1])


_channels: list[socket.socket] = []  # one, to the calling process
_crash_files: list[IO[str]] = []


def _outcome(request: Request, kept: dict[int, Any]) -> Outcome:
    watch = Stopwatch()
    result: Any = None
    fault: Exception | None = None
    try:
        with watch.running():
            if request.of:
                function = getattr(kept[request.of], request.function)
            else:
                function = pkgutil.resolve_name(request.function)
            result = function(*request.arguments, **request.named)
    except ReconError as error:
        fault = error
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))
        fault = error
    if request.keep:
        kept[request.keep], result = result, None
    return Outcome(result, fault, watch.stages, time.process_time(), peak_memory())


def _answer(channel: socket.socket, outcome: Outcome) -> None:
    """Send an outcome; an error that cannot be pickled is replaced by a RuntimeError with the same text."""
    if outcome.error:
        try:
            pickle.loads(pickle.dumps(outcome.error))  # noqa: S301  our own
        except Exception:
            sendable = RuntimeError(short(outcome.error))
            sendable.__notes__ = getattr(outcome.error, "__notes__", [])
            outcome = replace(outcome, error=sendable)
    send(channel, outcome)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _die_with(parent: int) -> None:
    """Let Linux kill this process as soon as ``parent`` ends; on other systems it ends after its current call.

    Linux does so as soon as the thread that started the process ends; that is the thread of the run.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
