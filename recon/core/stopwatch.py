"""Where a run spends its time: wall and processor seconds, visits and memory by stage."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

OTHER = "other"


@dataclass(frozen=True)
class StageTime:
    """What all visits to one stage took together, without the stages inside it.

    seconds: wall time. processor_seconds: of all threads of the process and of the child processes that have ended.
    peak_memory_bytes: the most resident memory that the process had held when the stage last ended. Stages of processes
    that work at the same time overlap, so that their wall times together may exceed that of the run.
    """

    name: str
    seconds: float
    processor_seconds: float = 0.0
    calls: int = 0
    peak_memory_bytes: int = 0


class Stopwatch:
    """Assigns all time since its creation to stages, each moment to the innermost open one."""

    def __init__(self) -> None:
        self._start = self._booked = _now()
        self._elsewhere = 0.0  # processor seconds
        self._stages: dict[str, StageTime] = {}
        self._open = [OTHER]

    @contextmanager
    def running(self) -> Iterator[Stopwatch]:
        """Make ``stage`` in this thread use this stopwatch."""
        token = _running.set(self)
        try:
            yield self
        finally:
            _running.reset(token)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Assign the time inside the ``with`` block to a stage, even if it ends with an exception."""
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()
            done = self._stages[name]
            self._stages[name] = replace(done, calls=done.calls + 1, peak_memory_bytes=peak_memory())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Book no wall time inside the ``with`` block, in which this process waits for what another one books."""
        self._book()
        try:
            yield
        finally:
            self._book(waited=True)

    def add(self, stages: Sequence[StageTime]) -> None:
        """Add what another process has booked; the rest of its time goes to the innermost open stage."""
        self._book()
        for found in stages:
            name = self._open[-1] if found.name == OTHER else found.name
            known = self._stages.get(name, StageTime(name, 0.0))
            self._stages[name] = StageTime(
                name,
                known.seconds + found.seconds,
                known.processor_seconds + found.processor_seconds,
                known.calls + found.calls,
                max(known.peak_memory_bytes, found.peak_memory_bytes),
            )
            self._elsewhere += found.processor_seconds

    @property
    def seconds(self) -> float:
        """Wall time since the stopwatch was created."""
        return _now()[0] - self._start[0]

    @property
    def processor_seconds(self) -> float:
        """Processor time since the stopwatch was created, with what was added from other processes."""
        return _now()[1] - self._start[1] + self._elsewhere

    @property
    def stages(self) -> tuple[StageTime, ...]:
        """All stages in the order in which they began; the last one, ``OTHER``, is the rest of the time."""
        self._book()
        named = [stage for name, stage in self._stages.items() if name != OTHER]
        return (*named, replace(self._stages[OTHER], peak_memory_bytes=peak_memory()))

    def _book(self, *, waited: bool = False) -> None:
        """Add the time since the last booking to the innermost open stage; its wall time only if it was not waiting."""
        now, name = _now(), self._open[-1]
        known = self._stages.get(name, StageTime(name, 0.0))
        wall, processor = (after - before for after, before in zip(now, self._booked, strict=True))
        self._stages[name] = replace(
            known, seconds=known.seconds + wall * (not waited), processor_seconds=known.processor_seconds + processor
        )
        self._booked = now


_counted: list[float] = []
_running: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Assign the time inside the ``with`` block to a stage of the run in this thread; does nothing without a run."""
    watch = _running.get()
    if watch is None:
        yield
        return
    with watch.measure(name):
        yield


@contextmanager
def waiting() -> Iterator[None]:
    """See ``Stopwatch.waiting``, of the run in this thread; without a run, nothing."""
    watch = _running.get()
    if watch is None:
        yield
        return
    with watch.waiting():
        yield


def book(stages: Sequence[StageTime]) -> None:
    """Add what another process has booked to the stopwatch of the run in this thread."""
    if watch := _running.get():
        watch.add(stages)


def already_counted(processor_seconds: float) -> None:
    """Leave out of account this part of the time of a child process that has ended: it was added while it ran."""
    _counted.append(processor_seconds)


def peak_memory(process: int | None = None) -> int:
    """The most resident memory in bytes that a running process, by default this one, has held so far.

    If the system does not record the peak of other processes, what they hold now. 0 for one that has ended.
    """
    # Linux hands the peak of ``getrusage`` down from the parent, so a small program would seem as large as its caller.
    status = Path(f"/proc/{process or os.getpid()}/status")
    with suppress(OSError):  # not Linux, or it has ended
        rows = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(rows.get("VmHWM", "0 kB").split()[0]) * 1024
    if process is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    try:
        return int(psutil.Process(process).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _now() -> tuple[float, float]:
    """Wall and processor seconds from an arbitrary start."""
    times = os.times()
    return time.perf_counter(), time.process_time() + times.children_user + times.children_system - sum(_counted)
