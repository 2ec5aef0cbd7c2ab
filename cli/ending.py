"""How a user ends a live run: by q or Ctrl-C, which finish the map, or by Ctrl-C again, which interrupts that."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

LOOK_SECONDS = 0.2


@contextmanager
def ended_by_user(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at the first Ctrl-C, or at q where a terminal is read; a second Ctrl-C is a KeyboardInterrupt."""

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.default_int_handler)
        stop()

    before = signal.signal(signal.SIGINT, first)
    done = threading.Event()
    try:
        with _single_keys() as keys:
            if keys:
                threading.Thread(target=_wait_for_q, args=(stop, done), daemon=True).start()
            yield
    finally:
        done.set()
        signal.signal(signal.SIGINT, before)


@contextmanager
def _single_keys() -> Iterator[bool]:
    """Let the terminal hand over every key at once; yields False where there is none."""
    if not sys.stdin.isatty():
        yield False
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield True
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _wait_for_q(stop: Callable[[], None], done: threading.Event) -> None:
    with suppress(OSError, ValueError):  # the terminal was closed
        while not done.is_set():
            ready, _, _ = select.select([sys.stdin], [], [], LOOK_SECONDS)
            if ready and os.read(sys.stdin.fileno(), 1).lower() == b"q":
                stop()
                return
