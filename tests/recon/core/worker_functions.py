"""What the tests of workers call in other processes."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from recon.core.errors import SourceError
from recon.core.events import Listener, Notice
from recon.core.similarity import Array
from recon.core.stopwatch import stage
from recon.core.workers import Workers


class Total:
    """Adds arrays up."""

    def __init__(self, start: Array) -> None:
        self.sum = start

    def add(self, array: Array) -> Array:
        self.sum += array
        return self.sum


class Odd(Exception):
    """An exception that pickle cannot restore."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def squared(array: Array, *, times: int = 1) -> Array:
    return array**2 * times


def fail(kind: str) -> None:
    raise {"recon": SourceError("no images in photos"), "value": ValueError("a bug"), "odd": Odd(1, 2)}[kind]


def say(words: list[str], tell: Listener) -> int:
    for word in words:
        tell(Notice(word))
    return os.getpid()


def use_processor(seconds: float) -> None:
    with stage("thinking"):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass


def die(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(30)


def hold_the_lock(seconds: int, started: Path | None = None) -> None:
    """A native call that does not let go of the interpreter's lock, so that no signal is heard."""
    if started:
        started.write_text(str(os.getpid()))
    ctypes.PyDLL(None).sleep(seconds)


def leave_a_part(path: Path) -> None:
    """Python that can be interrupted, with something to tidy up."""
    path.write_text("part")
    try:
        time.sleep(30)
    finally:
        path.unlink()


def signals_heard() -> list[bool]:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return [number not in blocked for number in (signal.SIGINT, signal.SIGTERM)]


class Unreadable:
    """Cannot be unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (int, ("no number",))


def main() -> None:
    """A program whose worker holds the lock, for a test that kills it."""
    workers = Workers(1)
    workers.call("geometry", "tests.recon.core.worker_functions:squared", np.ones(2))
    workers.call("geometry", "tests.recon.core.worker_functions:hold_the_lock", 60, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
