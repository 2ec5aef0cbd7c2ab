"""Processes beside the one that reads, shows and hears Ctrl-C.

They run what holds Python's interpreter lock or cannot be interrupted, as calls of COLMAP and gtsam do. A message is a
pickle in anonymous shared memory, whose descriptor goes through a socket. So the receiver maps large arrays instead of
copying them, no sender waits for its receiver, and nothing is left behind however a process ends.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import pickle
import pkgutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Literal

from recon.core.colmap_log import FATAL, LEVEL
from recon.core.errors import SettingsError
from recon.core.events import Event, Listener
from recon.core.failures import WorkerDied, short
from recon.core.registry import extended
from recon.core.stopwatch import StageTime, Stopwatch, already_counted, book, peak_memory, waiting

Role = Literal["geometry", "loops"]
VARIABLE, USUAL = "RECON_WORKERS", 1
HEADER = struct.Struct("=QQQ")  # end of the arrays, of their table, and of the pickle
PLACE = struct.Struct("=QQ")  # start and length of an array
ALIGNED = 64  # bytes
SMALL = 1 << 14  # bytes, up to which an array is part of the pickle
UNHEARD = (signal.SIGINT, signal.SIGTERM)  # which a terminal or service manager sends to all processes of a run
STOP, STOPS_WITHIN = signal.SIGUSR1, 1.0  # seconds, in which a process may tidy up before it is killed
DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class _Request:
    """function: "module:name", or the name of a method of the object kept as ``of``. keep: keep the result as this."""

    function: str
    arguments: tuple[Any, ...]
    named: Mapping[str, Any] = field(default_factory=dict)
    of: int | None = None
    keep: int | None = None


@dataclass(frozen=True, eq=False)
class _Outcome:
    """The result of a call or its error, and what it took. processor_seconds: of the process since it began."""

    result: Any
    error: Exception | None
    stages: tuple[StageTime, ...]
    processor_seconds: float
    peak_memory: int


class Call:
    """A call that another process works on, or has yet to begin."""

    def __init__(self, process: _Process) -> None:
        self._process = process
        self.outcome: _Outcome | None = None

    def result(self) -> Any:
        """Wait for the result. Events go to the run's listener, stages to the stopwatch of this thread.

        Raises what the call raised, and WorkerDied.
        """
        while self.outcome is None:
            self._process.read()
        book(self.outcome.stages)
        if self.outcome.error:
            raise self.outcome.error
        return self.outcome.result


class _Process:
    """A process that runs calls in the order in which they come."""

    def __init__(self, role: Role, hear: Listener) -> None:
        self.role, self._hear = role, hear
        self._unanswered: deque[Call] = deque()
        self._kept = 0
        self._counted = 0.0  # processor seconds
        self.peak_memory = 0
        self._channel, theirs = socket.socketpair()
        with theirs, _blocked_signals():
            begin = f"import sys; sys.path[:] = {sys.path!r}; from recon.core.workers import serve; "
            command = [sys.executable, "-c", f"{begin}serve({theirs.fileno()}, {os.getpid()})"]
            self._popen = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    @property
    def alive(self) -> bool:
        return self._popen.returncode is None and self._popen.poll() is None

    @property
    def idle(self) -> bool:
        return self.alive and not self._unanswered

    def submit(self, request: _Request) -> Call:
        call = Call(self)
        try:
            _send(self._channel, request)
        except ConnectionError as error:
            raise self._died() from error
        self._unanswered.append(call)
        return call

    def keep(self, function: str, arguments: tuple[Any, ...]) -> int:
        """The number under which the process keeps the result of a call."""
        self._kept += 1
        self.submit(_Request(function, arguments, keep=self._kept)).result()
        return self._kept

    def read(self) -> None:
        """Wait for the next message. Raises WorkerDied."""
        try:
            with waiting():
                message = _receive(self._channel)
        except ConnectionError as error:
            raise self._died() from error
        if message is None:
            raise self._died()
        if not isinstance(message, _Outcome):
            self._hear(message)
            return
        self._unanswered.popleft().outcome = message
        self._counted, self.peak_memory = message.processor_seconds, message.peak_memory

    def close(self) -> None:
        """End the process; a call that it works on is broken off."""
        if self._popen.returncode is None:
            if self._unanswered:
                self._popen.send_signal(STOP)
                with suppress(subprocess.TimeoutExpired):
                    self._popen.wait(STOPS_WITHIN)
            self._popen.kill()
            self._reap()
        self._channel.close()

    def _died(self) -> WorkerDied:
        number = self._reap()
        self._channel.close()
        return WorkerDied(self.role, -number if number < 0 else 0)

    def _reap(self) -> int:
        known = self._popen.returncode is not None
        number = self._popen.wait()
        if not known:
            already_counted(self._counted)
        return number


class Kept:
    """An object that another process keeps, or this one."""

    def __init__(self, process: _Process | None, kept: Any) -> None:
        self._process, self._kept = process, kept

    @property
    def idle(self) -> bool:
        """Whether it would begin a call at once."""
        return self._process is None or self._process.idle

    def submit(self, method: str, *arguments: Any) -> Call:
        """Begin to call a method in the other process."""
        assert self._process is not None
        return self._process.submit(_Request(method, arguments, of=self._kept))

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method. Raises what it raises, and WorkerDied."""
        if self._process is None:
            return getattr(self._kept, method)(*arguments)
        return self.submit(method, *arguments).result()


class Workers:
    """The processes of a run beside its own, each of which starts when it is first needed.

    count: most of them at work at a time. With none, or in a program that has added choices of its own to a registry,
    everything runs in this process. Functions are given as "module:name", so that this process need not import them.
    """

    def __init__(self, count: int = 0) -> None:
        self._count = count
        self.listener: Listener | None = None
        self._processes: dict[Role, _Process] = {}
        self._peaks: dict[Role, int] = {}

    @property
    def separate(self) -> bool:
        """Whether calls run in other processes."""
        return self._count > 0 and not extended()

    @property
    def peak_memory(self) -> int:
        """The most resident memory [bytes] that the processes have held, as a sum of each one's maximum."""
        for role, process in self._processes.items():
            self._peaks[role] = max(self._peaks.get(role, 0), process.peak_memory)
        return sum(self._peaks.values())

    @property
    def tell(self) -> Listener:
        """What to give a function for its events, which go to the ``listener``."""
        return tell if self.separate else self._hear

    def call(self, role: Role, function: str, *arguments: Any, **named: Any) -> Any:
        """The result of a function. Raises what the function raises, and WorkerDied."""
        if not self.separate:
            return pkgutil.resolve_name(function)(*arguments, **named)
        return self._process(role).submit(_Request(function, arguments, named)).result()

    def keep(self, role: Role, function: str, *arguments: Any) -> Kept:
        """The result of a function, kept where the function runs. Raises as ``call``."""
        if not self.separate:
            return Kept(None, pkgutil.resolve_name(function)(*arguments))
        process = self._process(role)
        return Kept(process, process.keep(function, arguments))

    def end(self, role: Role) -> None:
        """End a process and what it works on; the next call starts another one."""
        if process := self._processes.get(role):
            self._peaks[role] = max(self._peaks.get(role, 0), process.peak_memory)
            del self._processes[role]
            process.close()

    def close(self) -> None:
        """End all processes."""
        for role in tuple(self._processes):
            self.end(role)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _process(self, role: Role) -> _Process:
        if role in self._processes and not self._processes[role].alive:
            self.end(role)
        if role not in self._processes:
            self._processes[role] = _Process(role, self._hear)
        return self._processes[role]

    def _hear(self, event: Event, /) -> None:
        if self.listener:
            self.listener(event)


def workers_of_environment() -> Workers:
    """As many as RECON_WORKERS says. Raises SettingsError unless it is a number from 0."""
    text = os.environ.get(VARIABLE, str(USUAL))
    if not text.isdecimal():
        raise SettingsError(f"{VARIABLE} is the number of processes beside this one; got {text!r}. Unset it.")
    return Workers(int(text))


def tell(event: Event, /) -> None:
    """In a worker: send an event to the listener of its run."""
    _send(_serving[-1], event)


def note_crashes(path: Path) -> None:
    """In a worker: write the stack of a crash to the end of this file."""
    with suppress(OSError):
        _serving_files.append(path.open("a", encoding="utf-8"))
        faulthandler.enable(_serving_files[-1])


_serving: list[socket.socket] = []  # the channel of a worker, in its own process
_serving_files: list[IO[str]] = []


def serve(descriptor: int, parent: int) -> None:
    """Answer the calls that come through a socket until it closes; the worker's main function."""
    signal.signal(STOP, _interrupt)
    _die_with(parent)
    os.environ.setdefault(LEVEL, str(FATAL))
    kept: dict[int, Any] = {}
    with socket.socket(fileno=descriptor) as channel, suppress(KeyboardInterrupt, ConnectionError):
        _serving.append(channel)
        while (request := _receive(channel)) is not None:
            _send_outcome(channel, _answer(request, kept))
    os._exit(0)


def _answer(request: _Request, kept: dict[int, Any]) -> _Outcome:
    watch = Stopwatch()
    result, fault = None, None
    try:
        with watch.running():
            found = kept[request.of] if request.of else None
            function = getattr(found, request.function) if request.of else pkgutil.resolve_name(request.function)
            result = function(*request.arguments, **request.named)
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))
        fault = error
    if request.keep:
        kept[request.keep], result = result, None
    return _Outcome(result, fault, watch.stages, time.process_time(), peak_memory())


def _send_outcome(channel: socket.socket, outcome: _Outcome) -> None:
    try:
        if outcome.error:
            pickle.loads(pickle.dumps(outcome.error))  # noqa: S301  our own; not every exception allows it
        _send(channel, outcome)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        told = RuntimeError(short(outcome.error or error))
        told.__notes__ = getattr(outcome.error or error, "__notes__", [])
        _send(channel, _Outcome(None, told, outcome.stages, outcome.processor_seconds, outcome.peak_memory))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _die_with(parent: int) -> None:
    """Let the system kill this process as soon as ``parent`` ends; without Linux, it ends after its present call."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """A process that starts meanwhile never hears the signals that end a run; this one hears them afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, UNHEARD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send(channel: socket.socket, message: Any) -> None:
    """Send one message. Raises ConnectionError if the other process has ended."""
    large: list[memoryview] = []
    content = pickle.dumps(message, 5, buffer_callback=_larger(large))
    with _shared_file() as file:
        places = [_append(file, array) for array in large]
        ends = [file.tell()]
        for part in (b"".join(PLACE.pack(*place) for place in places), content):
            file.write(part)
            ends.append(file.tell())
        file.flush()
        socket.send_fds(channel, [HEADER.pack(*ends)], [file.fileno()])


def _larger(large: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    """What pickle asks for every array: whether it belongs into the pickle. The others are added to the list."""

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        content = buffer.raw()
        if content.nbytes > SMALL:
            large.append(content)
        return content.nbytes <= SMALL

    return is_small


def _append(file: IO[bytes], array: memoryview) -> tuple[int, int]:
    start = file.seek(-(-file.tell() // ALIGNED) * ALIGNED)
    file.write(array)
    return start, array.nbytes


def _shared_file() -> IO[bytes]:
    """A file in memory without a name."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("recon"), "wb")  # noqa: PTH123  a descriptor
    return tempfile.TemporaryFile()


def _receive(channel: socket.socket) -> Any:
    """The next message; None if the other process has ended. Arrays in it may be written to."""
    header, descriptors, *_ = socket.recv_fds(channel, HEADER.size, 1)
    if not header:
        return None
    arrays, table, end = HEADER.unpack(header)
    with open(descriptors[0], "rb") as file:  # noqa: PTH123  a descriptor
        content = memoryview(mmap.mmap(file.fileno(), end, access=mmap.ACCESS_COPY))
    places: Sequence[tuple[int, int]] = list(PLACE.iter_unpack(content[arrays:table]))
    buffers = [content[start : start + length] for start, length in places]
    return pickle.loads(content[table:end], buffers=buffers)  # noqa: S301  from a process of the same run
