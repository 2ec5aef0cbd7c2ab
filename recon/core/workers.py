"""Worker processes beside the main one, which reads frames, shows progress and handles Ctrl-C.

Workers run calls that hold Python's interpreter lock or cannot be interrupted, such as those of COLMAP and gtsam.
"""

from __future__ import annotations

import os
import pkgutil
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Literal

from recon.core.errors import SettingsError
from recon.core.events import Event, Listener
from recon.core.failures import WorkerDied
from recon.core.messages import receive, send
from recon.core.registry import extended
from recon.core.serving import STOP, Outcome, Request, tell
from recon.core.stopwatch import already_counted, book, waiting

Role = Literal["geometry", "loops", "local depth"]
VARIABLE, USUAL = "RECON_WORKERS", 1
STOPS_WITHIN = 1.0  # seconds before a worker is killed
NICE = 10  # of a worker in the background, above that of this process
UNHEARD = (signal.SIGINT, signal.SIGTERM)  # terminals and service managers send these to all processes of a run


class Call:
    """A pending or answered call of a worker."""

    def __init__(self, worker: _Worker) -> None:
        self._worker = worker
        self.outcome: Outcome | None = None

    def result(self) -> Any:
        """Wait for the result. Events go to the run's listener, stages to the stopwatch of this thread.

        Raises what the call raised, and WorkerDied.
        """
        while self.outcome is None:
            self._worker.read()
        book(self.outcome.stages)
        if self.outcome.error:
            raise self.outcome.error
        return self.outcome.result


class _Worker:
    """A process that answers calls in order."""

    def __init__(self, role: Role, hear: Listener, *, background: bool) -> None:
        self._role, self._hear = role, hear
        self._unanswered: deque[Call] = deque()
        self._kept = 0
        self._counted = 0.0  # processor seconds
        self.peak_memory = 0
        self._channel, theirs = socket.socketpair()
        with theirs, _blocked_signals():
            begin = f"import sys; sys.path[:] = {sys.path!r}; from recon.core.serving import serve; "
            command = [sys.executable, "-c", f"{begin}serve({theirs.fileno()}, {os.getpid()})"]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        if background:
            os.setpriority(os.PRIO_PROCESS, self._process.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICE)

    @property
    def alive(self) -> bool:
        return self._process.returncode is None and self._process.poll() is None

    @property
    def idle(self) -> bool:
        return self.alive and not self._unanswered

    def submit(self, request: Request) -> Call:
        if not self.alive:
            raise self._died()
        call = Call(self)
        self._unanswered.append(call)
        try:
            send(self._channel, request)
        except ConnectionError as error:
            raise self._died() from error
        return call

    def keep(self, function: str, arguments: tuple[Any, ...]) -> int:
        """Make a call whose result the worker keeps; returns the result's number."""
        self._kept += 1
        self.submit(Request(function, arguments, keep=self._kept)).result()
        return self._kept

    def read(self) -> None:
        """Wait for the next message. Raises WorkerDied."""
        try:
            with waiting():
                message = receive(self._channel)
        except ConnectionError as error:
            raise self._died() from error
        except Exception:  # the message may have been an answer: nobody would know whose
            self.close()
            raise
        if not isinstance(message, Outcome):
            self._hear(message)
            return
        self._unanswered.popleft().outcome = message
        self._counted, self.peak_memory = message.processor_seconds, message.peak_memory

    def close(self) -> None:
        """End the process and any call in progress."""
        if self._process.returncode is None:
            if self._unanswered:
                self._process.send_signal(STOP)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOPS_WITHIN)
            self._process.kill()
            self._reap()
        self._channel.close()

    def _died(self) -> WorkerDied:
        self._reap()
        self._channel.close()
        return WorkerDied(self._role, max(0, -self._process.returncode))

    def _reap(self) -> None:
        self._process.wait()
        already_counted(self._counted)
        self._counted = 0.0


class Kept:
    """An object kept by a worker, or by this process."""

    def __init__(self, worker: _Worker | None, kept: Any) -> None:
        self._worker, self._kept = worker, kept

    @property
    def idle(self) -> bool:
        """Whether a call would start at once."""
        return self._worker is None or self._worker.idle

    def submit(self, method: str, *arguments: Any) -> Call:
        """Start a method call in the worker."""
        assert self._worker is not None
        return self._worker.submit(Request(method, arguments, of=self._kept))

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method. Raises what the method raises, and WorkerDied."""
        if self._worker is None:
            return getattr(self._kept, method)(*arguments)
        return self.submit(method, *arguments).result()


class Workers:
    """The worker processes of a run, each started when first needed.

    count: 0 runs everything in this process, as does a program that has added its own choices to a registry. listener:
    gets the events of the workers. Functions are named as "module:name", so this process need not import them.
    background: whether workers that start from now on let this process go first, as a capture must not wait.
    """

    def __init__(self, count: int = 0, *, background: bool = False) -> None:
        self.background = background
        self._count = count
        self._workers: dict[Role, _Worker] = {}
        self._peaks: dict[Role, int] = {}
        self.listener: Listener | None = None

    @property
    def separate(self) -> bool:
        """Whether calls run in other processes."""
        return self._count > 0 and not extended()

    @property
    def tell(self) -> Listener:
        """The listener to pass to a function."""
        return tell if self.separate else self._hear

    @property
    def peak_memory(self) -> int:
        """Peak resident memory [bytes] of the workers: the sum of their maxima."""
        for role, worker in self._workers.items():
            self._note_peak(role, worker)
        return sum(self._peaks.values())

    def call(self, role: Role, function: str, *arguments: Any, **named: Any) -> Any:
        """Call a function and return its result. Raises what the function raises, and WorkerDied."""
        if not self.separate:
            return pkgutil.resolve_name(function)(*arguments, **named)
        return self._worker(role).submit(Request(function, arguments, named)).result()

    def keep(self, role: Role, function: str, *arguments: Any) -> Kept:
        """Call a function and keep its result in the process that ran it. Raises like ``call``."""
        if not self.separate:
            return Kept(None, pkgutil.resolve_name(function)(*arguments))
        worker = self._worker(role)
        return Kept(worker, worker.keep(function, arguments))

    def end(self, role: Role) -> None:
        """End a worker and any call in progress; the next call starts a new worker."""
        if worker := self._workers.get(role):
            self._note_peak(role, worker)
            worker.close()
            del self._workers[role]  # only now: another Ctrl-C may have interrupted the close

    def close(self) -> None:
        """End all workers."""
        for role in tuple(self._workers):
            self.end(role)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _worker(self, role: Role) -> _Worker:
        if role in self._workers and not self._workers[role].alive:
            self.end(role)
        if role not in self._workers:
            self._workers[role] = _Worker(role, self._hear, background=self.background)
        return self._workers[role]

    def _note_peak(self, role: Role, worker: _Worker) -> None:
        self._peaks[role] = max(self._peaks.get(role, 0), worker.peak_memory)

    def _hear(self, event: Event, /) -> None:
        if self.listener:
            self.listener(event)


def workers_of_environment() -> Workers:
    """As many workers as RECON_WORKERS says. Raises SettingsError if that is not a number of 0 or more."""
    text = os.environ.get(VARIABLE, str(USUAL))
    if not text.isdecimal():
        raise SettingsError(f"{VARIABLE} is a number of processes, 0 or more; got {text!r}. Correct it or unset it.")
    return Workers(int(text))


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block the signals that end a run: a process started inside never gets them; this one gets them afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, UNHEARD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
